"""The samples of a conditioner's trial: whole batches at once, on the GPU where they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from data.fields.augment import FIXED_VIEW, AugmentSettings, Draws, add_noise, blend, draw, warp
from data.fields.dataset import Arrays
from data.files import DataError, Float32

DEVICE_SHARE = 0.25
"""The share of the GPU's free memory that the samples of one split may take: the rest is for the
model, and for the other trials on a shared GPU.
"""

SPLITS = ("train", "validation", "test")

Key = int | tuple[int, int]


@dataclass
class _Store:
    """What one process holds of a split; `images` [n, 1, S, S] of bytes, a memory map of all P
    where they are not on the device.
    """

    device: torch.device
    images: Tensor | NDArray[np.uint8]
    main: Tensor
    hier: Tensor
    fields: Float32 | None


class ConditionerData(Dataset[dict[str, Tensor]]):
    """Samples of one split.

    `data[index, seed]` of `train` is augmented by the seed; `data[index]` never is. A list of keys
    makes a whole batch: with `collate` below torch's loader asks for that.

    Keys, float32: `image` [B, 1, S, S] in [0, 1]; `main` [B, M] and `hier` [B, K, h], mixed where
    the image is; `paired` [B, 1, S, S], another view of the same object, in training the image as
    it was, in validation and test one that is moved by `FIXED_VIEW` with the sample's number as
    seed; `paired_valid` [B], 1 where the views differ and the image is not mixed (000-M12: two
    equal views, or views of different objects, say nothing on consistency); in validation and
    test `field` [B, T, N] where there are fields.
    """

    def __init__(
        self,
        arrays: Arrays,
        latents: Path,
        split: str,
        augment: AugmentSettings,
        on_device: str = "auto",
    ) -> None:
        """`latents` is a folder with main.npy [P, M] and hier.npy [P, K, h], scaled."""
        if split not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}, not {split!r}")
        self.arrays, self.latents, self.split = arrays, latents, split
        self.augment, self.on_device = augment, on_device
        self.indices = arrays.indices(split)
        self._stores: dict[bool, _Store] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """A batch."""
        rows = np.array([key[0] if isinstance(key, tuple) else key for key in keys], np.int64)
        if len(outside := rows[(rows < 0) | (rows >= len(self))]):
            raise IndexError(f"{self.split} has samples 0 .. {len(self) - 1}, not {outside[0]}")
        if self.split != "train":
            return self._fixed(rows)
        seeds = [key[1] for key in keys if isinstance(key, tuple)]
        if not seeds:
            return self._batch(rows)
        if len(seeds) < len(keys):
            raise ValueError("a batch has a seed for every sample, or for none")
        return self._training(rows, seeds)

    def draws(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> Draws:
        """The changes of those samples; in validation and test of their other view, whatever the
        seeds.
        """
        if self.split != "train":
            places = self.indices[rows]
            return draw(FIXED_VIEW, places.tolist(), places.tolist(), len(self))
        return draw(self.augment, rows.tolist(), seeds, len(self))

    def _batch(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """The samples as they are."""
        at = torch.from_numpy(rows).to(self.store.device)
        image = self._images(rows)
        return {
            "image": image,
            "main": self.store.main[at],
            "hier": self.store.hier[at],
            "paired": image,
            "paired_valid": image.new_zeros(len(rows)),
        }

    def _training(self, rows: NDArray[np.int64], seeds: Sequence[int]) -> dict[str, Tensor]:
        draws = self.draws(rows, seeds)
        batch = self._batch(rows)
        batch["image"] = warp(batch["image"], draws)
        if draws.mixed.any():
            partners = self._batch(draws.partner[draws.mixed])
            for name in ("image", "main", "hier"):
                batch[name] = blend(batch[name], partners[name], draws)
        batch["image"] = add_noise(batch["image"], draws, self.augment.noise_sigma)
        return _with_validity(batch, draws)

    def _fixed(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = self._batch(rows)
        draws = self.draws(rows, ())
        batch["paired"] = warp(batch["image"], draws)
        if self.store.fields is not None:
            fields = np.asarray(self.store.fields[self.indices[rows]], np.float32)
            batch["field"] = torch.from_numpy(fields).to(self.store.device)
        return _with_validity(batch, draws)

    def _images(self, rows: NDArray[np.int64]) -> Tensor:
        stored = self.store.images
        if isinstance(stored, Tensor):
            images = stored[torch.from_numpy(rows).to(stored.device)]
        else:
            images = torch.from_numpy(stored[self.indices[rows]])  # a copy, read from the disk
        return images.to(torch.float32).div_(255.0)

    @property
    def store(self) -> _Store:
        """Opened on first use in each process. A loader's own processes never touch the GPU."""
        in_loader = get_worker_info() is not None
        if in_loader not in self._stores:
            self._stores[in_loader] = self._open(in_loader)
        return self._stores[in_loader]

    def _open(self, in_loader: bool) -> _Store:
        images = np.load(self.arrays.images_file, mmap_mode="r", allow_pickle=False)
        main, hier = (self._latents(name, axes, len(images)) for name, axes in _LATENTS.items())
        fields = None
        if self.split != "train" and self.arrays.fields:
            fields = np.load(self.arrays.fields, mmap_mode="r", allow_pickle=False)
        values = main.nbytes + hier.nbytes + len(self.indices) * images[0].nbytes
        if in_loader or self.on_device == "never" or not _fits(values):
            return _Store(torch.device("cpu"), images, main, hier, fields)
        device = torch.device("cuda", torch.cuda.current_device())
        chosen = torch.from_numpy(images[self.indices]).to(device)
        return _Store(device, chosen, main.to(device), hier.to(device), fields)

    def _latents(self, name: str, axes: int, count: int) -> Tensor:
        path = self.latents / f"{name}.npy"
        values = np.load(path, allow_pickle=False)
        if values.ndim != axes or len(values) != count:
            raise DataError(
                f"{path}: expected {axes} axes and the latents of {count} samples, found shape "
                f"{list(values.shape)}."
            )
        return torch.from_numpy(values[self.indices].astype(np.float32))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stores": {}}


_LATENTS: Mapping[str, int] = {"main": 2, "hier": 3}


def _fits(size_bytes: int) -> bool:
    """Whether there is a GPU with room for that."""
    if not torch.cuda.is_available():
        return False
    free, _ = torch.cuda.mem_get_info()
    return size_bytes <= DEVICE_SHARE * free


def _with_validity(batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
    """Compares the views themselves where anything was drawn: a flip of a symmetric image, or any
    change of a blank one, leaves it as it was.
    """
    image, paired = batch["image"], batch["paired"]
    changed = np.flatnonzero((draws.warped | draws.noisy) & ~draws.mixed)
    at = torch.from_numpy(changed).to(image.device)
    valid = image.new_zeros(len(image))
    valid[at] = (image[at] != paired[at]).flatten(1).any(dim=1).to(valid.dtype)
    return {**batch, "paired_valid": valid}


def collate(samples: Sequence[dict[str, Tensor]] | dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of a list of samples; what is a batch already stays one."""
    return samples if isinstance(samples, dict) else default_collate(list(samples))
