"""Components, diameters and size classes against brute force, exact shapes and scikit-image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage import measure

from data.mri.lesions import (
    LEAST_PIXELS,
    MOST_LESIONS,
    components,
    diameters_mm,
    feret_diameters_mm,
    lesions_of,
    region_map,
    size_classes,
)
from settings.mri import SIZE_EDGES_MM, SIZE_NAMES

SPACINGS = {2: (0.9375, 1.3), 3: (6.5, 0.9375, 1.1)}


def box(shape: tuple[int, ...], sides: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(2, 2 + side) for side in sides)] = True
    return mask


def ellipsoid(axes_px: tuple[float, ...], turn: float = 0.0) -> np.ndarray:
    """Pixels whose centre lies within the half axes, turned in the plane of the last two axes."""
    size = int(2 * max(axes_px)) + 6
    at = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * len(axes_px), indexing="ij"))
    c, s = np.cos(turn), np.sin(turn)
    at[-2], at[-1] = c * at[-2] + s * at[-1], c * at[-1] - s * at[-2]
    return sum((at[i] / axis) ** 2 for i, axis in enumerate(axes_px)) <= 1.0


def all_corners_mm(inside: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    offsets = np.array(list(itertools.product((0, 1), repeat=inside.ndim)))
    corners = (np.argwhere(inside)[:, None] + offsets).reshape(-1, inside.ndim)
    return np.unique(corners, axis=0) * np.array(spacing)


masks = st.builds(
    lambda dims, seed, share: np.random.default_rng(seed).random((9, 8, 7)[:dims]) < share,
    st.sampled_from([2, 3]),
    st.integers(0, 10**6),
    st.sampled_from([0.02, 0.1, 0.3, 0.9]),
)


@given(mask=masks, least=st.integers(1, 12))
def test_components_are_those_of_skimage_without_the_small_ones(mask, least):
    wanted = measure.label(mask, connectivity=mask.ndim)
    sizes = np.bincount(wanted.ravel())
    found = components(mask, least)
    big = (sizes[wanted] >= least) & mask
    np.testing.assert_array_equal(found > 0, big)
    pairs = {(int(a), int(b)) for a, b in zip(wanted[big], found[big], strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    # 1, 2, ... in the order in which they are met
    firsts = [int(np.flatnonzero(found.ravel() == n)[0]) for n in range(1, found.max() + 1)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("dims", [2, 3])
def test_pixels_that_share_a_corner_are_one_lesion(dims):
    mask = np.zeros((12,) * dims, bool)
    for i in range(12):
        mask[(i,) * dims] = True
    assert components(mask).max() == 1


@pytest.mark.parametrize(("dims", "least"), [(2, 5), (3, 10)])
def test_what_is_smaller_than_the_default_is_ignored(dims, least):
    assert LEAST_PIXELS[dims] == least
    mask = np.zeros((20,) * dims, bool)
    mask[(0,) * (dims - 1)][: least - 1] = True
    mask[(9,) * (dims - 1)][:least] = True
    found = lesions_of(mask, (1.0,) * dims)
    assert found.ignored == 1
    assert found.number.max() == 1
    assert found.number[(0,) * dims] == 0
    assert found.region[(0,) * dims] == 0
    assert found.number[(9,) * (dims - 1)][0] == 1


@given(mask=masks)
def test_feret_diameters_against_all_pairs_of_corners(mask):
    spacing = SPACINGS[mask.ndim]
    labels = components(mask, 1)
    wanted = [
        pdist(all_corners_mm(labels == number, spacing)).max()
        for number in range(1, labels.max() + 1)
    ]
    np.testing.assert_allclose(feret_diameters_mm(labels, spacing), wanted, rtol=1e-12)


@pytest.mark.parametrize("sides", [(1, 1), (3, 4), (60, 80), (1, 1, 1), (2, 3, 6), (20, 30, 40)])
def test_feret_diameters_of_boxes_are_exact(sides):
    spacing = SPACINGS[len(sides)]
    labels = components(box(tuple(side + 4 for side in sides), sides), 1)
    wanted = np.sqrt(sum((side * step) ** 2 for side, step in zip(sides, spacing, strict=True)))
    assert feret_diameters_mm(labels, spacing) == pytest.approx([wanted], rel=1e-12)


@pytest.mark.parametrize(
    ("axes", "spacing"),
    [
        ((15.0, 15.0), (1.0, 1.0)),
        ((30.0, 12.0), (0.8, 0.8)),
        ((9.0, 28.0), (2.0, 0.5)),
        ((14.0, 14.0, 14.0), (1.0, 1.0, 1.0)),
        ((5.0, 16.0, 9.0), (4.0, 1.0, 1.0)),
        ((4.0, 20.0, 20.0), (5.0, 0.9, 0.9)),
    ],
)
@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_feret_diameters_of_ellipsoids_within_the_diagonal_of_a_pixel(axes, spacing, turn):
    """The corners of pixels whose centre lies inside go beyond the surface by half a diagonal at
    each end, and lie no more than that inside of it.
    """
    labels = components(ellipsoid(axes, turn))
    c, s = np.cos(turn), np.sin(turn)
    frame = np.eye(len(axes))
    frame[-2:, -2:] = [[c, -s], [s, c]]
    shape = np.diag(spacing) @ frame @ np.diag(axes)
    exact = 2 * np.linalg.svd(shape, compute_uv=False)[0]
    assert abs(feret_diameters_mm(labels, spacing)[0] - exact) < np.linalg.norm(spacing)


def test_the_feret_diameter_of_a_large_ball_by_its_hull_equals_its_outermost_pixels():
    inside = ellipsoid((11.5, 11.5, 11.5))
    spacing = (1.5, 1.0, 0.7)
    edge = inside & ~(
        np.roll(inside, 1, 2) & np.roll(inside, -1, 2)
    )  # the ends of all lines: no inner corner is farther
    wanted = pdist(all_corners_mm(edge, spacing)).max()
    assert feret_diameters_mm(inside.astype(int), spacing) == pytest.approx([wanted], rel=1e-12)


@given(mask=masks)
def test_feret_of_skimage_lies_up_to_a_diagonal_below(mask):
    """Its contour runs through the middles of the edges of pixels."""
    spacing = SPACINGS[mask.ndim]
    labels = components(mask, 4)
    ours = feret_diameters_mm(labels, spacing)
    regions = measure.regionprops(labels, spacing=spacing)
    for mine, region in zip(ours, regions, strict=True):
        gap = mine - region.feret_diameter_max
        assert -1e-6 <= gap <= np.linalg.norm(spacing)


@pytest.mark.parametrize("measure_mm", [diameters_mm, feret_diameters_mm])
@given(mask=masks, factor=st.floats(0.1, 10.0))
def test_diameters_do_not_depend_on_direction_and_scale_with_spacing(measure_mm, mask, factor):
    spacing = SPACINGS[mask.ndim]
    labels = components(mask, 3)
    found = measure_mm(labels, spacing)
    np.testing.assert_allclose(measure_mm(labels[::-1], spacing), found)
    np.testing.assert_allclose(measure_mm(labels.T, spacing[::-1]), found)
    scaled = tuple(factor * step for step in spacing)
    np.testing.assert_allclose(measure_mm(labels, scaled), factor * found)


def test_numbers_that_do_not_occur_have_no_diameter():
    labels = np.zeros((9, 9), int)
    labels[2:4, 3:7] = 3
    for measure_mm in (diameters_mm, feret_diameters_mm):
        found = measure_mm(labels, (1.0, 1.0))
        assert found[:2].tolist() == [0.0, 0.0]
        assert found[2] > 3.0


def test_the_size_classes_begin_at_their_edges():
    diameters = np.array([0.0, 9.999, 10.0, 19.999, 20.0, 29.999, 30.0, 500.0])
    assert size_classes(diameters).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert len(SIZE_NAMES) == len(SIZE_EDGES_MM) + 1 == 4


def test_every_pixel_has_the_class_of_its_lesion():
    mask = np.zeros((60, 60), bool)
    mask[0:6, 0:12] = True
    mask[20:25, 0:8] = True
    mask[40:58, 10:40] = True
    mask[0, 30] = True
    found = lesions_of(mask, (1.0, 1.0))
    np.testing.assert_array_equal(found.diameters_mm, diameters_mm(components(mask), (1.0, 1.0)))
    boxes = [np.hypot(6, 12), np.hypot(5, 8), np.hypot(18, 30)]
    assert found.diameters_mm == pytest.approx(boxes, abs=0.75)
    assert [int(found.region[place]) for place in ((0, 0), (20, 0), (40, 10), (0, 30))] == [
        2, 1, 4, 0,
    ]
    assert found.region.dtype == found.number.dtype == np.uint8
    np.testing.assert_array_equal(found.region > 0, found.number > 0)
    np.testing.assert_array_equal(region_map(components(mask), found.diameters_mm), found.region)


@pytest.mark.parametrize("shape", [(7, 7), (5, 6, 7)])
def test_an_empty_mask_has_no_lesion(shape):
    found = lesions_of(np.zeros(shape), (1.0,) * len(shape))
    assert not found.number.any()
    assert not found.region.any()
    assert found.diameters_mm.shape == (0,)
    assert found.ignored == 0


def test_of_more_lesions_than_numbers_the_largest_are_kept():
    mask = np.zeros((64, 64), bool)
    mask[::2, ::2] = True  # 1024 of a pixel
    mask[20:30, 40:50] = True  # one grows over its neighbours
    mask[63, 62:64] = True  # another by 2 pixels
    _, count = ndimage.label(mask, np.ones((3, 3)))
    found = lesions_of(mask, (1.0, 1.0), 1)
    assert found.number.max() == MOST_LESIONS == len(found.diameters_mm)
    assert found.ignored == count - MOST_LESIONS
    assert found.number[25, 45] and found.number[63, 63]
    assert (np.unique(found.number) == np.arange(MOST_LESIONS + 1)).all()


def test_what_is_no_mask_or_no_spacing_is_refused():
    with pytest.raises(ValueError, match=r"\[H, W\] or \[D, H, W\]"):
        components(np.ones(5))
    labels = components(np.ones((5, 5)))
    for spacing in [(1.0,), (1.0, 0.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, 1.0, 1.0)]:
        with pytest.raises(ValueError, match="spacing is 2 lengths in mm"):
            diameters_mm(labels, spacing)
