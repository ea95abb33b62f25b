"""Consecutive frames of a shot with the motion between them, for what is measured over time.

Frames are made or read anew, whole frames cut to one window: crops are chosen frame by frame.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.files import DataError, Float32
from data.hdr.files import CHANNELS, Frame, read_frame
from data.hdr.scenes import FRAMES_PER_SHOT, shot
from data.hdr.settings import DataSettings
from data.hdr.splits import Entry, arrange

STRIDE = 16
"""The sides of a window, and the steps between windows, are multiples of it."""


@dataclass(frozen=True)
class Pair:
    """Two frames and the same window of both, by part [C, h, w] as crops have them; `after` has
    `motion`, which says where its pixels were in `before`.
    """

    before: Mapping[str, Float32]
    after: Mapping[str, Float32]


@functools.lru_cache(maxsize=1)
def pairs(settings: DataSettings, split: str, most: int, side: int) -> tuple[Pair, ...]:
    """At most so many pairs of a split, evenly spread; those with a bad frame are left out.

    Args:
        side: of the window in pixels, at most; it lies where the second frame has most holes.
    """
    found = _candidates(settings, split)
    if len(found) > most:
        found = [found[round(at)] for at in np.linspace(0, len(found) - 1, most)]
    read: dict[int, Frame] = {}
    made = []
    for first, second in found:
        try:
            before, after = (_frame(settings, each, read) for each in (first, second))
        except DataError:
            continue  # named where the data was converted
        if before.hole.shape == after.hole.shape:
            window = _window(after.hole, side)
            made.append(Pair(*(_cut(each, window, settings.scale) for each in (before, after))))
    return tuple(made)


def has_pairs(settings: DataSettings, split: str) -> bool:
    """Whether there is a pair; no image is read."""
    return bool(_candidates(settings, split))


def _candidates(settings: DataSettings, split: str) -> list[tuple[Entry, Entry]]:
    """Frames of a split that follow each other in a shot or sequence."""
    neighbours = itertools.pairwise(arrange(settings).splits[split])
    return [(first, second) for first, second in neighbours if _follows(first, second)]


def _follows(first: Entry, second: Entry) -> bool:
    if second.id != first.id + 1:
        return False
    if first.files is None or second.files is None:
        return first.id // FRAMES_PER_SHOT == second.id // FRAMES_PER_SHOT
    return first.files.sequence == second.files.sequence and "motion" in second.files.files


def _frame(settings: DataSettings, entry: Entry, read: dict[int, Frame]) -> Frame:
    """The frame, read, or made with all of its shot, which `read` holds from then on."""
    if entry.files is not None:
        return read_frame(entry.files)[0]
    if entry.id not in read:
        index = entry.id // FRAMES_PER_SHOT
        start = index * FRAMES_PER_SHOT
        count = min(FRAMES_PER_SHOT, settings.frames - start)
        made = shot(index, count, settings.height, settings.width, settings.seed)
        read.update(enumerate(made, start))
    return read[entry.id]


def _window(hole: Float32, side: int) -> tuple[slice, slice]:
    """Rows and columns of the window with most holes, the first of several; `hole` is
    [1, H, W].
    """
    height, width = (min(side, length) // STRIDE * STRIDE for length in hole.shape[-2:])
    total = np.zeros((hole.shape[1] + 1, hole.shape[2] + 1))
    total[1:, 1:] = hole[0].cumsum(0, dtype=np.float64).cumsum(1)
    rows = np.arange(0, hole.shape[1] - height + 1, STRIDE)
    columns = np.arange(0, hole.shape[2] - width + 1, STRIDE)
    below, right = rows + height, columns + width
    holes = total[np.ix_(below, right)] - total[np.ix_(rows, right)]
    holes = holes - total[np.ix_(below, columns)] + total[np.ix_(rows, columns)]
    row, column = np.unravel_index(int(holes.argmax()), holes.shape)
    top, left = int(rows[row]), int(columns[column])
    return slice(top, top + height), slice(left, left + width)


def _cut(frame: Frame, window: tuple[slice, slice], scale: float) -> dict[str, Float32]:
    planes: dict[str, Float32] = {}
    for part in CHANNELS:
        plane: Float32 | None = getattr(frame, part)
        if plane is not None:
            cut = np.ascontiguousarray(plane[:, window[0], window[1]])
            planes[part] = cut / np.float32(scale) if part in ("warped", "target") else cut
    return planes
