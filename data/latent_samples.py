"""The latents of a file (`data.latents`) as samples, for networks that are trained on them.

A sample:

    latent         float32 [c, *s], standardised by the training split
    modality       int64, as in the file
    spacing        float32, mm per pixel along each axis of *S, the space of the image
    inside         int64 [2], first and last + 1 of the slices that are no padding
    mask           float32 [1, *S] of 0 and 1: a condition at the resolution of the image, from
                   which `data.mri.mask_codec.bit_planes` makes planes in the shape of the latent
    lesion_counts  int64 [bins], the number of lesions of each size, where bins are asked for
    seed           int64, where one was given: what is random about the sample is drawn by it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.files import DataError
from data.latents import Latents, read_latents

Scale = Literal["overall", "channel", "none"]


class LatentSamples(Dataset[dict[str, Tensor]]):
    """One split of a file; `samples[index]`, or `samples[(index, seed)]` in a training.

    The latents stay in the file. A copy in another process has its path and opens it again, and
    is refused if the file has become another one meanwhile.

    A file of an earlier version has no spacing, inside and mask, nor have its samples:
    `latents.absent` names what is missing, `latents.need` refuses it.

    Attributes:
        latents: the file.
        rows: int64, of the file, that are the samples.
    """

    def __init__(
        self,
        path: Path,
        split: str,
        *,
        scale: Scale = "overall",
        most: int = 0,
        bin_edges_mm: Sequence[float] = (),
    ) -> None:
        """
        Args:
            scale: by which the latents are standardised: one for all numbers, one of each channel,
                or none. `latents.restored` is the inverse.
            most: an evenly spaced subset of at most so many samples; 0 takes all.
            bin_edges_mm: lower edges of the bins of `lesion_counts`, ascending; the last has no
                upper one.

        Raises:
            DataError: the file has no sample of that split; it has no scale; or it has no sizes of
                lesions, and bins are asked for.
        """
        self.split, self.scale, self.most = split, scale, most
        self.bins = (*bin_edges_mm, np.inf)
        self.latents: Latents = read_latents(path)
        if bin_edges_mm:
            self.latents.need("lesions_mm")
        self._choose()

    def _choose(self) -> None:
        """What follows from the file."""
        per_channel = self.scale == "channel"
        self._scale = None if self.scale == "none" else self.latents.scale(per_channel)
        splits = self.latents.column("split")
        rows = np.flatnonzero(splits == self.split)
        if not len(rows):
            raise DataError(
                f"{self.latents.path}: expected latents of the split {self.split!r}, found those "
                f"of {', '.join(sorted(set(splits)))}. Name one of them, or encode it as well."
            )
        size = min(self.most, len(rows)) if self.most else len(rows)
        self.rows = rows[np.linspace(0, len(rows) - 1, size).round().astype(np.int64)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.split} has samples 0 .. {len(self) - 1}, not {index}")
        row = int(self.rows[index])
        latent = self.latents.latent(row)
        # A copy in any case: the file is read-only, and a tensor must not be.
        values = latent.copy() if self._scale is None else self._scale.standardised(latent)
        sample = {
            "latent": torch.from_numpy(values),
            "modality": torch.tensor(self.latents.table["modality"][row].as_py()),
            **self._about(row),
        }
        return sample if seed is None else {**sample, "seed": torch.tensor(seed)}

    def _about(self, row: int) -> dict[str, Tensor]:
        """What the file says of the image; without what a file of an earlier version lacks."""
        latents, found = self.latents, {}
        if latents.spacing is not None:
            found["spacing"] = torch.from_numpy(latents.spacing[row].copy())
        if latents.inside is not None:
            found["inside"] = torch.from_numpy(latents.inside[row].astype(np.int64))
        mask = latents.mask(row)
        if mask is not None:
            found["mask"] = torch.from_numpy(mask.astype(np.float32))[None]
        sizes = latents.lesions_mm(row) if len(self.bins) > 1 else None
        if sizes is not None:
            counts, _ = np.histogram(sizes, self.bins)
            found["lesion_counts"] = torch.from_numpy(counts.astype(np.int64))
        return found

    @property
    def units(self) -> list[str]:
        """The patient of each sample, for `Loaders.units`."""
        names = self.latents.patient_names()
        return [names[row] for row in self.rows]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("rows", "_scale")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._choose()
