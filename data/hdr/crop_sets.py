"""The crops of a split as datasets, read from their memory-mapped file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.files import Float32
from data.hdr.conversion import crops_file, known_file
from data.hdr.crops import part_slices


class _Crops:
    """The memory-mapped crops of one split; a copy in another process maps the file anew.

    A sample has the parts of its frame by name, [C, S, S], and `<part>_known` [1, 1, 1] in {0, 1}
    for each that some frames lack.
    """

    def __init__(
        self, folder: Path, split: str, parts: Sequence[str], lacking: Sequence[str]
    ) -> None:
        self.path, self.parts, self.lacking = crops_file(folder, split), parts, lacking
        self.known = np.load(known_file(folder, split)) if lacking else None  # [N, lacking]
        self._crops: Float32 | None = None
        self.count = int(self.crops.shape[0])

    @property
    def crops(self) -> Float32:
        if self._crops is None:
            self._crops = np.load(self.path, mmap_mode="r")
        return self._crops

    def sample(self, index: int, flip: bool = False) -> dict[str, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(f"{self.path.name} has crops 0 .. {self.count - 1}, not {index}")
        crop = torch.from_numpy(np.array(self.crops[index]))
        sample = {part: crop[place] for part, place in part_slices(self.parts).items()}
        if flip:
            sample = {part: tensor.flip(-1) for part, tensor in sample.items()}
            if "motion" in sample:
                # Left becomes right, so the horizontal motion changes its sign.
                sample["motion"] = sample["motion"] * torch.tensor([-1.0, 1.0])[:, None, None]
        if self.known is not None:
            for part, known in zip(self.lacking, self.known[index], strict=True):
                sample[f"{part}_known"] = torch.full((1, 1, 1), float(known))
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_crops": None}


class TrainCrops(_Crops, Dataset[dict[str, Tensor]]):
    """`crops[(index, seed)]`: the seed decides the flip and nothing else is random."""

    def __init__(
        self,
        folder: Path,
        split: str,
        parts: Sequence[str],
        lacking: Sequence[str],
        flips: bool,
    ) -> None:
        super().__init__(folder, split, parts, lacking)
        self.flips = flips

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = at
        flip = self.flips and bool(np.random.default_rng(seed).integers(2))
        return self.sample(index, flip)


class FixedCrops(_Crops, Dataset[dict[str, Tensor]]):
    """`crops[index]`: an evenly spaced subset of at most `most` crops, all if it is 0.

    Attributes:
        units: the shot or sequence of each of its crops.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        parts: Sequence[str],
        lacking: Sequence[str],
        most: int,
        units: Sequence[Sequence[Any]],
    ) -> None:
        super().__init__(folder, split, parts, lacking)
        size = min(most, self.count) if most else self.count
        self.chosen = np.linspace(0, self.count - 1, size).round().astype(int).tolist()
        every = [unit for unit, count in units for _ in range(count)]
        self.units = [every[index] for index in self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(self.chosen[index])
