"""Augmentation of one sample: against scipy and closed forms, and what it must never do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import interpolate, ndimage, stats

from data.mri.augment import (
    AugmentSettings,
    GeometrySettings,
    VaeAugmentSettings,
    _bend,
    _blurred,
    _Dice,
    _flipped,
    _intensity,
    _places,
    _sample,
    augment,
)
from settings.flat import leaves, replace
from settings.schema import SettingsError

SLICE, VOLUME = (24, 20), (8, 12, 12)
NEVER = {
    f"{part}.{name}": 0.0
    for part in ("vae", "diffusion")
    for name in ("flip_probability", "turn_probability", "rotation_probability")
} | {f"{part}.shift_scale_probability": 0.0 for part in ("vae", "diffusion")}
NEVER |= {f"vae.{n}_probability": 0.0 for n in ("elastic", "contrast", "blur", "noise")}
ALWAYS = dict.fromkeys(NEVER, 1.0)


def sample_of(space, channels=1, seed=0, modality=0):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((channels, *space), np.float32))
    mask = torch.from_numpy((rng.random((1, *space)) > 0.7).astype(np.float32))
    spacing = torch.tensor([3.0, 1.5, 2.0][-len(space) :])
    number = torch.tensor(modality)
    return {
        "image": mask.clone() if modality == 4 else image,
        "mask": mask,
        "modality": number,
        "spacing": spacing,
    }


def made(changes, **options):
    return replace(AugmentSettings(**options), changes)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def only(class_, **changes):
    """Settings in which nothing happens but what is named."""
    names = {key.removeprefix("vae.") for key in NEVER}
    own = {field.name for field in dataclasses.fields(class_)}
    return class_(**{**dict.fromkeys(names & own, 0.0), **changes})


CASES = [
    (kind, volumes, space, modality)
    for kind in ("diffusion", "vae")
    for volumes in ("flips", "all")
    for space in (SLICE, VOLUME)
    for modality in (0, 4)
]


@pytest.mark.parametrize(("kind", "volumes", "space", "modality"), CASES)
def test_a_sample_stays_one(kind, volumes, space, modality):
    """Shapes, types and ranges; a mask of 0 and 1; seg: image and mask are the same."""
    channels = 1 if modality == 4 else 2
    given_ = sample_of(space, channels, modality=modality)
    copy = {name: value.clone() for name, value in given_.items()}
    different = 0
    for seed in range(8):
        rule = made(ALWAYS, kind=kind, volumes=volumes)
        out = augment(given_, rule, seeded(seed))
        again = augment(given_, rule, seeded(seed))
        assert out.keys() == given_.keys()
        for name, value in out.items():
            assert value.shape == given_[name].shape, name
            assert value.dtype == given_[name].dtype, name
            assert value.is_contiguous(), name
            assert torch.equal(value, again[name]), name
            assert torch.equal(given_[name], copy[name]), "the given sample is never written to"
        assert out["image"].min() >= 0
        assert out["image"].max() <= 1
        assert set(out["mask"].unique().tolist()) <= {0.0, 1.0}
        if modality == 4:
            assert torch.equal(out["image"], out["mask"])
            assert out["image"].data_ptr() != out["mask"].data_ptr()
        different += not torch.equal(out["image"], given_["image"])
    assert different >= 7


def test_none_and_probabilities_of_0_change_nothing():
    for space in (SLICE, VOLUME):
        given_ = sample_of(space)
        for rule in (
            AugmentSettings(kind="none"),
            made(NEVER, kind="vae", volumes="all"),
            made(NEVER, kind="diffusion"),
        ):
            out = augment(given_, rule, seeded(1))
            assert out is not given_
            assert all(torch.equal(out[name], given_[name]) for name in given_)


@pytest.mark.parametrize("space", [(8, 12, 12), (8, 12, 10)])
def test_volumes_are_flipped_along_each_axis_and_turned_in_plane_without_interpolation(space):
    given_ = sample_of(space, 2)
    turned = set()
    for seed in range(80):
        out = augment(given_, AugmentSettings(kind="vae"), seeded(seed))
        swapped = out["spacing"].tolist() == [3.0, 2.0, 1.5]
        found = [
            (flips, quarters)
            for flips in ((), (-3,), (-2,), (-3, -2))  # two flips in plane are a half turn
            for quarters in range(4)
            if torch.rot90(given_["image"].flip(flips), quarters, (-2, -1)).shape
            == out["image"].shape
            and torch.equal(
                torch.rot90(given_["image"].flip(flips), quarters, (-2, -1)), out["image"]
            )
        ]
        assert len(found) == 1
        ((flips, quarters),) = found
        again = torch.rot90(given_["mask"].flip(flips), quarters, (-2, -1))
        assert torch.equal(again, out["mask"])
        assert swapped == bool(quarters % 2)
        turned.add((flips, quarters))
    assert len(turned) == (16 if space[1] == space[2] else 8)


def test_slices_are_flipped_left_to_right_half_of_the_time():
    given_ = sample_of(SLICE)
    rule = made({**NEVER, "diffusion.flip_probability": 0.5}, kind="diffusion")
    flipped = 0
    for seed in range(400):
        out = augment(given_, rule, seeded(seed))
        is_flipped = torch.equal(out["image"], given_["image"].flip(-1))
        assert is_flipped or torch.equal(out["image"], given_["image"])
        assert torch.equal(out["mask"], given_["mask"].flip(-1) if is_flipped else given_["mask"])
        flipped += is_flipped
    assert stats.binomtest(flipped, 400, 0.5).pvalue > 1e-4


def matrix(space, spacing, angle_degrees, scale):
    """Index -> index of where it comes from, about the middle, in mm, axes (.., H, W)."""
    angle = math.radians(angle_degrees)
    turn = np.eye(len(space))
    turn[-2:, -2:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    mm = np.diag(spacing)
    return np.linalg.inv(mm) @ turn @ mm / scale


@pytest.mark.parametrize("space", [SLICE, VOLUME])
@given(seed=st.integers(0, 2**62))
def test_moves_against_scipy(space, seed):
    """One affine map in mm; linear for the image, nearest for the mask, 0 from outside."""
    rule = only(
        VaeAugmentSettings, rotation_probability=1.0, shift_scale_probability=1.0,
        rotation_degrees=40.0, scale_change=0.3, shift_share=0.2,
    )
    given_ = sample_of(space, seed=seed % 1000)
    dice = _Dice(seeded(seed))  # the same numbers in the same order
    angle = dice.within(40.0)
    dice.coin(1.0), dice.coin(1.0)
    scale = 1.0 + dice.within(0.3)
    shift = np.array([dice.within(0.2) for _ in space]) * space
    map_ = matrix(space, given_["spacing"].double().numpy(), angle, scale)
    middle = (np.array(space) - 1) / 2
    offset = middle - map_ @ (middle + shift)
    places = _places(space, given_["spacing"], rule, _Dice(seeded(seed)))
    image = _sample(given_["image"], places, "bilinear")[0].numpy()
    wanted = ndimage.affine_transform(
        given_["image"][0].double().numpy(), map_, offset, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(image, wanted, atol=2e-4)
    mask = _sample(given_["mask"], places, "nearest")[0].numpy()
    nearest = ndimage.affine_transform(
        given_["mask"][0].double().numpy(), map_, offset, order=0, mode="grid-constant"
    )
    assert (mask != nearest).mean() < 0.01, "but for ties"


def test_a_turn_is_clockwise_on_a_screen_for_positive_angles_and_keeps_mm():
    """Twice as tall pixels: a bar of 12 mm lies as 12 mm after a quarter turn."""
    image = torch.zeros(1, 21, 41)
    image[0, 10, 20:32] = 1.0  # to the right of the middle, 12 pixels of 1 mm
    spacing = torch.tensor([2.0, 1.0])
    rule = only(GeometrySettings, rotation_probability=1.0, rotation_degrees=180.0)
    for seed in range(2000):
        angle = _Dice(seeded(seed)).within(180.0)
        if abs(angle - 90.0) < 0.5:
            break
    else:
        pytest.fail("no seed turns by 90 degrees")
    places = _places((21, 41), spacing, rule, _Dice(seeded(seed)))
    out = _sample(image, places, "bilinear")[0]
    assert out[10:16, 20].min() > 0.4, "6 pixels of 2 mm, below the middle"
    assert out[17:].max() < 0.05
    assert out[:9].max() < 0.05


@pytest.mark.parametrize("space", [(64, 64), (64, 48), (12, 32, 32)])
def test_a_bend_is_the_b_spline_of_its_control_points_and_never_folds(space):
    rule = VaeAugmentSettings(elastic_pixels=12.8)
    spacing = torch.tensor([3.0, 1.5, 1.5][-len(space) :])
    pixel_mm = space[-1] / 256 * 1.5
    bend = _bend(space, spacing, rule, seeded(3))
    assert bend.shape == (*space, len(space))
    assert bend.abs().max() <= 12.8 * pixel_mm
    assert bend.abs().max() > 4.0 * pixel_mm
    # scipy's spline along each axis, of the same control points
    cells = [n * float(mm) / (32.0 * pixel_mm) for n, mm in zip(space, spacing, strict=True)]
    counts = [math.ceil(c) + 3 for c in cells]
    drawn = torch.rand((len(space), *counts), generator=seeded(3)).double().numpy()
    wanted = (2 * drawn - 1) * 12.8 * pixel_mm
    for axis, (n, c) in enumerate(zip(space, cells, strict=True), 1):
        at = (np.arange(n) + 0.5) * c / n
        knots = np.arange(-3, counts[axis - 1] + 1)
        wanted = interpolate.BSpline(knots, wanted, 3, axis=axis)(at)
    np.testing.assert_allclose(bend.numpy(), np.moveaxis(wanted, 0, -1), atol=1e-4)
    # no fold: the map's Jacobian determinant is positive everywhere
    steps = [np.arange(n) * float(mm) for n, mm in zip(space, spacing, strict=True)]
    place = np.stack(np.meshgrid(*steps, indexing="ij"), -1) + bend.numpy()
    columns = [np.stack(np.gradient(place[..., a], *steps), -1) for a in range(len(space))]
    assert np.linalg.det(np.stack(columns, -2)).min() > 0


def test_a_bend_scales_with_the_side():
    """The same shape in millimetres at 64 and at 128 pixels of the same field of view."""
    rule = VaeAugmentSettings()
    small = _bend((64, 64), torch.tensor([3.0, 3.0]), rule, seeded(0))
    large = _bend((128, 128), torch.tensor([1.5, 1.5]), rule, seeded(0))
    between = large.reshape(64, 2, 64, 2, 2).mean(dim=(1, 3))
    torch.testing.assert_close(small, between, atol=0.03, rtol=0.0)


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("space", [SLICE, VOLUME])
def test_blur_against_scipy(width, space):
    image = sample_of(space, 2)["image"]
    sigma = {3: 0.8, 5: 1.1}[width]
    wanted = image.double().numpy()
    for axis in range(1, wanted.ndim):
        wanted = ndimage.gaussian_filter1d(
            wanted, sigma, axis=axis, mode="nearest", radius=width // 2
        )
    np.testing.assert_allclose(_blurred(image, width).numpy(), wanted, atol=1e-6)


def test_noise_and_contrast_have_the_strength_that_is_set():
    image = torch.full((1, 64, 64), 0.5)
    rule = only(VaeAugmentSettings, noise_probability=1.0)
    sigmas = [float(_intensity(image, rule, _Dice(seeded(s))).std()) for s in range(200)]
    assert stats.kstest(sigmas, stats.uniform(0.01, 0.04).cdf).pvalue > 1e-3
    rule = only(VaeAugmentSettings, contrast_probability=1.0)
    both = torch.tensor([0.3, 0.6]).view(1, 1, 2)
    outs = torch.stack([_intensity(both, rule, _Dice(seeded(s))).flatten() for s in range(200)])
    factor = (outs[:, 1] - outs[:, 0]) / 0.3
    added = outs[:, 0] - 0.3 * factor
    for found in ((factor - 0.9) / 0.2, (added + 0.1) / 0.2):
        assert stats.kstest(found.numpy(), stats.uniform(0, 1).cdf).pvalue > 1e-3


def test_intensity_changes_never_touch_masks():
    rule = made({key: 1.0 for key in NEVER if "contrast" in key or "noise" in key} | {
        key: 0.0 for key in NEVER if "contrast" not in key and "noise" not in key
    })
    for modality in (0, 4):
        given_ = sample_of(SLICE, modality=modality)
        out = augment(given_, rule, seeded(0))
        assert torch.equal(out["mask"], given_["mask"])
        assert torch.equal(out["image"], given_["image"]) == (modality == 4)


def test_image_and_mask_move_alike():
    """An image that is its mask, linear and nearest, agree but at the edges of lesions."""
    mask = torch.zeros(1, 64, 64)
    mask[0, 20:34, 15:40] = 1.0
    given_ = {**sample_of((64, 64)), "image": mask.clone(), "mask": mask}
    rule = made(
        {key: 0.0 for key in NEVER if "contrast" in key or "noise" in key or "blur" in key}
    )
    moved = 0
    for seed in range(20):
        out = augment(given_, replace(rule, {"vae.elastic_probability": 1.0}), seeded(seed))
        assert (out["image"] - out["mask"]).abs().max() <= 0.75
        assert ((out["image"] > 0.5) != (out["mask"] > 0.5)).float().mean() < 0.005
        moved += not torch.equal(out["mask"], mask)
    assert moved >= 15


def test_another_probability_does_not_change_what_else_happens():
    given_ = sample_of(SLICE)
    flips = [
        _flipped(given_, GeometrySettings(flip_probability=0.5), _Dice(seeded(s)), False)["mask"]
        for s in range(30)
    ]
    for seed, flipped in enumerate(flips):
        rule = made({**NEVER, "vae.flip_probability": 0.5, "vae.noise_probability": 0.5})
        assert torch.equal(augment(given_, rule, seeded(seed))["mask"], flipped)


def test_the_defaults_are_the_documents():
    rule = AugmentSettings()
    for own, degrees, share, scale in ((rule.diffusion, 10, 0.05, 0), (rule.vae, 15, 0.1, 0.1)):
        assert own.flip_probability == own.rotation_probability == 0.5
        assert own.shift_scale_probability == 0.5
        assert (own.rotation_degrees, own.shift_share, own.scale_change) == (degrees, share, scale)
    vae = rule.vae
    assert (vae.noise_probability, vae.noise_sigmas) == (0.3, (0.01, 0.05))
    assert (vae.blur_probability, vae.blur_kernels) == (0.2, (3, 5))
    found = (vae.contrast_probability, vae.brightness_change, vae.contrast_change)
    assert found == (0.3, 0.1, 0.1)
    assert vae.elastic_probability == 0.2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"elastic_pixels": 13.0}, "at most 0.4 of elastic_spacing"),
        ({"blur_kernels": (4,)}, "odd numbers"),
        ({"blur_kernels": ()}, "odd numbers"),
        ({"noise_sigmas": (0.5, 0.1)}, "least and the largest"),
        ({"noise_sigmas": (0.5,)}, "least and the largest"),
    ],
)
def test_settings_that_cannot_be(changes, text):
    with pytest.raises(SettingsError, match=text):
        VaeAugmentSettings(**changes)


def test_every_setting_has_help():
    assert all(leaf.help for leaf in leaves(AugmentSettings).values())
