"""Which crops of a frame are kept, and what one holds.

A crop is one array [C, S, S]: the parts of a frame that the data has, in the order of
`data.hdr.files.CHANNELS`, S the side. Occlusion and motion are zeros in the crops of a frame that
lacks what others have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.files import Float32
from data.hdr.files import CHANNELS, Frame


def choose_crops(
    hole: Float32, side: int, stride: int, min_hole_share: float, most: int | None
) -> tuple[NDArray[np.int64], int]:
    """The crops of one frame to keep: (corners [N, 2] as (y, x) in reading order, how many were
    possible).

    Of the crops on the grid with at least `min_hole_share` holes, the half with the most holes is
    kept, at most `most`. `hole` is [1, H, W]. Ties go to the first in reading order. Where `most`
    is None all of them are kept, and the grid is one that covers the frame, whatever `stride` is.
    """
    height, width = hole.shape[-2:]
    rows, columns = (
        _covering(length, side) if most is None else np.arange(0, length - side + 1, stride)
        for length in (height, width)
    )
    total = np.zeros((height + 1, width + 1), np.int64)
    total[1:, 1:] = hole[0].astype(np.int64).cumsum(0).cumsum(1)
    low, high = np.ix_(rows, columns), np.ix_(rows + side, columns + side)
    left, above = np.ix_(rows + side, columns), np.ix_(rows, columns + side)
    share = (total[high] - total[left] - total[above] + total[low]) / side**2
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    share = share.reshape(-1)
    able = np.flatnonzero(share >= min_hole_share)
    if most is None:
        return corners[able], len(corners)
    keep = min(math.ceil(len(able) / 2), most)
    best = able[np.argsort(-share[able], kind="stable")[:keep]]
    return corners[np.sort(best)], len(corners)


def _covering(length: int, side: int) -> NDArray[np.int64]:
    """Where crops begin that lie side by side along an axis; the last one ends with the axis, and
    shares with the one before what is left over.
    """
    return np.unique(np.append(np.arange(0, length - side + 1, side), length - side))


def cut_crops(
    frame: Frame, corners: NDArray[np.int64], side: int, scale: float, parts: Sequence[str]
) -> Float32:
    """The crops [N, C, S, S] of a frame at those corners, with those parts; radiance is divided by
    `scale`.
    """
    height, width = frame.hole.shape[-2:]
    planes = np.zeros((channels_of(parts), height, width), np.float32)
    for part, place in part_slices(parts).items():
        plane: Float32 | None = getattr(frame, part)
        if plane is not None:
            planes[place] = plane / np.float32(scale) if part in ("warped", "target") else plane
    return np.stack([planes[:, y : y + side, x : x + side] for y, x in corners])


def channels_of(parts: Sequence[str]) -> int:
    """How many channels a crop with those parts has."""
    return sum(CHANNELS[part] for part in parts)


def part_slices(parts: Sequence[str]) -> Mapping[str, slice]:
    """Which channels of a crop hold which part of a frame."""
    ends = np.cumsum([CHANNELS[part] for part in parts])
    return {
        part: slice(int(end) - CHANNELS[part], int(end))
        for part, end in zip(parts, ends, strict=True)
    }
