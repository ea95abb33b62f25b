"""Simulation fields [P, T, N] (P samples, T time steps, N mesh nodes): settings, split, datasets.

Fields are in one .npy file that is read through a memory map, since they may be larger than
memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.cache import cached_by
from data.fields.outlines import field, random_outline
from data.split import random_split, take_test
from settings.schema import Settings, SettingsError, setting

_FORMAT = 1

_BLOCK_VALUES = 1 << 24
"""Values that are read at a time when the range of a file is computed."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Where the fields come from. Without a file: heat that leaves random outlines."""

    fields: str = setting("", "a .npy file [samples, time steps, nodes]; empty for embedded ones")
    train_indices: str = setting(
        "", "a .npy file of the samples to train on; empty draws validation_share at random"
    )
    validation_share: float = setting(0.2, "of the samples", low=0.01, high=0.9)
    test_share: float = setting(
        0.0, "of the samples, taken out of those to train on, for a test", low=0.0, high=0.9
    )
    split_seed: int = setting(0, "of the random split", low=0)
    count: int = setting(
        1200, "embedded samples for training and validation", low=4, high=1_000_000
    )
    test_count: int = setting(
        80, "embedded samples for a test, in addition to data.count", low=0, high=1_000_000
    )
    length: int = setting(32, "time steps of an embedded field", low=4, high=4096)
    probes_per_side: int = setting(
        8, "of an embedded field, on a square grid; its nodes are the square", low=2, high=64
    )
    seed: int = setting(0, "of the embedded fields", low=0)

    def check(self) -> None:
        if self.train_indices and not self.fields:
            raise SettingsError(
                f"data.train_indices={self.train_indices} belongs to a file of fields: set "
                "data.fields, or leave it out."
            )


@dataclass(frozen=True)
class Fields:
    """A file of fields and its split; small and picklable.

    Attributes:
        shape: (P, T, N).
        low, high: smallest and largest value of the training fields.
    """

    path: str
    shape: tuple[int, int, int]
    train: tuple[int, ...]
    validation: tuple[int, ...]
    low: float
    high: float
    test: tuple[int, ...] = ()

    @property
    def notes(self) -> dict[str, float]:
        sizes = {
            "training fields": float(len(self.train)),
            "validation fields": float(len(self.validation)),
        }
        return {**sizes, "test fields": float(len(self.test))} if self.test else sizes


def prepare(settings: DataSettings, cache: Path) -> Fields:
    """The fields of the settings; embedded ones are made once and kept in the cache."""
    if settings.fields:
        path = Path(settings.fields).expanduser()
        count = open_fields(path).shape[0]
        train = (
            _read_indices(Path(settings.train_indices).expanduser(), count)
            if settings.train_indices
            else _draw_train(path, count, settings)
        )
    else:
        path = _embedded(settings, cache)
        count, train = settings.count, _draw_train(path, settings.count, settings)
    rest, test = take_test(str(path), train, count, settings.test_share, settings.split_seed)
    fields = split_fields(path, rest)
    test = np.concatenate([test, np.arange(count, fields.shape[0])])
    others = np.setdiff1d(np.array(fields.validation), test)
    return dataclasses.replace(
        fields, validation=tuple(others.tolist()), test=tuple(test.tolist())
    )


def open_fields(path: Path) -> np.ndarray:
    """The memory-mapped fields.

    Raises:
        ValueError: not a .npy file of three axes of floating-point numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of fields.")
    try:
        fields = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as .npy ({error}). Save it with numpy.save."
        ) from None
    if fields.ndim != 3 or fields.dtype.kind != "f" or min(fields.shape) < 1:
        raise ValueError(
            f"{path}: expected floating-point fields [samples, time steps, nodes], found "
            f"{fields.dtype} {list(fields.shape)}. Convert them before they are saved."
        )
    return fields


def split_fields(path: Path, train: np.ndarray) -> Fields:
    """The file with its training samples; the others are for validation.

    Raises:
        ValueError: an index outside the file, or one split has no sample, or training values that
            are not finite.
    """
    fields = open_fields(path)
    chosen = np.unique(np.asarray(train, dtype=np.int64))
    if not chosen.size or chosen[0] < 0 or chosen[-1] >= len(fields):
        ends = f"{chosen[0]} .. {chosen[-1]}" if chosen.size else "none"
        raise ValueError(
            f"{path} has samples 0 .. {len(fields) - 1}, and the training indices are {ends}."
        )
    rest = np.setdiff1d(np.arange(len(fields)), chosen)
    if not rest.size:
        raise ValueError(
            f"{path}: all {len(fields)} samples are for training, none is left for validation. "
            "Leave some out of the training indices."
        )
    low, high = _range(path, fields, chosen)
    length, nodes = (int(size) for size in fields.shape[1:])
    shape = (len(fields), length, nodes)
    return Fields(str(path), shape, tuple(chosen.tolist()), tuple(rest.tolist()), low, high)


def _range(path: Path, fields: np.ndarray, indices: np.ndarray) -> tuple[float, float]:
    block = _block_size(fields)
    low, high = np.inf, -np.inf
    for start in range(0, len(indices), block):
        block_indices = indices[start : start + block]
        values = fields[block_indices]
        bad = block_indices[~np.isfinite(values).all(axis=(1, 2))]
        if bad.size:
            raise ValueError(
                f"{path}: fields {', '.join(map(str, bad[:5]))} hold NaN or infinity. Mend them, "
                "or leave them out."
            )
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _read_indices(path: Path, count: int) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of training indices.")
    indices = np.load(path, allow_pickle=False)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected whole numbers along one axis, each below {count}, found "
            f"{indices.dtype} {list(indices.shape)}."
        )
    return indices


def _draw_train(path: Path, count: int, settings: DataSettings) -> np.ndarray:
    if count < 2:
        raise ValueError(f"{path}: expected samples for training and validation, found {count}.")
    return random_split(count, settings.validation_share, settings.split_seed)[0]


def _embedded(settings: DataSettings, cache: Path) -> Path:
    count = settings.count + settings.test_count
    shape = [count, settings.length, settings.probes_per_side, settings.seed]

    def make(scratch: Path) -> str:
        fields = [
            field(
                random_outline(np.random.default_rng((settings.seed, number))),
                settings.length,
                settings.probes_per_side,
            )
            for number in range(count)
        ]
        np.save(scratch / "fields.npy", np.stack(fields).astype(np.float32))
        return "fields.npy"

    folder, name = cached_by(cache, "fields", (_FORMAT, shape), make)
    return folder / name


def blocks_of(fields: Fields) -> Iterator[Tensor]:
    """The training fields in order, [b, T, N] float32, some at a time."""
    values = open_fields(Path(fields.path))
    chosen = np.array(fields.train)
    size = _block_size(values)
    for start in range(0, len(chosen), size):
        rows = values[chosen[start : start + size]]
        yield torch.from_numpy(rows.astype(np.float32))


def _block_size(fields: np.ndarray) -> int:
    return max(1, _BLOCK_VALUES // int(np.prod(fields.shape[1:])))


class FieldData(Dataset):
    """`field` [T, N] of the chosen samples.

    In training (a key with a seed) also the unit-normal numbers that the latents are sampled with,
    `noise_main` [M] and `noise_hier` [K, h, T]: drawn from the sample's seed, they are the same
    however a step is cut into workers.
    """

    def __init__(
        self,
        fields: Fields,
        indices: tuple[int, ...],
        main_size: int,
        hier_shape: tuple[int, int],
    ) -> None:
        self.path, self.indices = Path(fields.path), indices
        self.main_size, self.hier_values = main_size, (*hier_shape, fields.shape[1])
        self.fields = open_fields(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "fields": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.fields = open_fields(self.path)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        values = np.array(self.fields[self.indices[index]], dtype=np.float32)
        sample = {"field": torch.from_numpy(values)}
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            sample["noise_main"] = torch.randn(self.main_size, generator=generator)
            sample["noise_hier"] = torch.randn(self.hier_values, generator=generator)
        return sample
