"""Sixteen fixed masks of v2, four in each of four families, for any H and W of 8 or more.

| number | cells that are dropped |
|---|---|
| 0, 1 | every other field of 4 x 4, with the upper left one and without it |
| 2, 3 | the same of 8 x 8 |
| 4, 5 | 25 % of 4 x 4 cells, by seed 42 and by seed 123 |
| 6, 7 | 50 % of them |
| 8, 9 | upper left and lower right corner; upper right and lower left |
| 10 | the middle of the upper side and both lower corners |
| 11 | all corners |
| 12, 13 | 25 % of patches whose side is H // 8, by seed 42 and by seed 123 |
| 14, 15 | 50 % of them |

The document's, whose fields end where a side is no multiple of their number; here they go on to
the end. A volume has the same mask in every slice.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

FAMILIES = ("checkerboard", "grid", "coarse", "patch")
COUNT = 16
LEAST_SIDE = 8
"""Below it some of the fields of 8 x 8 would have no pixel."""

_SEEDS = (42, 123)


@functools.lru_cache(maxsize=8)
def masks(height: int, width: int, device: torch.device) -> Tensor:
    """Bool [16, H, W], true where a value is dropped. Not to be written to.

    Raises:
        ValueError: a side below `LEAST_SIDE`.
    """
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"patterns need an H and a W of {LEAST_SIDE} or more, not {height} x {width}."
        )
    all_masks = [_mask(pattern, height, width) for pattern in range(COUNT)]
    return torch.from_numpy(np.stack(all_masks)).to(device)


def _mask(pattern: int, height: int, width: int) -> np.ndarray:
    family, variant = divmod(pattern, 4)
    second, seed = divmod(variant, 2)
    share = 0.5 if second else 0.25
    if family == 0:
        fields = 8 if second else 4
        rows, columns = np.indices((fields, fields))
        return _stretched((rows + columns) % 2 == seed, height, width)
    if family == 1:
        return _stretched(_dropped(4, 4, share, _SEEDS[seed]), height, width)
    if family == 2:
        return _holes(variant, height, width)
    side = height // 8
    cells = _dropped(height // side, width // side, share, _SEEDS[seed])
    patches = cells.repeat(side, axis=0).repeat(side, axis=1)
    missing = ((0, height - patches.shape[0]), (0, width - patches.shape[1]))
    return np.pad(patches, missing)


def _dropped(rows: int, columns: int, share: float, seed: int) -> np.ndarray:
    """Bool [rows, columns] with exactly int(share rows columns) cells, by NumPy's first generator,
    whose numbers never change.
    """
    cells = np.zeros(rows * columns, dtype=bool)
    drawn = np.random.RandomState(seed).choice(cells.size, int(cells.size * share), replace=False)
    cells[drawn] = True
    return cells.reshape(rows, columns)


def _stretched(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cells as large as the image, the last ones up to a pixel larger or smaller than the rest."""
    rows = np.arange(height) * cells.shape[0] // height
    columns = np.arange(width) * cells.shape[1] // width
    return cells[rows[:, None], columns]


def _holes(variant: int, height: int, width: int) -> np.ndarray:
    rows, columns = height // 4, width // 4
    top, bottom = slice(0, rows), slice(height - rows, height)
    left, right = slice(0, columns), slice(width - columns, width)
    middle = slice(width // 2 - columns // 2, width // 2 + columns // 2)
    holes = (
        ((top, left), (bottom, right)),
        ((top, right), (bottom, left)),
        ((top, middle), (bottom, left), (bottom, right)),
        ((top, left), (top, right), (bottom, left), (bottom, right)),
    )[variant]
    mask = np.zeros((height, width), dtype=bool)
    for hole in holes:
        mask[hole] = True
    return mask
