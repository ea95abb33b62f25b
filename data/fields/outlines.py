"""Embedded data of images and fields: random smooth outlines, and heat that leaves them.

A body of initial temperature 1 lies in surroundings that are held at 0. Its outline is the image;
the temperatures at a grid of probes over time are the field. All is a function of the seed.

The frame is [-1, 1]², x to the right, y down as in an image. Shapes: S image side, T times,
N probes, G nodes on a side of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.files import Float64

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

HARMONICS = (2, 3, 4, 5)
"""Waves around the outline; the first would only move it."""

GRID = 32
"""Nodes on a side. With them a disc agrees with its Bessel series to about 0.01 of the initial
temperature (tests/data/fields/test_outlines.py).
"""

END_TIME = 0.12
"""The last time of the field. A disc of radius 0.6 and conductivity 1 has then lost nine tenths of
its heat.
"""

CONDUCTIVITY_SLOPE = 0.6
"""The conductivity is 1 + slope·x: bodies cool faster on the right, so a mirrored body is another
body. Zero where the data is to be symmetric.
"""

PROBE_REACH = 0.65
"""The probes cover [-reach, reach]²: those farther out are outside of nearly every body."""

_FARTHEST = 0.9  # of an outline from the middle; all its neighbours are then nodes of the grid
_NARROWEST = 0.25  # radius over mean radius
_FIRST_STEPS = 8
_GAMMA = 1.0 - math.sqrt(0.5)


@dataclass(frozen=True)
class Outline:
    """r(θ) = radius·(1 + Σ_k a_k cos kθ + b_k sin kθ) around `centre`, k in HARMONICS; a are the
    `cosines`, b the `sines`.
    """

    centre: tuple[float, float]
    radius: float
    cosines: tuple[float, ...] = (0.0,) * len(HARMONICS)
    sines: tuple[float, ...] = (0.0,) * len(HARMONICS)

    def flipped(self) -> Outline:
        """Left and right exchanged: θ becomes π - θ."""
        return Outline(
            (-self.centre[0], self.centre[1]),
            self.radius,
            tuple((-1) ** k * a for k, a in zip(HARMONICS, self.cosines, strict=True)),
            tuple(-((-1) ** k) * b for k, b in zip(HARMONICS, self.sines, strict=True)),
        )

    def shape(self, angle: Float64) -> tuple[Float64, Float64]:
        """r(θ) / radius and its derivative."""
        value, slope = np.ones_like(angle), np.zeros_like(angle)
        for k, a, b in zip(HARMONICS, self.cosines, self.sines, strict=True):
            cosine, sine = np.cos(k * angle), np.sin(k * angle)
            value += a * cosine + b * sine
            slope += k * (b * cosine - a * sine)
        return value, slope

    def depth(self, x: Float64, y: Float64) -> Float64:
        """Distance to the outline, positive inside; exact to first order near it."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        value, slope = self.shape(np.arctan2(dy, dx))
        return (self.radius * value - np.hypot(dx, dy)) / np.sqrt(1.0 + (slope / value) ** 2)


def samples(
    count: int, seed: int, side: int, times: int, probes_per_side: int, symmetric: bool
) -> Iterator[tuple[Float64, Float64]]:
    """(image [S, S] in [0, 1], field [T, N] float64), sample by sample; one does not depend on
    the count.
    """
    for number in range(count):
        outline = random_outline(np.random.default_rng((seed, number)))
        yield image(outline, side), field(outline, times, probes_per_side, symmetric)


def random_outline(rng: np.random.Generator) -> Outline:
    """A smooth body about the middle of the frame: 0.35 to 0.7 in mean radius, before it is made
    to fit.
    """
    radius = float(rng.uniform(0.35, 0.7))
    centre = rng.uniform(-0.1, 0.1, 2)
    waves = rng.normal(0.0, 1.0, (2, len(HARMONICS))) * 0.25 / np.array(HARMONICS)
    outline = Outline((0.0, 0.0), 1.0, *(tuple(map(float, row)) for row in waves))
    around, _ = outline.shape(np.linspace(-math.pi, math.pi, 256))
    # Milder waves where the body would nearly be cut in two, a smaller one where it leaves the
    # frame.
    waves *= min(1.0, (1.0 - _NARROWEST) / max(1.0 - float(around.min()), 1e-9))
    largest = max(1.0, float(around.max()))
    radius = min(radius, (_FARTHEST - float(np.hypot(*centre))) / largest)
    cosines, sines = (tuple(map(float, row)) for row in waves)
    return Outline((float(centre[0]), float(centre[1])), radius, cosines, sines)


def image(outline: Outline, side: int) -> Float64:
    """White on black [S, S]: the covered share of each pixel, from its distance to the outline."""
    place = (np.arange(side) + 0.5) * 2.0 / side - 1.0
    depth = outline.depth(place[None, :], place[:, None])
    return np.clip(0.5 + depth * side / 2.0, 0.0, 1.0)


def field(
    outline: Outline, times: int, probes_per_side: int, symmetric: bool = False
) -> Float64:
    """Temperatures [T, N] at t = END_TIME·(1 .. T)/T, probes in reading order.

    Where `symmetric`, the conductivity is 1 throughout, and a probe reads the mean of its place
    and of its mirror image: the field of a flipped outline is then the same field.
    """
    history = conduct(outline, times, 0.0 if symmetric else CONDUCTIVITY_SLOPE)
    if symmetric:
        history = 0.5 * (history + history[..., ::-1])
    reader = _reader(probes_per_side)
    return (reader @ history @ reader.T).reshape(times, -1)


def nodes() -> Float64:
    """Coordinates [G] of the grid's nodes, on both axes."""
    return (np.arange(GRID) + 0.5) * 2.0 / GRID - 1.0


def conduct(outline: Outline, times: int, slope: float) -> Float64:
    """Temperatures [T, G, G] of ∂u/∂t = ∇·((1 + slope·x) ∇u), u = 0 outside and at first 1 inside.

    In space the five-point scheme with the outline where it cuts the grid's lines (Gibou, Fedkiw,
    Cheng, Kang 2002, JCP 176: symmetric and second order). In time the L-stable SDIRK of two
    stages and second order (Alexander 1977, γ = 1 - 1/√2), which for a linear A is two solves with
    one factor: u ← M⁻¹((2 - 1/γ)·u + (1/γ - 1)·M⁻¹u), M = 1 + γ·Δt·A. The jump at the outline
    would make a long first step overshoot: the first time is reached in `_FIRST_STEPS` short ones.
    """
    inside, operator = _operator(outline, slope)
    step = END_TIME / times
    history = np.zeros((times, GRID, GRID))
    now = np.ones(operator.shape[0])
    advance = _stepper(operator, step / _FIRST_STEPS)
    for _ in range(_FIRST_STEPS):
        now = advance(now)
    history[0, inside] = now
    advance = _stepper(operator, step)
    for time in range(1, times):
        now = advance(now)
        history[time, inside] = now
    return history


def _stepper(operator: csr_matrix, step: float) -> Callable[[Float64], Float64]:
    """One step of time for du/dt = -A u; the matrix is factorised once."""
    from scipy.sparse import identity
    from scipy.sparse.linalg import splu

    matrix = (identity(operator.shape[0]) + _GAMMA * step * operator).tocsc()
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})

    def advance(now: Float64) -> Float64:
        half = factor.solve(now)
        return factor.solve((2.0 - 1.0 / _GAMMA) * now + (1.0 / _GAMMA - 1.0) * half)

    return advance


def _operator(outline: Outline, slope: float) -> tuple[NDArray[np.bool_], csr_matrix]:
    """(which nodes are inside [G, G], the sparse matrix A [n, n] of du/dt = -A u there)."""
    from scipy.sparse import coo_matrix

    place, width = nodes(), 2.0 / GRID
    depth = outline.depth(place[None, :], place[:, None])
    inside = depth > 0.0
    count = int(inside.sum())
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(count)
    x = np.broadcast_to(place[None, :], depth.shape)
    diagonal = np.zeros(count)
    rows, columns, values = [], [], []
    for axis in (0, 1):
        low = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        high = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        for here, there in ((low, high), (high, low)):
            starts = inside[here]
            both = starts & inside[there]
            edge = starts & ~inside[there]
            # The part of the way to the neighbour that lies inside.
            share = depth[here] / np.where(edge, depth[here] - depth[there], 1.0)
            share = np.where(edge, np.maximum(share, 1e-3), 1.0)
            middle = x[here] + 0.5 * share * (x[there] - x[here])
            flow = (1.0 + slope * middle) / (share * width**2)
            np.add.at(diagonal, number[here][starts], flow[starts])
            rows.append(number[here][both])
            columns.append(number[there][both])
            values.append(-flow[both])
    nodes_inside = np.arange(count)
    entries = np.concatenate([*values, diagonal])
    at = (np.concatenate([*rows, nodes_inside]), np.concatenate([*columns, nodes_inside]))
    return inside, coo_matrix((entries, at), shape=(count, count)).tocsr()


def _reader(probes_per_side: int) -> Float64:
    """Linear interpolation [probes on a side, G] from the grid to the probes."""
    at = np.linspace(-PROBE_REACH, PROBE_REACH, probes_per_side) if probes_per_side > 1 else [0.0]
    return np.stack([np.interp(at, nodes(), unit) for unit in np.eye(GRID)], axis=1)
