"""Lesions of a mask: its connected components, their longest diameters, and the size class of
every pixel.

Shapes: *S the space, (H, W) or (D, H, W); n components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.diameters import feret_mm, longest_mm
from data.files import Float64
from settings.mri import SIZE_EDGES_MM

LEAST_PIXELS = {2: 5, 3: 10}
"""Pixels of a slice and voxels of a volume below which the source ignores a component: it has no
number and no size class, as if it were background. The presets of the documented sizes keep to it;
at the size of the demo a tiny lesion is a single pixel, and nothing is ignored.
"""

MOST_LESIONS = 255
"""The most lesions of a mask, the largest ones: their numbers are bytes, and a mask with more is
noise.
"""


@dataclass(frozen=True)
class Lesions:
    """The lesions of one mask.

    Attributes:
        number: uint8 [*S], 1 .. n in reading order, 0 elsewhere.
        region: uint8 [*S], 1 tiny, 2 small, 3 medium, 4 large, 0 elsewhere.
        diameters_mm: float64 [n].
        ignored: components that are too small to count.
    """

    number: NDArray[np.uint8]
    region: NDArray[np.uint8]
    diameters_mm: Float64
    ignored: int


def lesions_of(mask: NDArray[Any], spacing: Sequence[float], least: int | None = None) -> Lesions:
    """Everything about the lesions of one mask [*S]; `spacing` in mm in the order of *S."""
    labels, ignored = _labelled(mask, least)
    diameters = diameters_mm(labels, spacing)
    return Lesions(labels.astype(np.uint8), region_map(labels, diameters), diameters, ignored)


def components(mask: NDArray[Any], least: int | None = None) -> NDArray[np.int32]:
    """The components of a mask [*S] (not 0: lesion): 1 .. n in reading order, 0 elsewhere and
    where a component has fewer than `least` pixels (None: LEAST_PIXELS).

    Pixels that share a corner belong together (8 neighbours, 26 in a volume), as in the
    lesion-wise scores of BraTS: resizing by nearest leaves thin parts of a lesion hanging by their
    corners, and with fewer neighbours one lesion would be counted as several of a smaller class.
    """
    return _labelled(mask, least)[0]


def _labelled(mask: NDArray[Any], least: int | None) -> tuple[NDArray[np.int32], int]:
    """The components, and how many were ignored."""
    from scipy import ndimage

    if mask.ndim not in LEAST_PIXELS:
        raise ValueError(f"a mask is [H, W] or [D, H, W], not of shape {list(mask.shape)}")
    least = LEAST_PIXELS[mask.ndim] if least is None else least
    labels, count = ndimage.label(mask != 0, structure=np.ones((3,) * mask.ndim, np.int8))
    if not count:
        return labels.astype(np.int32), 0
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    is_kept = sizes >= least
    is_kept[0] = False
    if is_kept.sum() > MOST_LESIONS:
        largest = np.argsort(-sizes * is_kept, kind="stable")[:MOST_LESIONS]
        is_kept = np.isin(np.arange(count + 1), largest)
    numbers = np.where(is_kept, is_kept.cumsum(), 0).astype(np.int32)
    return numbers[labels], count - int(is_kept.sum())


def diameters_mm(labels: NDArray[Any], spacing: Sequence[float]) -> Float64:
    """The longest diameter [n] of every component of `labels` [*S], in mm, pixels being `spacing`
    wide: the size that classes and weights go by. Numbers that do not occur have 0.

    `longest_mm` of data/diameters.py, an estimate of the lesion's own diameter. The diagonal
    of the bounding box is too long, and in-plane spacing on every axis ignores the distance of the
    slices (001-M23); between centres of pixels a lesion of one pixel has no size; between corners
    (`feret_diameters_mm`) a lesion is up to a pixel's diagonal too long.
    """
    return _measured(labels, spacing, longest_mm)


def feret_diameters_mm(labels: NDArray[Any], spacing: Sequence[float]) -> Float64:
    """The largest distance [n] between two corners of the pixels of every component, in mm: exact
    for what the pixels cover. Sizes do not go by it.
    """
    return _measured(labels, spacing, feret_mm)


def _measured(
    labels: NDArray[Any],
    spacing: Sequence[float],
    measure: Callable[[NDArray[np.bool_], Float64], float],
) -> Float64:
    from scipy import ndimage

    step = np.asarray(spacing, np.float64)
    if step.shape != (labels.ndim,) or not (np.isfinite(step) & (step > 0)).all():
        raise ValueError(f"spacing is {labels.ndim} lengths in mm above 0, not {list(spacing)}")
    return np.array(
        [
            0.0 if place is None else measure(labels[place] == number, step)
            for number, place in enumerate(ndimage.find_objects(labels), 1)
        ],
        np.float64,
    )


def region_map(labels: NDArray[Any], diameters: Float64) -> NDArray[np.uint8]:
    """The size class of the component that each pixel belongs to, uint8 [*S]: 0 background, 1 tiny
    below SIZE_EDGES_MM[0], then 2 small, 3 medium and 4 large, each from its edge on.
    """
    return np.concatenate([np.zeros(1, np.uint8), size_classes(diameters)])[labels]


def size_classes(diameters: Float64) -> NDArray[np.uint8]:
    """1 tiny, 2 small, 3 medium, 4 large."""
    return (1 + np.searchsorted(SIZE_EDGES_MM, diameters, side="right")).astype(np.uint8)
