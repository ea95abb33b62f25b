"""Frames cut into crops, once: which are kept, the memory-mapped file that holds them, and reading
them.

A crop is one array [10, S, S]: the parts of a frame in the order of `data.hdr.files.CHANNELS`, S
the side. Occlusion and motion are zeros where a frame has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.files import Float32
from data.hdr.files import CHANNELS, Frame

CROP_CHANNELS = sum(CHANNELS.values())


def choose_crops(
    hole: Float32, side: int, stride: int, min_hole_share: float, most: int
) -> tuple[NDArray[np.int64], int]:
    """The crops of one frame to keep: (corners [N, 2] as (y, x) in reading order, how many were
    possible).

    Of the crops on the grid with at least `min_hole_share` holes, the half with the most holes is
    kept, at most `most`. `hole` is [1, H, W]. Ties go to the first in reading order.
    """
    height, width = hole.shape[-2:]
    rows = np.arange(0, height - side + 1, stride)
    columns = np.arange(0, width - side + 1, stride)
    total = np.zeros((height + 1, width + 1), np.int64)
    total[1:, 1:] = hole[0].astype(np.int64).cumsum(0).cumsum(1)
    low, high = np.ix_(rows, columns), np.ix_(rows + side, columns + side)
    left, above = np.ix_(rows + side, columns), np.ix_(rows, columns + side)
    share = (total[high] - total[left] - total[above] + total[low]) / side**2
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    share = share.reshape(-1)
    able = np.flatnonzero(share >= min_hole_share)
    keep = min(math.ceil(len(able) / 2), most)
    best = able[np.argsort(-share[able], kind="stable")[:keep]]
    return corners[np.sort(best)], len(corners)


def cut_crops(frame: Frame, corners: NDArray[np.int64], side: int, scale: float) -> Float32:
    """The crops [N, 10, S, S] of a frame at those corners; radiance is divided by `scale`."""
    height, width = frame.hole.shape[-2:]
    planes = np.zeros((CROP_CHANNELS, height, width), np.float32)
    for part, place in part_slices().items():
        plane: Float32 | None = getattr(frame, part)
        if plane is not None:
            planes[place] = plane / np.float32(scale) if part in ("warped", "target") else plane
    crops = [planes[:, y : y + side, x : x + side] for y, x in corners]
    return np.stack(crops) if crops else np.zeros((0, CROP_CHANNELS, side, side), np.float32)


def part_slices() -> Mapping[str, slice]:
    """Which channels of a crop hold which part of a frame."""
    ends = np.cumsum(list(CHANNELS.values()))
    return {
        part: slice(int(end) - count, int(end))
        for (part, count), end in zip(CHANNELS.items(), ends, strict=True)
    }


class _Crops:
    """The memory-mapped crops of one split; a copy in another process maps the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        parts = {part: crop[place] for part, place in part_slices().items()}
        if flip:
            parts = {part: tensor.flip(-1) for part, tensor in parts.items()}
            # Left becomes right, so the horizontal motion changes its sign.
            parts["motion"] = parts["motion"] * torch.tensor([-1.0, 1.0])[:, None, None]
        return parts

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_crops": None}


class TrainCrops(_Crops, Dataset[dict[str, Tensor]]):
    """`crops[(index, seed)]`: the seed decides the flip and nothing else is random."""

    def __init__(self, path: Path, flips: bool) -> None:
        super().__init__(path)
        self.flips = flips

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = at
        flip = self.flips and bool(np.random.default_rng(seed).integers(2))
        return self.sample(index, flip)


class FixedCrops(_Crops, Dataset[dict[str, Tensor]]):
    """`crops[index]`: an evenly spaced subset of at most `most` crops, all if it is 0."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path)
        size = min(most, self.count) if most else self.count
        self.chosen = np.linspace(0, self.count - 1, size).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(self.chosen[index])
