"""The estimated diameter of a lesion: against the drawn one, against its formula by brute force
over all pixels, and within its bounds.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from data.diameters import REACH_SHARE, ROUND_FROM, ball_mm, feret_mm, longest_mm
from data.mri.lesions import diameters_mm, size_classes
from data.mri.shapes import draw_lesion

STEPS = st.sampled_from([(0.9375, 1.3), (2.0, 2.0), (5.0, 0.9)])
STEPS_3D = st.sampled_from([(6.5, 0.9375, 1.1), (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])


def axes_of(rng, step, reach_mm):
    """The centres of pixels along each axis; the middle of the shape is 0, anywhere in a pixel."""
    step = np.array(step)
    shift = rng.random(len(step)) - 0.5
    halves = (reach_mm / step).astype(int) + 2
    return [
        (np.arange(-half, half + 1) - part) * size
        for half, part, size in zip(halves, shift, step, strict=True)
    ]


def drawn(rng, step, level, reach_mm):
    """The pixels whose centres have a level of 1 or less."""
    axes = axes_of(rng, step, reach_mm)
    return level(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)) <= 1.0


def turn(rng, dims):
    return np.linalg.qr(rng.standard_normal((dims, dims)))[0]


def ball(rng, step):
    diameter = rng.uniform(2.0, 40.0)
    squares = [axis**2 for axis in axes_of(rng, step, 0.5 * diameter)]
    return sum(np.ix_(*squares)) <= 0.25 * diameter**2, diameter


def ellipsoid(rng, step):
    """Up to five times as long as wide."""
    diameter, dims = rng.uniform(8.0, 40.0), len(step)
    radii = 0.5 * diameter * np.array([1.0, *rng.uniform(0.2, 1.0, dims - 1)])
    axes = turn(rng, dims) / radii
    return drawn(rng, step, lambda p: ((p @ axes) ** 2).sum(-1), 0.5 * diameter), diameter


def turned_box(rng, step):
    diameter, dims = rng.uniform(8.0, 40.0), len(step)
    sides = np.array([1.0, *rng.uniform(0.2, 1.0, dims - 1)])
    axes = 2.0 * turn(rng, dims) * np.linalg.norm(sides) / (sides * diameter)
    return drawn(rng, step, lambda p: np.abs(p @ axes).max(-1), 0.5 * diameter), diameter


def straight_box(rng, step):
    diameter, dims = rng.uniform(8.0, 40.0), len(step)
    sides = np.array([1.0, *rng.uniform(0.2, 1.0, dims - 1)])
    scale = 2.0 * np.linalg.norm(sides) / (sides * diameter)
    return drawn(rng, step, lambda p: np.abs(p * scale).max(-1), 0.5 * diameter), diameter


def synthetic(rng, step):
    diameter = rng.uniform(8.0, 40.0)
    lesion = draw_lesion(rng, np.zeros(3), diameter)
    return drawn(rng, step, lesion.level, 0.5 * diameter), diameter


def measured(shape, step, count, seed=0):
    """Estimates, hulls of corners, drawn diameters, and those of balls of equal volume."""
    rng, step_mm = np.random.default_rng(seed), np.array(step)
    rows = []
    for _ in range(count):
        mask, diameter = shape(rng, step)
        if mask.any():
            ours = diameters_mm(mask.astype(int), step)[0]
            equal = ball_mm(int(mask.sum()), step_mm)
            rows.append((ours, feret_mm(mask, step_mm), diameter, equal))
    return np.array(rows).T


def wrong(found, diameters):
    return float((size_classes(found) != size_classes(diameters)).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("step", "most"), [((1.0, 1.0, 1.0), 0.05), ((3.0, 1.0, 1.0), 0.08)])
def test_spheres_are_in_the_class_of_their_diameter(step, most):
    """500 of 2 to 40 mm; by the corners of pixels 13 and 23 % are in another one."""
    ours, corners, diameters, _ = measured(ball, step, 500)
    assert wrong(ours, diameters) <= most
    assert wrong(corners, diameters) > 2 * most
    assert np.abs(ours - diameters).mean() < 0.25
    assert np.abs((ours - diameters).mean()) < 0.25


@pytest.mark.parametrize(
    ("step", "most"), [((0.9375, 0.9375), 0.02), ((2.0, 2.0), 0.04), ((3.0, 1.0), 0.04)]
)
def test_discs_are_in_the_class_of_their_diameter(step, most):
    ours, corners, diameters, _ = measured(ball, step, 400)
    assert wrong(ours, diameters) <= most
    assert wrong(corners, diameters) > 2 * most


@pytest.mark.parametrize(
    ("shape", "step", "share"),
    [
        (ellipsoid, (1.0, 1.0), 0.6),
        (ellipsoid, (5.0, 5.0), 0.8),
        (ellipsoid, (1.5, 1.5, 1.5), 0.5),
        (ellipsoid, (5.0, 0.9, 0.9), 0.5),
        (turned_box, (3.0, 1.5, 1.5), 1.0),
        (synthetic, (1.5, 1.5, 1.5), 0.3),
        (synthetic, (5.0, 0.9, 0.9), 0.4),
        (synthetic, (5.0, 5.0, 5.0), 0.6),
    ],
)
def test_the_longest_diameter_counts_however_long_the_shape(shape, step, share):
    """Nearer to what was drawn than the corners, of which `share` is the limit, by less than half
    a pixel's diagonal; the ball of equal volume says nothing of elongated ones.
    """
    ours, corners, diameters, equal = measured(shape, step, 80)
    error = np.abs(ours - diameters).mean()
    assert error < share * np.abs(corners - diameters).mean()
    assert error < 0.5 * np.linalg.norm(step)
    assert error < 0.5 * np.abs(equal - diameters).mean()


@pytest.mark.parametrize("shape", [straight_box, turned_box])
@pytest.mark.parametrize("step", [(1.0, 1.0), (1.5, 1.5, 1.5)])
def test_boxes_are_measured_to_half_a_diagonal(shape, step):
    """Least favourable: a corner may hold no centre of a pixel, and the corners of the pixels of a
    box along the axes are right on the average.
    """
    ours, _, diameters, _ = measured(shape, step, 80)
    assert np.abs(ours - diameters).mean() < 0.5 * np.linalg.norm(step)


def by_formula(mask, step):
    """Over all pixels and all pairs."""
    step = np.array(step)
    dims, points = mask.ndim, np.argwhere(mask) * step
    equal = (
        2 * np.sqrt(len(points) * step.prod() / np.pi)
        if dims == 2
        else (6 * len(points) * step.prod() / np.pi) ** (1 / 3)
    )
    if len(points) == 1:
        return equal
    longest = pdist(points).max()
    reach = 0.0
    for a, b in itertools.combinations(points, 2):
        if np.linalg.norm(b - a) > longest - 1e-9:
            along = (b - a) / np.linalg.norm(b - a)
            at = np.sort(points @ along)
            depths = [
                np.sort(behind)[: 2**dims].mean() for behind in (at.max() - at, at - at.min())
            ]
            corner = 0.5 * np.abs(along) @ step
            reach = max(reach, sum(min(depth, corner) for depth in depths))
    missing = (1 - equal / (longest + reach)) / (1 - ROUND_FROM)
    return max(equal, longest + REACH_SHARE * np.clip(missing, 0, 1) * reach)


@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.02, 0.1, 0.3, 0.9]),
    steps=st.one_of(STEPS, STEPS_3D),
)
def test_the_estimate_is_that_of_its_formula(seed, share, steps):
    mask = np.random.default_rng(seed).random((6, 5, 7)[: len(steps)]) < share
    mask.ravel()[seed % mask.size] = True
    assert longest_mm(mask, np.array(steps)) == pytest.approx(by_formula(mask, steps), rel=1e-9)


@given(seed=st.integers(0, 10**6), steps=st.one_of(STEPS, STEPS_3D))
def test_the_estimate_lies_between_centres_and_corners(seed, steps):
    rng, step = np.random.default_rng(seed), np.array(steps)
    mask, _ = (ellipsoid, turned_box)[seed % 2](rng, 1.4 * step)
    mask.ravel()[seed % mask.size] = True
    found, equal = longest_mm(mask, step), ball_mm(int(mask.sum()), step)
    points = np.argwhere(mask) * step
    points = points[rng.permutation(len(points))[:400]]
    centres = pdist(points).max() if len(points) > 1 else 0.0
    assert found >= max(centres, equal) - 1e-9
    assert found <= max(feret_mm(mask, step), equal) + 1e-9


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [
        (np.ones((1, 1)), 2.0 * np.sqrt(6.0 / np.pi)),
        (np.ones((1, 1, 1)), 2.0 * (3.0 * 30.0 / (4.0 * np.pi)) ** (1.0 / 3.0)),
    ],
)
def test_a_single_pixel_has_the_diameter_of_the_ball_of_its_volume(mask, wanted):
    assert diameters_mm(mask.astype(int), (2.0, 3.0, 5.0)[: mask.ndim]) == pytest.approx([wanted])


def test_lesions_of_many_pixels_in_one_plane_or_on_one_line():
    """They have no hull in space."""
    step = np.array([3.0, 1.0, 0.5])
    oblique = np.zeros((30, 30, 7), bool)
    oblique[np.arange(30), np.arange(30)] = True
    slice_ = np.zeros((3, 80, 90), bool)
    slice_[1] = np.hypot(*np.indices((80, 90)) - 40.0) < 37.2
    line = np.zeros((2, 200, 2), bool)
    line[0, :, 1] = True
    diagonal = np.zeros((150, 150, 150), bool)
    diagonal[(np.arange(150),) * 3] = True
    for mask in (oblique, slice_, line, diagonal):
        ends = np.argwhere(mask)
        longest = pdist((ends if len(ends) < 500 else ends[:: len(ends) // 400]) * step).max()
        found = longest_mm(mask, step)
        assert longest <= found <= feret_mm(mask, step)
    # In its plane the lesion is a disc of 37.2 pixels, in steps of 1 and 0.5 mm.
    assert longest_mm(slice_, step) == pytest.approx(2 * 37.2, abs=0.5)
    assert longest_mm(line, step) == pytest.approx(200.0, abs=1.0)
