"""Intensities, sizes and the choice of slices against numpy, Pillow, torch and skimage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import zoom

from data.files import DataError
from data.mri.files import Patient
from data.mri.volumes import (
    CutCounts,
    Rules,
    cut,
    fit_depth,
    fitted,
    is_signed,
    keeps_negatives,
    normalise,
    resize_image,
    resize_mask,
    resized_spacing,
    scaled,
)
from settings.mri import MODALITIES

RULES = {
    "group": "bravo",
    "space": (8, 8),
    "fit": "pad",
    "normalise": "min_max",
    "below_zero": "auto",
    "low_percentile": 0.0,
    "high_percentile": 100.0,
    "slice_sum": 1.0,
    "empty_masks": False,
    "depth_padding": "replicate",
    "require_seg": False,
    "require_lesions": False,
    "least_lesion": 1,
}


def rules(**changes) -> Rules:
    return Rules(**{**RULES, **changes})


def make_patient(images: dict[str, np.ndarray], mask: np.ndarray | None = None) -> Patient:
    files = {name: Path(f"p/{name}.nii.gz") for name in images}
    return Patient(files, images, mask, np.eye(4), (2.0, 1.0, 0.5), 0)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


volumes = st.builds(
    lambda seed, level, spread: (
        level + spread * np.random.default_rng(seed).standard_normal((3, 6, 5))
    ).astype(np.float32),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 50.0, -900.0]),
    st.sampled_from([1.0, 300.0]),
)


@given(values=volumes, kind=st.sampled_from(["percentile", "min_max"]))
def test_normalised_values_lie_in_0_to_1_and_keep_their_order(values, kind):
    found = normalise(values, kind, 1.0, 99.0, signed=True)
    assert found.dtype == np.float32
    assert found.min() == 0.0
    assert found.max() == 1.0
    order = np.argsort(values, axis=None)
    assert (np.diff(found.ravel()[order]) >= 0).all()


def test_percentiles_are_those_of_the_brain():
    brain = 100.0 + 10.0 * noise((4, 8, 8))
    values = np.zeros((4, 20, 20), np.float32)
    values[:, 6:14, 6:14] = brain
    low, high = np.percentile(brain, (5, 90))
    wanted = np.clip((values - low) / (high - low), 0, 1)
    for signed in (False, True):
        found = normalise(values, "percentile", 5, 90, signed=signed)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_one_bright_voxel_moves_min_max_but_not_percentiles():
    values = 100.0 + 10.0 * noise((4, 20, 20))
    bright = values.copy()
    bright[0, 0, 0] = 10_000.0
    for kind, change in (("min_max", 0.4), ("percentile", 0.02)):
        with_it, without = (
            normalise(volume, kind, 0.5, 99.0, signed=False) for volume in (bright, values)
        )
        size = np.abs((with_it - without)[1:]).mean()
        assert size > change if kind == "min_max" else size < change


def test_min_max_is_the_formula():
    values = 5.0 * noise((2, 3, 4)) - 2.0
    wanted = (values - values.min()) / (values.max() - values.min())
    found = normalise(values, "min_max", 0, 100, signed=True)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    clipped = normalise(values, "min_max", 0, 100, signed=False)
    np.testing.assert_allclose(clipped, values.clip(0) / values.max(), atol=1e-6)


@pytest.mark.parametrize("kind", ["percentile", "min_max"])
@pytest.mark.parametrize("level", [0.0, 7.0, -1024.0])
def test_a_volume_of_one_value_is_refused(kind, level):
    with pytest.raises(ValueError, match=rf"at least two values .*normalise={kind}"):
        normalise(np.full((2, 3, 3), level, np.float32), kind, 0.1, 99.9, signed=True)


def stripped_brain(shape: tuple[int, int, int] = (6, 20, 20)) -> np.ndarray:
    """A block of grey 100 .. 110 on 0, in all slices but the outermost."""
    values = np.zeros(shape, np.float32)
    inner = tuple(slice(side // 4, side - side // 4) for side in shape)
    values[inner] = 100.0 + 10.0 * noise(values[inner].shape)
    return values


def test_one_voxel_below_0_makes_no_background_a_brain():
    """Before, the mean grey rose and the background was no longer 0."""
    values = stripped_brain()
    touched = values.copy()
    touched[0, 0, 0] = -1.0
    counts = CutCounts()
    limits = {"normalise": "percentile", "low_percentile": 0.1, "high_percentile": 99.9}
    found, wanted = (
        scaled(make_patient({"bravo": volume}), "bravo", rules(**limits), counts)
        for volume in (touched, values)
    )
    np.testing.assert_array_equal(found, wanted)
    assert (counts.negative, counts.clipped) == (1, 1)
    by_voxel = scaled(
        make_patient({"bravo": touched}), "bravo", rules(below_zero="each", **limits), counts
    )
    brain = touched[touched > touched.min()]  # the rule of before, kept for what is stored
    low, high = np.percentile(brain, (0.1, 99.9))
    np.testing.assert_allclose(by_voxel, np.clip((touched - low) / (high - low), 0, 1), atol=1e-6)


def test_what_a_spline_undershoots_is_background():
    """scipy's cubic zoom has values below 0 beside the brain and in slices without any."""
    values = zoom(stripped_brain((12, 24, 24)), (2, 1.5, 1.5), order=3).astype(np.float32)
    assert values[0].min() < 0
    assert not is_signed(values)
    limits = {"normalise": "percentile", "low_percentile": 0.1, "high_percentile": 99.9}
    whole = {**limits, "space": (36, 36)}
    counts = CutCounts()
    kept = list(cut(make_patient({"bravo": values}), rules(**whole), counts))
    assert counts.clipped == 1
    assert max(sample.image[:, :4].max() for sample in kept) < 0.002
    bright = {k for k, plane in enumerate(values) if plane.max() > 50.0}
    assert bright <= {sample.slice for sample in kept}
    assert counts.left_out >= 4
    before = list(cut(make_patient({"bravo": values}), rules(below_zero="each", **whole), counts))
    assert len(before) == len(values), "every slice"
    assert min(sample.image[:, :4].max() for sample in before) > 0.08, "grey"


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (-1000.0, 300.0, True),  # CT
        (-26.0, 100.0, True),
        (-24.0, 100.0, False),
        (0.0, 100.0, False),
        (-1.0, 0.0, True),
        (-1000.0, -100.0, True),
    ],
)
def test_an_image_is_signed_by_its_percentiles(low, high, wanted):
    """A hundredth of the voxels and two more lie at each end: these are the percentiles."""
    values = np.full(1000, (low + high) / 2, np.float32)
    values[:12], values[-12:] = low, high
    np.testing.assert_allclose(np.percentile(values, (1, 99)), (low, high))
    assert is_signed(values.reshape(10, 10, 10)) is wanted
    rare = np.full(1000, 100.0, np.float32)
    rare[0] = low
    assert not is_signed(rare), "one voxel decides nothing"


def test_who_decides_about_values_below_0():
    ct, undershoot, mri = (np.array([[[low, 100.0]]], np.float32) for low in (-500.0, -1.0, 0.0))
    wanted = {
        ("keep", None): (True, True, True),
        ("clip", None): (False, False, False),
        ("each", None): (True, True, False),
        ("auto", None): (True, False, False),
        ("auto", ("flair",)): (False, False, False),
        ("auto", ("bravo",)): (True, True, True),
    }
    for (below_zero, signed), each in wanted.items():
        found = [keeps_negatives(v, "bravo", below_zero, signed) for v in (ct, undershoot, mri)]
        assert found == list(each), (below_zero, signed)


def test_an_image_that_clipping_empties_is_named_with_its_reason():
    values = -noise((2, 8, 8)) - 1.0
    with pytest.raises(ValueError, match=r"0 throughout; those below 0 became 0 .data.below_zero"):
        normalise(values, "percentile", 0.1, 99.9, signed=False)


sides = st.integers(1, 300)


@given(plane=st.tuples(sides, sides), space=st.tuples(sides, sides))
def test_the_padded_plane_is_the_smallest_of_the_samples_shape(plane, space):
    assert fitted(plane, space, "stretch") == plane
    found = fitted(plane, space, "pad")
    assert found[0] >= plane[0]
    assert found[1] >= plane[1]
    assert found[0] == plane[0] or found[1] == plane[1]
    scale = max(plane[0] / space[0], plane[1] / space[1])
    assert all(abs(a - scale * b) <= 0.5 + 1e-9 for a, b in zip(found, space, strict=True))
    if space[0] == space[1]:
        assert found == (max(plane),) * 2


@pytest.mark.parametrize("plane", [(20, 12), (12, 20), (20, 13), (20, 20)])
def test_slices_are_padded_as_pillow_does_and_masks_with_nothing(plane):
    image, mask = noise((3, *plane)), np.ones((3, *plane), bool)
    image[0, 0, 0], image[0, 0, 1] = 0.0, 1.0  # min_max changes nothing
    counts = CutCounts()
    found = list(cut(make_patient({"bravo": image}, mask), rules(space=(10, 10)), counts))
    around = [(20 - side) // 2 for side in plane]
    for sample, values in zip(found, image, strict=True):
        square = Image.new("F", (20, 20))
        square.paste(Image.fromarray(values), (around[1], around[0]))
        wanted = square.resize((10, 10), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(sample.image[0], np.asarray(wanted), atol=1e-5)
        assert sample.spacing == (2.0, 1.0), "mm per pixel: 1 and 0.5, twice as large"
        rows, columns = (
            (2 * np.arange(10) + 1 >= a) & (2 * np.arange(10) + 1 < a + side)
            for a, side in zip(around, plane, strict=True)
        )
        np.testing.assert_array_equal(sample.mask, rows[:, None] & columns)
    squeezed = next(cut(make_patient({"bravo": image}, mask), rules(fit="stretch"), counts))
    assert squeezed.mask.all()
    assert squeezed.spacing == (plane[0] / 8, 0.5 * plane[1] / 8)


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (40, 50), (64, 20)])
def test_images_are_resized_as_pillow_does(size):
    volume = noise((2, 40, 50))
    found = resize_image(volume, *size)
    for plane, small in zip(volume, found, strict=True):
        wanted = Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(small, np.asarray(wanted), atol=1e-5)


@given(
    old=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    new=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 100),
)
def test_masks_are_resized_as_torch_does(old, new, seed):
    mask = noise((2, *old), seed) < 0.4
    planes = torch.from_numpy(mask)[:, None].double()
    wanted = torch.nn.functional.interpolate(planes, new, mode="nearest-exact")[:, 0] > 0
    found = resize_mask(mask, *new)
    assert found.dtype == bool
    # torch computes in float32: where a centre falls on an edge it may take either pixel
    centres = [(np.arange(n) + 0.5) * o / n for o, n in zip(old, new, strict=True)]
    clear = [np.abs(c - np.round(c)) > 1e-4 for c in centres]
    np.testing.assert_array_equal(
        found[:, clear[0]][:, :, clear[1]], wanted.numpy()[:, clear[0]][:, :, clear[1]]
    )


@given(shape=st.tuples(*[st.integers(1, 300)] * 3), space=st.tuples(*[st.integers(1, 300)] * 2))
def test_the_field_of_view_stays(shape, space):
    spacing = (6.5, 0.9, 1.2)
    d, h, w = resized_spacing(spacing, shape, space)
    assert d == spacing[0]
    assert h * space[0] == pytest.approx(spacing[1] * shape[1])
    assert w * space[1] == pytest.approx(spacing[2] * shape[2])


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [
        (4, [0, 1, 2, 3]),
        (2, [1, 2]),
        (3, [0, 1, 2]),
        (1, [1]),
        (6, [0, 0, 1, 2, 3, 3]),
        (7, [0, 0, 1, 2, 3, 3, 3]),
        (9, [0, 0, 0, 1, 2, 3, 3, 3, 3]),
    ],
)
def test_the_depth_is_fitted_around_the_middle(depth, wanted):
    volume = np.arange(4, dtype=np.float32)[:, None, None] + np.zeros((1, 2, 2), np.float32)
    assert fit_depth(volume, depth, "replicate")[:, 0, 0].tolist() == wanted
    filled = fit_depth(volume + 1, depth, "zero")[:, 1, 1]
    before = max(depth - 4, 0) // 2
    assert filled.tolist() == [
        value + 1 if before <= i < before + 4 else 0 for i, value in enumerate(wanted)
    ]


def test_slices_are_kept_when_they_are_bright_enough():
    """Volumes whose slice k sums to k / 2 after min-max."""
    image = np.zeros((6, 8, 8), np.float32)
    for k in range(6):
        image[k, 0, 0], image[k, 1, 1] = 0.25 * k, 0.25 * k
    image[5, 0, 0] = 1.0
    counts = CutCounts()
    found = list(cut(make_patient({"bravo": image}), rules(), counts))
    assert [sample.slice for sample in found] == [3, 4, 5]
    assert counts.left_out == 3
    for sample in found:
        assert sample.image.shape == (1, 8, 8)
        assert sample.modality == 0
        assert sample.spacing == (1.0, 0.5)
        assert not sample.mask.any()


def test_a_slice_of_dual_is_bright_enough_in_both_channels():
    first, second = noise((4, 8, 8), 1), noise((4, 8, 8), 2)
    first[0], second[3] = 0.0, 0.0
    patient = make_patient({"t1_pre": first, "t1_gd": second})
    counts = CutCounts()
    found = list(cut(patient, rules(group="dual"), counts))
    assert [sample.slice for sample in found] == [1, 2]
    assert counts.left_out == 2
    assert {sample.modality for sample in found} == {MODALITIES.index("t1_pre")}
    wanted = normalise(second, "min_max", 0, 100, signed=False)
    np.testing.assert_allclose(found[0].image[1], wanted[1])


def test_the_modalities_of_a_pool_follow_each_other():
    images = {name: noise((3, 8, 8), i) for i, name in enumerate(MODALITIES)}
    mask = np.zeros((3, 8, 8), bool)
    mask[1, 2:4] = True
    found = list(cut(make_patient(images, mask), rules(group="multi_modality"), CutCounts()))
    assert [(s.modality, s.slice) for s in found] == [(m, k) for m in range(4) for k in range(3)]
    assert [bool(s.mask.any()) for s in found] == [False, True, False] * 4
    assert {s.image.shape for s in found} == {(1, 8, 8)}


@pytest.mark.parametrize(("empty", "kept"), [(False, [1]), (True, [0, 1, 2])])
def test_masks_as_images_have_a_lesion_unless_asked_for(empty, kept):
    mask = np.zeros((3, 8, 8), bool)
    mask[1, 2, 2] = True
    counts = CutCounts()
    found = list(cut(make_patient({}, mask), rules(group="seg", empty_masks=empty), counts))
    assert [sample.slice for sample in found] == kept
    assert counts.left_out == 3 - len(kept)
    assert all(sample.image is None and sample.modality == 4 for sample in found)


def test_lesions_that_shrinking_loses_are_counted():
    mask = np.zeros((3, 32, 32), bool)
    mask[0, 0, 0] = True  # between the centres of the 4x4 pixels that one becomes
    mask[1, 8:16, 8:16] = True
    counts = CutCounts()
    found = list(cut(make_patient({"bravo": noise((3, 32, 32))}, mask), rules(), counts))
    assert counts.emptied == 1
    assert [int(sample.mask.sum()) for sample in found] == [0, 4, 0]


def test_volumes_are_resized_cropped_and_padded():
    image, mask = noise((6, 16, 16)), np.zeros((6, 16, 16), bool)
    mask[0, 4:8, 4:8] = True
    patient = make_patient({"bravo": image}, mask)
    for depth, cropped, padded in ((4, 2, 0), (9, 0, 3)):
        counts = CutCounts()
        (found,) = cut(patient, rules(space=(depth, 8, 8)), counts)
        assert found.image.shape == (1, depth, 8, 8)
        assert found.mask.shape == (depth, 8, 8)
        assert found.spacing == (2.0, 2.0, 1.0)
        assert found.slice == -1
        assert (counts.cropped, counts.padded) == (cropped, padded)
        # the lesion was in the slice that is cropped away, and does not grow into the padding
        assert int(found.mask.sum()) == (0 if cropped else 4)
        assert counts.emptied == (1 if cropped else 0)
    np.testing.assert_array_equal(found.image[0, 0], found.image[0, 1])
    counts = CutCounts()
    assert list(cut(patient, rules(space=(4, 8, 8), group="seg"), counts)) == []
    assert counts.left_out == 1


def test_what_cannot_be_scaled_is_named():
    images = {"t1_pre": noise((2, 8, 8)), "t1_gd": np.zeros((2, 8, 8), np.float32)}
    with pytest.raises(DataError, match=r"t1_gd.nii.gz: expected at least two values"):
        list(cut(make_patient(images), rules(group="dual"), CutCounts()))
