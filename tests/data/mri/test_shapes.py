"""Deformations that fold nowhere, and lesions of the diameter they claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from scipy.ndimage import label
from scipy.spatial.distance import pdist

from data.mri.shapes import (
    CONTROL_MM,
    DIAMETERS_MM,
    LARGEST_CONTROL_SHIFT_MM,
    Deformation,
    cubic_basis,
    draw_deformation,
    draw_diameters,
    draw_lesion,
    plant,
    rotation,
)

EXTENT_MM = (120.0, 120.0, 80.0)
SEEDS = st.integers(0, 2**32)


def grid(extent_mm: float, step_mm: float) -> np.ndarray:
    return np.arange(-0.5 * extent_mm, 0.5 * extent_mm + 1e-9, step_mm)


def smallest_jacobian(deformation: Deformation, step_mm: float = 5.0) -> float:
    """Of central differences, 0.01 mm to each side."""
    axes = [grid(extent, step_mm) for extent in EXTENT_MM]
    columns = []
    for axis in range(3):
        ahead, behind = list(axes), list(axes)
        ahead[axis], behind[axis] = axes[axis] + 0.01, axes[axis] - 0.01
        columns.append((deformation.positions(ahead) - deformation.positions(behind)) / 0.02)
    jacobian = np.moveaxis(np.stack(columns, axis=1), (0, 1), (-2, -1))
    return float(np.linalg.det(jacobian).min())


def test_the_basis_is_scipys_b_spline_and_sums_to_1_where_four_lie():
    x, count = np.linspace(-70.0, 70.0, 57), 7
    knots = (np.arange(count) - 3.0) * CONTROL_MM
    reference = [
        BSpline.basis_element(knot + CONTROL_MM * np.arange(-2.0, 3.0), extrapolate=False)(x)
        for knot in knots
    ]
    basis = cubic_basis(x, count)
    np.testing.assert_allclose(basis, np.nan_to_num(np.stack(reference, axis=1)), atol=1e-12)
    np.testing.assert_allclose(basis.sum(axis=1), 1.0, atol=1e-12)


@settings(max_examples=min(15, settings.default.max_examples))
@given(seed=SEEDS)
def test_deformations_fold_nowhere(seed):
    assert smallest_jacobian(draw_deformation(np.random.default_rng(seed), EXTENT_MM)) > 0.2


@pytest.mark.parametrize("pattern", ["alternate", "shear", "all inwards"])
def test_the_worst_coefficients_fold_nowhere(pattern):
    shape = draw_deformation(np.random.default_rng(0), EXTENT_MM).coefficients.shape[1:]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    middle = (np.array(shape)[:, None, None, None] - 1) / 2
    signs = {
        "alternate": np.where(index % 2 == 0, 1.0, -1.0),
        "shear": np.where(np.roll(index, 1, axis=0) % 2 == 0, 1.0, -1.0),
        "all inwards": np.where(index < middle, 1.0, -1.0),
    }[pattern]
    worst = Deformation(np.eye(3), np.zeros(3), LARGEST_CONTROL_SHIFT_MM * signs)
    assert smallest_jacobian(worst) > 0.0
    folded = Deformation(np.eye(3), np.zeros(3), 8.0 * LARGEST_CONTROL_SHIFT_MM * signs)
    assert smallest_jacobian(folded) < 0.0, "the measure must see a fold"


def test_a_deformation_without_coefficients_is_its_matrix_and_shift():
    matrix, shift = rotation(np.array([0.1, -0.2, 0.3])), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    axes = [np.array([-1.0, 2.0]), np.array([0.0]), np.array([4.0, 5.0, 6.0])]
    found = Deformation(matrix, shift, np.zeros((3, 6, 6, 5))).positions(axes)
    for i, x in enumerate(axes[0]):
        for k, z in enumerate(axes[2]):
            expected = matrix @ np.array([x, 0.0, z]) + shift
            np.testing.assert_allclose(found[:, i, 0, k], expected, atol=1e-12)


@settings(max_examples=min(15, settings.default.max_examples))
@given(seed=SEEDS, diameter=st.floats(*DIAMETERS_MM))
def test_a_lesion_is_as_long_as_it_claims(seed, diameter):
    rng = np.random.default_rng(seed)
    lesion = draw_lesion(rng, rng.uniform(-20.0, 20.0, 3), diameter)
    end = lesion.directions[0] * 0.5 * diameter
    np.testing.assert_allclose(lesion.level(lesion.centre + np.array([end, -end])), 1.0)
    directions = rng.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Levels grow linearly along a ray, so the surface is found without a search.
    surface = lesion.centre + directions / lesion.level(lesion.centre + directions)[:, None]
    np.testing.assert_allclose(lesion.level(surface), 1.0)
    assert pdist(surface).max() <= diameter * (1 + 1e-9)
    assert lesion.level(lesion.centre) == 0.0


def test_diameters_are_log_uniform():
    drawn = draw_diameters(np.random.default_rng(0), 20_000)
    assert drawn.min() >= DIAMETERS_MM[0]
    assert drawn.max() <= DIAMETERS_MM[1]
    assert (np.diff(drawn) <= 0).all()
    low, high = np.log(DIAMETERS_MM)
    for share in (0.1, 0.5, 0.9):
        expected = np.exp(low + share * (high - low))
        assert np.quantile(drawn, share) == pytest.approx(expected, rel=0.05)


@settings(max_examples=min(20, settings.default.max_examples))
@given(seed=SEEDS, count=st.integers(1, 5), step_mm=st.sampled_from([3.0, 5.0, 9.0]))
def test_planted_lesions_lie_in_the_brain_and_apart(seed, count, step_mm):
    axes = [grid(140.0, step_mm), grid(160.0, step_mm), grid(120.0, 1.5 * step_mm)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    brain = (x / 65) ** 2 + (y / 75) ** 2 + (z / 55) ** 2 < 1
    allowed = brain & (x > 0)
    planted = plant(brain, allowed, axes, count, np.random.default_rng(seed))
    assert planted
    total = np.zeros(brain.shape, np.int64)
    for one in planted:
        assert one.inside.any()
        total[one.box] += one.inside
        assert one.lesion.centre[0] > 0
        assert one.lesion.diameter <= DIAMETERS_MM[1]
        # The whole shape lies in its box: none of it is cut off.
        outside = np.ones(brain.shape, bool)
        outside[one.box] = False
        assert (one.lesion.level(np.stack([x, y, z], axis=-1)[outside]) > 1.0).all()
    assert total.max() == 1
    assert not (total.astype(bool) & ~brain).any()
    assert label(total, np.ones((3, 3, 3)))[1] == len(planted)


def test_where_there_is_no_room_none_are_planted():
    axes = [grid(30.0, 5.0)] * 3
    nothing = np.zeros((7, 7, 7), bool)
    assert plant(nothing, nothing, axes, 3, np.random.default_rng(0)) == []
    one = nothing.copy()
    one[3, 3, 3] = True
    planted = plant(one, one, axes, 3, np.random.default_rng(0))
    assert [int(each.inside.sum()) for each in planted] == [1]
    assert planted[0].lesion.diameter < 10.0, "as large as fits between the voxels around it"
