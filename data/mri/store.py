"""The samples of brain MRI on disk: written once, memory-mapped by every trial of a node.

A folder for each split:

    image.npy           uint8 [N, C, *S], value / 255; absent where the mask is the image
    mask.npy            uint8 [K, 1, *S] of 0 and 1, of the K samples that have a lesion
    region.npy, lesion.npy
                        uint8 [K, 1, *S], size class and number; not of the training split, whose
                        lesions are measured after augmentation
    affine.npy          float64 [N, 4, 4], index -> mm, see `data.mri.volumes.Cut`
    table.npz           of each sample: row of its mask or -1, modality, spacing in mm, patient,
                        slice, and which slices of it are inside the file

Bytes: rounding to 1/255 is an error of 59 dB, where the best autoencoder of the source reaches 41.
They take half the memory of float16 and are read no slower (`python -m benchmarks.mri_loading`).
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.array_file import ArrayWriter
from data.files import Float64
from data.mri.augment import AugmentSettings, augment
from data.mri.lesions import Lesions, lesions_of
from data.mri.volumes import Cut

Sample = dict[str, Tensor]

_LEVELS = 255  # of a byte

_MAPS = ("mask", "region", "lesion")


class SplitWriter:
    """Writes the samples of one split; see the module for its files."""

    def __init__(
        self, folder: Path, channels: int, space: tuple[int, ...], *, image: bool, maps: bool
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._stack = ExitStack()
        shapes = {"image": (channels, *space)} if image else {}
        shapes |= dict.fromkeys(_MAPS if maps else _MAPS[:1], (1, *space))
        self._files = {
            name: self._stack.enter_context(ArrayWriter(folder / f"{name}.npy", shape, np.uint8))
            for name, shape in shapes.items()
        }
        self._rows: list[tuple[int, int, int, int]] = []
        self._spacing: list[tuple[float, ...]] = []
        self._inside: list[tuple[int, int]] = []
        self._affine = self._stack.enter_context(
            ArrayWriter(folder / "affine.npy", (4, 4), np.float64)
        )
        self._axes = len(space)

    @property
    def count(self) -> int:
        return len(self._rows)

    def append(self, cut: Cut, patient: int, lesions: Lesions) -> None:
        row = self._files["mask"].count if cut.mask.any() else -1
        self._rows.append((row, cut.modality, patient, cut.slice))
        self._spacing.append(cut.spacing)
        self._inside.append(cut.inside)
        self._affine.append(cut.affine[None])
        if cut.image is not None:
            self._files["image"].append(np.rint(cut.image * _LEVELS).astype(np.uint8)[None])
        if row >= 0:
            maps = {"mask": cut.mask, "region": lesions.region, "lesion": lesions.number}
            for name in self._files.keys() & maps.keys():
                self._files[name].append(maps[name][None, None].astype(np.uint8))

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        rows = np.array(self._rows, np.int64).reshape(-1, 4)
        columns = dict(zip(("mask", "modality", "patient", "slice"), rows.T, strict=True))
        spacing = np.array(self._spacing, np.float32).reshape(-1, self._axes)
        inside = np.array(self._inside, np.int16).reshape(-1, 2)
        np.savez(self._folder / "table.npz", spacing=spacing, inside=inside, **columns)


class MriSamples(Dataset[Sample]):
    """The stored samples of one split; a copy in another process maps the files anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with np.load(folder / "table.npz", allow_pickle=False) as table:
            self.table = {name: table[name] for name in table.files}
        self.count = len(self.table["mask"])
        self._arrays: dict[str, NDArray[Any] | None] = {}

    def read(self, index: int) -> Sample:
        """A sample as it is stored, without its maps."""
        if not 0 <= index < self.count:
            raise IndexError(f"{self.folder.name} has samples 0 .. {self.count - 1}, not {index}")
        mask = self.lesion_map("mask", index, np.float32)
        images = self._array("image")
        if images is None:
            image = mask.clone()
        else:  # in numpy: torch takes twice as long to convert bytes
            pixels = images[index].astype(np.float32)
            pixels /= _LEVELS
            image = torch.from_numpy(pixels)
        return {
            "image": image,
            "mask": mask,
            "modality": torch.tensor(int(self.table["modality"][index])),
            "spacing": torch.from_numpy(self.table["spacing"][index].copy()),
        }

    def affine(self, index: int) -> Float64:
        """[4, 4], from an index of a sample to mm; see `data.mri.volumes.Cut`."""
        stored = self._array("affine")
        if stored is None:
            raise ValueError(f"{self.folder}: expected affine.npy, found no such file")
        return stored[index]

    def lesion_map(self, name: str, index: int, dtype: type[np.generic] = np.uint8) -> Tensor:
        """`mask`, `region` or `lesion` of a sample [1, *S]."""
        stored = self._array(name)
        if stored is None:
            raise ValueError(f"{self.folder}: the training split has no stored map {name!r}")
        row = int(self.table["mask"][index])
        if row < 0:
            return torch.from_numpy(np.zeros(stored.shape[1:], dtype))
        return torch.from_numpy(stored[row].astype(dtype))

    def _array(self, name: str) -> NDArray[Any] | None:
        if name not in self._arrays:
            path = self.folder / f"{name}.npy"
            stored = np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None
            # A plain array, because slicing a memmap costs as much as reading a small slice.
            self._arrays[name] = None if stored is None else np.asarray(stored)
        return self._arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}


class TrainSamples(MriSamples):
    """`samples[(index, seed)]`: all that is random about a sample comes from the seed, which goes
    along as `seed` for what is drawn on whole batches.
    """

    def __init__(self, folder: Path, augment: AugmentSettings | None, least: int | None) -> None:
        """
        Args:
            augment: None leaves the samples as they are.
            least: with `region` and `lesion`, measured after augmentation on components of at
                least that many pixels; None leaves both out.
        """
        super().__init__(folder)
        self.augment, self.least = augment, least

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        index, seed = at
        sample = self.read(index)
        if self.augment is not None:
            sample = augment(sample, self.augment, torch.Generator().manual_seed(seed))
        if self.least is not None:
            mask, spacing = sample["mask"][0].numpy(), sample["spacing"].tolist()
            lesions = lesions_of(mask, spacing, self.least)
            sample["region"] = torch.from_numpy(lesions.region)[None]
            sample["lesion"] = torch.from_numpy(lesions.number)[None]
        return {**sample, "seed": torch.tensor(seed)}


class FixedSamples(MriSamples):
    """`samples[index]` with its maps: an evenly spaced subset of at most `most` samples, all if it
    is 0.
    """

    def __init__(self, folder: Path, most: int) -> None:
        super().__init__(folder)
        size = min(most, self.count) if most else self.count
        self.chosen = np.linspace(0, self.count - 1, size).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Sample:
        at = self.chosen[index]
        maps = {name: self.lesion_map(name, at) for name in ("region", "lesion")}
        return {**self.read(at), **maps}
