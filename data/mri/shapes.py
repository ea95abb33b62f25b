"""Shapes of the synthetic patients: smooth deformations of space, and lesions.

All lengths are mm. Points are [.., 3]; X, Y, Z voxels along the axes of a volume (right, anterior,
superior).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.files import Float64

Mask = NDArray[np.bool_]

CONTROL_MM = 40.0
"""Distance between the control points of a deformation."""

LARGEST_CONTROL_SHIFT_MM = 7.0
"""Largest shift of a control point along each axis. Up to CONTROL_MM / 2.479 = 16.1 mm a cubic
B-spline deformation in 3-D folds nowhere (Choi and Lee, Injectivity conditions of 2D and 3D
uniform cubic B-spline functions, 2000).
"""

DIAMETERS_MM = (2.0, 40.0)
"""Lesion diameters, log-uniform: from barely visible to beyond the edges of all size classes."""

OEDEMA_FROM_MM = 10.0
"""Diameter below which a lesion has no oedema around it."""

_DEEPEST_DENT = 0.3  # of the radius, sideways
_REACH = 2.0  # in levels: how far from its centre a lesion changes an image, oedema included


@dataclass(frozen=True)
class Deformation:
    """p -> matrix (p + u(p)) + shift, where u is a cubic B-spline with `coefficients` [3, I, J, K]
    at control points around the origin.
    """

    matrix: Float64
    shift: Float64
    coefficients: Float64

    def positions(self, axes: Sequence[Float64]) -> Float64:
        """Where the points of a grid go, [3, X, Y, Z], from the coordinates along its axes."""
        counts = self.coefficients.shape[1:]
        bases = [cubic_basis(axis, count) for axis, count in zip(axes, counts, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"))
        points += np.einsum("cijk,xi,yj,zk->cxyz", self.coefficients, *bases, optimize=True)
        return np.tensordot(self.matrix, points, 1) + self.shift[:, None, None, None]


def cubic_basis(points: Float64, count: int, spacing: float = CONTROL_MM) -> Float64:
    """[N] -> [N, count]: uniform cubic B-splines at `count` control points, centred on 0."""
    knots = (np.arange(count) - 0.5 * (count - 1)) * spacing
    t = np.abs(points[:, None] - knots) / spacing
    near = 2.0 / 3.0 - t**2 + 0.5 * t**3
    far = np.clip(2.0 - t, 0.0, None) ** 3 / 6.0
    return np.where(t < 1.0, near, far)


def draw_deformation(rng: np.random.Generator, extent_mm: Sequence[float]) -> Deformation:
    """A random deformation: a head of another size and shape, slightly rotated."""
    angles = np.radians(rng.uniform(-6.0, 6.0, 3))
    matrix = rotation(angles) @ np.diag(rng.uniform(1.02, 1.14, 3))
    counts = [control_count(extent) for extent in extent_mm]
    largest = LARGEST_CONTROL_SHIFT_MM
    coefficients = rng.uniform(-largest, largest, (3, *counts))
    return Deformation(matrix, rng.uniform(-4.0, 4.0, 3), coefficients)


def control_count(extent_mm: float) -> int:
    """Control points so that each point of the extent lies under four splines."""
    return int(np.ceil(extent_mm / CONTROL_MM)) + 3


def rotation(angles: Float64) -> Float64:
    """[3, 3]: about the first axis, then the second, then the third, in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid with dents.

    Attributes:
        diameter: the longest distance between two of its points: both ends of the long axis keep
            their places, and all else lies inside of the ellipsoid.
        directions: [3, 3], rows are the unit vectors of the axes, the long one first.
        radii: [3], half the lengths of the axes; the first is diameter / 2.
        wave, phase: dents of the surface in direction n are (1 + cos(wave·n + phase)) / 2.
        enhancement: how bright it becomes, relative to others.
    """

    centre: Float64
    diameter: float
    directions: Float64
    radii: Float64
    wave: Float64
    phase: float
    enhancement: float

    def level(self, points: Float64) -> Float64:
        """[..]: 0 at the centre, 1 on the surface, growing linearly along each ray from the
        centre.
        """
        y = (points - self.centre) @ self.directions.T / self.radii
        distance = np.linalg.norm(y, axis=-1)
        n = y / np.maximum(distance, 1e-12)[..., None]
        dent = 0.5 * (1.0 + np.cos(n @ self.wave + self.phase)) * (1.0 - n[..., 0] ** 2)
        return distance / (1.0 - _DEEPEST_DENT * dent)


def draw_lesion(rng: np.random.Generator, centre: Float64, diameter: float) -> Lesion:
    shares = np.array([1.0, *np.sort(rng.uniform(0.6, 0.95, 2))[::-1]])
    directions, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return Lesion(
        centre,
        diameter,
        directions,
        0.5 * diameter * shares,
        rng.uniform(-5.0, 5.0, 3),
        rng.uniform(0.0, 2.0 * np.pi),
        rng.uniform(0.85, 1.15),
    )


def draw_diameters(rng: np.random.Generator, count: int) -> Float64:
    """[count], log-uniform, the largest first: it is hardest to place."""
    low, high = np.log(DIAMETERS_MM)
    return np.sort(np.exp(rng.uniform(low, high, count)))[::-1]


@dataclass(frozen=True)
class Planted:
    """A lesion on the grid: the voxels around it, and its `level` [x, y, z] in them."""

    lesion: Lesion
    box: tuple[slice, slice, slice]
    level: Float64

    @property
    def inside(self) -> Mask:
        """The voxels of the box whose centres it holds: its exact mask."""
        return self.level <= 1.0


def plant(
    brain: Mask, allowed: Mask, axes: Sequence[Float64], count: int, rng: np.random.Generator
) -> list[Planted]:
    """Up to `count` lesions inside of `brain` [X, Y, Z], centred on voxels of `allowed`, none next
    to another.

    A lesion that would not fit anywhere is as large as fits; where no place is left, no more are
    planted. A centre is that of a voxel, so that the smallest lesion has one.
    """
    from scipy.ndimage import binary_dilation, distance_transform_edt

    spacing = [float(axis[1] - axis[0]) for axis in axes]
    free, planted = brain.copy(), []
    for diameter in draw_diameters(rng, count):
        room = np.where(allowed & free, distance_transform_edt(free, sampling=spacing), 0.0)
        widest = float(room.max())
        if widest == 0.0:
            break
        radius = min(0.5 * diameter, 0.999 * widest)
        candidates = np.flatnonzero(room > radius)
        index = np.unravel_index(int(rng.choice(candidates)), brain.shape)
        centre = np.array([axis[i] for axis, i in zip(axes, index, strict=True)])
        lesion = draw_lesion(rng, centre, 2.0 * radius)
        on_grid = _on_grid(lesion, axes)
        planted.append(on_grid)
        taken = np.zeros_like(brain)
        taken[on_grid.box] = on_grid.inside
        free &= ~binary_dilation(taken, np.ones((3, 3, 3), bool))
    return planted


def _on_grid(lesion: Lesion, axes: Sequence[Float64]) -> Planted:
    reach = _REACH * 0.5 * lesion.diameter
    ranges = [
        np.flatnonzero(np.abs(axis - middle) <= reach)
        for axis, middle in zip(axes, lesion.centre, strict=True)
    ]
    x, y, z = (slice(int(places[0]), int(places[-1]) + 1) for places in ranges)
    local = [axis[part] for axis, part in zip(axes, (x, y, z), strict=True)]
    points = np.stack(np.meshgrid(*local, indexing="ij"), axis=-1)
    return Planted(lesion, (x, y, z), lesion.level(points))
