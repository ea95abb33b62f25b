"""How near the diameter of a lesion comes to the one that was drawn, from the pixels whose
centres lie inside: `data.mri.lesions.diameters_mm`, by which lesions have size classes and
weights, against the hull of pixel corners (by which they had them before) and scikit-image.

Shapes, by chance: balls, ellipsoids, boxes along the axes and turned, lesions of the synthetic
patients, three balls that overlap or not (curved, with gaps); in 2-D discs, ellipses, boxes, three
discs, and slices of the synthetic lesions. Diameters are uniform from 2 to 40 mm, centres uniform
in a pixel. `error` is the mean absolute value in mm, `wrong` the share in another size class than
that of the drawn diameter. The rows `all` are means over shapes and pixels, also of what was
considered: the hull of the centres (`centres`), halfway from it to the hull of corners
(`halfway`), the longest axis of the ellipsoid with the same second moments (`moments`), and the
measure itself with other constants. `time` is that of a mask, with its components.
"""

from __future__ import annotations

import functools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from benchmarks.measuring.rows import Row, main, row
from data.diameters import REACH_SHARE, ROUND_FROM, feret_mm, longest_mm
from data.mri.lesions import components, diameters_mm, feret_diameters_mm, size_classes
from data.mri.shapes import draw_lesion

COUNT, TIMED, ROUNDS = 200, 40, 5
PIXELS_MM = {
    2: ((0.9375, 0.9375), (2.0, 2.0), (3.75, 3.75), (5.0, 5.0), (3.0, 1.0)),
    3: ((1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (5.0, 0.9, 0.9), (3.75,) * 3, (5.0,) * 3),
}
SMALLEST_MM, LARGEST_MM = 2.0, 40.0

PEERS = {
    "corners": "largest distance of pixel corners",
    "skimage": "skimage.measure.regionprops, feret_diameter_max",
}
CONSIDERED = {
    "centres": "largest distance of pixel centres",
    "halfway": "mean of the distances of centres and corners",
    "moments": "longest axis by second moments",
}
OTHERS = [(share, ROUND_FROM) for share in (0.65, 0.7, 0.8, 0.85)]
OTHERS += [(REACH_SHARE, start) for start in (0.67, 0.75, 0.83, 0.88, 1.0)]

Mask = NDArray[np.bool_]
Float = NDArray[np.float64]
Shape = Callable[[np.random.Generator, Float], tuple[Mask, float]]


def measure() -> Iterator[Row]:
    for dims, shapes in SHAPES.items():
        of_all: list[tuple[Float, dict[str, Float]]] = []
        for spacing in PIXELS_MM[dims]:
            for name, shape in shapes.items():
                drawn, found = _measured(shape, np.array(spacing))
                of_all.append((drawn, found))
                pixels = "x".join(f"{step:g}" for step in spacing)
                yield from _rows(f"lesion_sizes/{name}/{pixels}", [(drawn, found)], PEERS)
        yield from _rows(f"lesion_sizes/all_{dims}d", of_all, PEERS | CONSIDERED | _constants())
        for name in ("balls", "boxes") if dims == 3 else ("discs", "boxes_2d"):
            yield from _times(f"lesion_sizes/{name}/time", shapes[name], PIXELS_MM[dims][0])


def _measured(shape: Shape, step: Float) -> tuple[Float, dict[str, Float]]:
    """The drawn diameters, and what each measure finds, of the masks that have a pixel."""
    rng = np.random.default_rng(len(step))
    measures = _measures()
    drawn, found = [], {name: [] for name in measures}  # type: ignore[var-annotated]
    for _ in range(COUNT):
        mask, diameter = shape(rng, step)
        if mask.any():
            drawn.append(diameter)
            for name, function in measures.items():
                found[name].append(function(mask, step))
    return np.array(drawn), {name: np.array(values) for name, values in found.items()}


def _rows(
    start: str, cases: Sequence[tuple[Float, dict[str, Float]]], peers: Mapping[str, str]
) -> Iterator[Row]:
    for what, of_case, unit in (("error", _error, "mm"), ("wrong", _wrong, "share")):
        means = {
            name: float(np.mean([of_case(found[name], drawn) for drawn, found in cases]))
            for name in ("ours", *peers)
        }
        for name, text in peers.items():
            yield row(f"{start}/{what}/{name}", means["ours"], unit, text, means[name])


def _error(found: Float, drawn: Float) -> float:
    return float(np.abs(found - drawn).mean())


def _wrong(found: Float, drawn: Float) -> float:
    return float((size_classes(found) != size_classes(drawn)).mean())


def _times(name: str, shape: Shape, spacing: Sequence[float]) -> Iterator[Row]:
    """All in turn, so that whatever else the machine does meets all; medians of the rounds."""
    rng = np.random.default_rng(0)
    drawn = (shape(rng, np.array(spacing)) for _ in range(TIMED))
    masks = [mask for mask, _ in drawn if mask.any()]
    functions: dict[str, Callable[[Mask], object]] = {
        "ours": lambda mask: diameters_mm(components(mask, 1), spacing),
        "corners": lambda mask: feret_diameters_mm(components(mask, 1), spacing),
        "skimage": lambda mask: _skimage(mask, np.array(spacing)),
    }
    milliseconds: dict[str, list[float]] = {who: [] for who in functions}
    for number in range(-1, ROUNDS):  # one to warm up
        for who, function in functions.items():
            began = time.perf_counter()
            for mask in masks:
                function(mask)
            if number >= 0:
                milliseconds[who].append(1000 * (time.perf_counter() - began) / len(masks))
    ours = statistics.median(milliseconds["ours"])
    for who, text in PEERS.items():
        yield row(f"{name}/{who}", ours, "ms", text, statistics.median(milliseconds[who]))


# Measures: the pixels of a lesion and their size in mm -> mm


def _measures() -> dict[str, Callable[[Mask, Float], float]]:
    others = {
        _constant_name(*constants): functools.partial(
            longest_mm, reach_share=constants[0], round_from=min(constants[1], 0.999)
        )
        for constants in OTHERS
    }
    return {
        "ours": longest_mm,
        "corners": feret_mm,
        "skimage": _skimage,
        "centres": _centres,
        "halfway": lambda mask, step: 0.5 * (_centres(mask, step) + feret_mm(mask, step)),
        "moments": _moments,
        **others,
    }


def _constants() -> dict[str, str]:
    return {
        _constant_name(*constants): "the measure itself, with these constants"
        for constants in OTHERS
    }


def _constant_name(share: float, start: float) -> str:
    return f"reach_share={share:g},round_from={start:g}"


def _skimage(mask: Mask, step: Float) -> float:
    from skimage import measure as skimage

    (region,) = skimage.regionprops(mask.astype(np.uint8), spacing=tuple(step))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return float(region.feret_diameter_max)
    except ValueError:  # it finds no hull of what lies in a plane: its definition without the hull
        vertices, *_ = skimage.marching_cubes(np.pad(mask, 2), 0.5, spacing=tuple(step))
        return float(pdist(vertices).max())


def _centres(mask: Mask, step: Float) -> float:
    inner = mask.copy()
    for axis in range(mask.ndim):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    points = np.argwhere(mask & ~inner) * step
    return float(pdist(points).max()) if len(points) > 1 else 0.0


def _moments(mask: Mask, step: Float) -> float:
    """A solid ball of radius r has the variance r^2 / (dims + 2) along each axis; each pixel has a
    variance of its own, step^2 / 12.
    """
    points = np.argwhere(mask) * step
    centred = points - points.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T @ centred / len(points) + np.diag(step**2 / 12.0))
    return float(2.0 * np.sqrt((mask.ndim + 2) * variances[-1]))


# Shapes: the mask, and the longest diameter in mm


def _diameter_mm(rng: np.random.Generator) -> float:
    return float(rng.uniform(SMALLEST_MM, LARGEST_MM))


def _grid(rng: np.random.Generator, reach_mm: float, step: Float) -> Float:
    """The centres of the pixels around the shape [*S, dims], whose middle is 0."""
    shift = rng.random(len(step)) - 0.5
    axes = [
        (np.arange(-half, half + 1) - part) * size
        for half, part, size in zip((reach_mm / step).astype(int) + 2, shift, step, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _turn(rng: np.random.Generator, dims: int) -> Float:
    turn, _ = np.linalg.qr(rng.standard_normal((dims, dims)))
    return turn


def _ball(rng: np.random.Generator, step: Float) -> tuple[Mask, float]:
    diameter = _diameter_mm(rng)
    grid = _grid(rng, 0.5 * diameter, step)
    return (grid**2).sum(axis=-1) <= 0.25 * diameter**2, diameter


def _ellipsoid(rng: np.random.Generator, step: Float) -> tuple[Mask, float]:
    diameter, dims = _diameter_mm(rng), len(step)
    radii = 0.5 * diameter * np.array([1.0, *rng.uniform(0.3, 1.0, dims - 1)])
    places = _grid(rng, 0.5 * diameter, step) @ _turn(rng, dims) / radii
    return (places**2).sum(axis=-1) <= 1.0, diameter


def _box(rng: np.random.Generator, step: Float, turned: bool) -> tuple[Mask, float]:
    diameter, dims = _diameter_mm(rng), len(step)
    sides = rng.permutation([1.0, *rng.uniform(0.3, 1.0, dims - 1)])
    sides *= diameter / np.linalg.norm(sides)
    places = _grid(rng, 0.5 * diameter, step)
    if turned:
        places = places @ _turn(rng, dims)
    return np.abs(places / sides).max(axis=-1) <= 0.5, diameter


def _three(rng: np.random.Generator, step: Float) -> tuple[Mask, float]:
    """Balls or discs in any arrangement."""
    diameter, dims = _diameter_mm(rng), len(step)
    centres, radii = rng.standard_normal((3, dims)), rng.uniform(0.5, 1.2, 3)
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + radii[:, None] + radii
    centres, radii = (values * diameter / apart.max() for values in (centres, radii))
    low, high = (centres - radii[:, None]).min(axis=0), (centres + radii[:, None]).max(axis=0)
    grid = _grid(rng, 0.65 * diameter, step) + 0.5 * (low + high)
    distances = np.linalg.norm(grid[..., None, :] - centres, axis=-1)
    return (distances <= radii).any(axis=-1), diameter


def _lesion(rng: np.random.Generator, step: Float) -> tuple[Mask, float]:
    diameter = _diameter_mm(rng)
    lesion = draw_lesion(rng, np.zeros(3), diameter)
    mask: Mask = lesion.level(_grid(rng, 0.5 * diameter, step)) <= 1.0
    return mask, diameter


def _slice(rng: np.random.Generator, step: Float) -> tuple[Mask, float]:
    """Of a synthetic lesion, up to 0.3 of its diameter off the middle; its own diameter from
    points a hundredth of the lesion's apart.
    """
    diameter = _diameter_mm(rng)
    lesion = draw_lesion(rng, np.zeros(3), diameter)
    height = rng.uniform(-0.3, 0.3) * diameter
    fine = np.full(2, 0.01 * diameter)
    points = _grid(rng, 0.5 * diameter, fine)
    inside = points[_level(lesion.level, points, height) <= 1.0]
    if len(inside) < 10:
        return np.zeros((1, 1), bool), 0.0
    longest = float(pdist(inside[ConvexHull(inside).vertices]).max())
    return _level(lesion.level, _grid(rng, 0.5 * diameter, step), height) <= 1.0, longest


def _level(level: Callable[[Float], Float], points: Float, height: float) -> Float:
    heights = np.full((*points.shape[:-1], 1), height)
    return level(np.concatenate([points, heights], axis=-1))


_along, _turned = functools.partial(_box, turned=False), functools.partial(_box, turned=True)

SHAPES: dict[int, dict[str, Shape]] = {
    2: {
        "discs": _ball,
        "ellipses": _ellipsoid,
        "boxes_2d": _along,
        "turned_boxes_2d": _turned,
        "slices": _slice,
        "three_discs": _three,
    },
    3: {
        "balls": _ball,
        "ellipsoids": _ellipsoid,
        "boxes": _along,
        "turned_boxes": _turned,
        "lesions": _lesion,
        "three_balls": _three,
    },
}

if __name__ == "__main__":
    main(measure, __doc__)
