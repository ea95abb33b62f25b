"""Diameters of lesions by the hull of pixel corners, against `feret_diameter_max` of
`skimage.measure.regionprops`: the error in mm and the time for a mask.

`boxes` are what pixels can show exactly; `ellipses` and `ellipsoids` (axes by chance, log-uniform
2 to 40 mm, centre by chance) are given by the pixels whose centres lie inside, so both measure the
pixels and not the shape. Errors are means of the absolute value over the lesions; `pixels` is the
error against the largest distance between any two points of the pixels, found by comparing all
corners.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from benchmarks.measuring.rows import Row, main, row
from data.mri.lesions import components, diameters_mm

COUNT, ROUNDS = 40, 5
SPACINGS = {2: (0.9375, 0.9375), 3: (1.0, 0.9375, 0.9375)}
"""Of the source's volumes."""

PEER = "skimage.measure.regionprops, feret_diameter_max"

Mask = NDArray[np.bool_]


def measure() -> Iterator[Row]:
    for dims, names in ((2, ("boxes", "ellipses")), (3, ("boxes", "ellipsoids"))):
        spacing = SPACINGS[dims]
        for name in names:
            make = _box if name == "boxes" else _ellipsoid
            rng = np.random.default_rng(dims)
            found = [make(rng, spacing) for _ in range(COUNT)]
            masks, exact = [mask for mask, _ in found], [length for _, length in found]
            of_pixels = exact if name == "boxes" else [_of_pixels(m, spacing) for m in masks]
            ours = [_ours(mask, spacing) for mask in masks]
            peer = [_skimage(mask, spacing) for mask in masks]
            start = f"lesion_sizes/{name}_{dims}d"
            for kind, wanted in (("shape", exact), ("pixels", of_pixels)):
                if kind == "pixels" and name == "boxes":
                    continue
                errors = [_error(measured, wanted) for measured in (ours, peer)]
                yield Row(f"{start}/error/{kind}", errors[0], "mm", PEER, errors[1], None)
            yield _times(f"{start}/time", masks, spacing)


def _error(found: Sequence[float], wanted: Sequence[float]) -> float:
    return float(np.abs(np.subtract(found, wanted)).mean())


def _times(name: str, masks: Sequence[Mask], spacing: Sequence[float]) -> Row:
    """Both in turn, so that whatever else the machine does meets both; medians of the rounds."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    functions: dict[str, Callable[..., float]] = {"ours": _ours, "peer": _skimage}
    for number in range(-1, ROUNDS):  # one to warm up
        for who, function in functions.items():
            began = time.perf_counter()
            for mask in masks:
                function(mask, spacing)
            if number >= 0:
                seconds[who].append(1000 * (time.perf_counter() - began) / len(masks))
    ours, peer = (statistics.median(seconds[who]) for who in ("ours", "peer"))
    return row(name, ours, "ms", PEER, peer)


def _ours(mask: Mask, spacing: Sequence[float]) -> float:
    return float(diameters_mm(components(mask, 1), spacing)[0])


def _skimage(mask: Mask, spacing: Sequence[float]) -> float:
    from skimage import measure as skimage

    labels = skimage.label(mask, connectivity=mask.ndim)
    (region,) = skimage.regionprops(labels, spacing=tuple(spacing))
    return float(region.feret_diameter_max)


def _diameter_mm(rng: np.random.Generator) -> float:
    return float(2.0 * 20.0 ** rng.random())


def _box(rng: np.random.Generator, spacing: Sequence[float]) -> tuple[Mask, float]:
    sides = [max(1, round(_diameter_mm(rng) / step)) for step in spacing]
    mask = np.zeros([side + 4 for side in sides], bool)
    mask[tuple(slice(2, 2 + side) for side in sides)] = True
    return mask, float(np.hypot.reduce(np.multiply(sides, spacing)))


def _ellipsoid(rng: np.random.Generator, spacing: Sequence[float]) -> tuple[Mask, float]:
    """Turned at random; at least one pixel."""
    dims = len(spacing)
    axes = np.array([_diameter_mm(rng) for _ in spacing]) / 2
    turn, _ = np.linalg.qr(rng.standard_normal((dims, dims)))
    half = [int(axes.max() / step) + 3 for step in spacing]
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in half), indexing="ij"), axis=-1)
    centre = rng.random(dims) - 0.5
    places = ((grid - centre) * np.array(spacing)) @ turn / axes
    mask: Mask = (places**2).sum(axis=-1) <= 1.0
    mask[tuple(half)] = True
    parts = components(mask, 1)
    return parts == parts[tuple(half)], float(2 * axes.max())


def _of_pixels(mask: Mask, spacing: Sequence[float]) -> float:
    """Of the corners of all pixels at the surface."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    offsets = np.array(list(itertools.product((0, 1), repeat=mask.ndim)))
    corners: Any = (np.argwhere(mask & ~inner)[:, None] + offsets).reshape(-1, mask.ndim)
    return float(pdist(np.unique(corners, axis=0) * np.array(spacing)).max())


if __name__ == "__main__":
    main(measure, __doc__)
