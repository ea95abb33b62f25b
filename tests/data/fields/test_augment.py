"""Augmentation against scipy, its net probabilities, and what it must not depend on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from data.fields.augment import FIXED_VIEW, AugmentSettings, add_noise, blend, draw, uniforms, warp
from settings.flat import replace

ALWAYS = AugmentSettings(
    **{
        f"{name}_probability": 1.0
        for name in ("outer", "inner", "flip", "shift", "rotation", "scale", "mixup", "noise")
    },
    flip_symmetric=True,
)
SIDE = 24


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, 1, SIDE, SIDE), np.float32))


def drawn(settings: AugmentSettings, seeds: list[int], size: int = 1000):
    return draw(settings, list(range(len(seeds))), seeds, size)


def still(count: int = 1):
    """Draws in which nothing happens, to be changed one by one."""
    none = replace(ALWAYS, {"outer_probability": 0.0, "mixup_probability": 0.0})
    return drawn(replace(none, {"noise_probability": 0.0}), list(range(count)))


def with_only(count: int = 1, **changes):
    return dataclasses.replace(
        still(count), **{name: np.asarray(value) for name, value in changes.items()}
    )


@given(
    flip=st.booleans(),
    angle=st.floats(-180.0, 180.0),
    scale=st.floats(0.5, 2.0),
    shift=st.tuples(st.integers(-5, 5), st.integers(-5, 5)),
)
def test_warp_against_scipy(flip, angle, scale, shift):
    draws = with_only(
        flip=[flip], angle_degrees=[angle], scale=[scale], shift_pixels=[[*map(float, shift)]]
    )
    image = pictures(1)
    source = image[0, 0].numpy()[:, ::-1] if flip else image[0, 0].numpy()
    # scipy asks where (row, column) of the result comes from: around the middle, turned back.
    a = math.radians(angle)
    back = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) / scale
    middle = np.full(2, (SIDE - 1) / 2)
    offset = middle - back @ (middle + np.array([shift[1], shift[0]]))
    wanted = ndimage.affine_transform(
        source.astype(np.float64), back, offset, order=1, mode="grid-constant", cval=0.0
    )
    np.testing.assert_allclose(warp(image, draws)[0, 0].numpy(), wanted, atol=2e-4)


def test_positive_angles_turn_clockwise_and_positive_shifts_go_right_and_down():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 7] = 1.0  # right of the middle
    turned = warp(image, with_only(angle_degrees=[90.0]))
    assert torch.isclose(turned[0, 0, 7, 4], torch.tensor(1.0), atol=1e-4)  # below it
    moved = warp(image, with_only(shift_pixels=[[1.0, 2.0]]))
    assert torch.isclose(moved[0, 0, 6, 8], torch.tensor(1.0), atol=1e-4)


def test_flips_and_whole_shifts_keep_the_pixels():
    image = pictures(1)
    flipped = warp(image, with_only(flip=[True]))
    torch.testing.assert_close(flipped, image.flip(-1), atol=1e-5, rtol=0)
    moved = warp(image, with_only(shift_pixels=[[-1.0, 0.0]]))
    torch.testing.assert_close(moved[..., :-1], image[..., 1:], atol=1e-5, rtol=0)
    assert (moved[..., -1] == 0).all()  # background comes in, not the other side


@pytest.mark.parametrize("symmetric", [False, True])
def test_net_probabilities(symmetric):
    """Each share lies within 4.5 deviations of its binomial mean; a wrong coin misses by far."""
    settings = AugmentSettings(flip_symmetric=symmetric)
    count = 60_000
    draws = drawn(settings, list(range(count)))
    seen = {
        "outline": draws.moved,
        "flip": draws.flip,
        "rotation": draws.angle_degrees != 0.0,
        "scale": draws.scale != 1.0,
        "mixup": draws.mixed,
        "noise": draws.noise_seeds >= 0,
    }
    net = settings.net_probabilities
    assert net == pytest.approx(
        {
            "outline": 0.4,
            "flip": 0.06 if symmetric else 0.0,
            "shift": 0.2,
            "rotation": 0.12,
            "scale": 0.12,
            "mixup": 0.02,
            "noise": 0.05,
        }
    )
    # One shift in nine is by (0, 0).
    expected = {**net, "shift": net["shift"] * 8 / 9}
    seen["shift"] = draws.shift_pixels.any(axis=1)
    for name, share in expected.items():
        deviation = math.sqrt(share * (1.0 - share) / count)
        assert abs(seen[name].mean() - share) <= 4.5 * deviation, name
    # Flip, shift, rotation and scale happen to moved samples only, and apart from each other.
    assert not (draws.warped & ~draws.moved).any()
    both = (seen["rotation"] & seen["scale"]).mean()
    assert abs(both - 0.4 * 0.09) <= 4.5 * math.sqrt(0.036 / count)


def test_distributions_of_what_is_drawn():
    draws = drawn(replace(ALWAYS, {"mixup_alpha": 0.2}), list(range(20_000)), size=7)
    uniform = stats.uniform(-1.0, 2.0)
    assert stats.kstest(draws.angle_degrees / 5.0, uniform.cdf).pvalue > 1e-3
    assert stats.kstest((draws.scale - 1.0) / 0.05, uniform.cdf).pvalue > 1e-3
    assert stats.kstest(draws.own_share, stats.beta(0.2, 0.2).cdf).pvalue > 1e-3
    steps, counts = np.unique(draws.shift_pixels, return_counts=True)
    assert steps.tolist() == [-1.0, 0.0, 1.0]
    assert stats.chisquare(counts).pvalue > 1e-3
    # The partner is any other sample: 6 of 7, alike.
    further = (draws.partner - np.arange(20_000)) % 7
    steps, counts = np.unique(further, return_counts=True)
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_uniforms_are_uniform_and_independent_between_columns_and_seeds():
    for seeds in (list(range(4000)), [(7 << 40) * i for i in range(4000)]):
        u = uniforms(seeds, 15)
        assert ((u >= 0.0) & (u < 1.0)).all()
        assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-4
        off = np.corrcoef(u.T) - np.eye(15)
        assert np.abs(off).max() < 5.0 / math.sqrt(4000)
        assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 5.0 / math.sqrt(4000)


@given(
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6, unique=True),
    data=st.data(),
)
def test_a_sample_does_not_depend_on_its_batch(seeds, data):
    """Bit by bit: alone, and among others in any order."""
    order = data.draw(st.permutations(range(len(seeds))))
    images = pictures(len(seeds), seed=1)

    def changed(chosen: list[int]) -> torch.Tensor:
        draws = draw(ALWAYS, chosen, [seeds[i] for i in chosen], len(seeds))
        moved = warp(images[chosen], draws)
        moved = blend(moved, images[draws.partner[draws.mixed]], draws)
        return add_noise(moved, draws, 0.01)

    together = changed(order)
    for place, index in enumerate(order):
        assert torch.equal(together[place], changed([index])[0])


def test_nothing_is_written_to():
    images = pictures(16)
    before = images.clone()
    draws = drawn(ALWAYS, list(range(16)), size=16)
    moved = warp(images, draws)
    mixed = blend(images, images[draws.partner], draws)
    noisy = add_noise(images, draws, 0.1)
    assert torch.equal(images, before)
    for made in (moved, mixed, noisy):
        assert not torch.equal(made, before)
        assert made.data_ptr() != images.data_ptr()
        assert made.min() >= 0.0
        assert made.max() <= 1.0


def test_nothing_happens_where_the_coins_say_so():
    images = pictures(4)
    draws = still(4)
    assert not draws.warped.any()
    assert torch.equal(warp(images, draws), images)
    assert torch.equal(add_noise(images, draws, 0.5), images)
    assert not drawn(ALWAYS, [1, 2, 3], size=1).mixed.any()  # with whom?


def test_mixing_is_the_convex_combination_of_the_mixed_samples():
    values, partners = torch.randn(3, 2, 4), torch.randn(2, 2, 4)
    draws = with_only(3, mixed=[True, False, True], own_share=[0.25, 1.0, 0.5])
    made = blend(values, partners, draws)
    torch.testing.assert_close(made[0], 0.25 * values[0] + 0.75 * partners[0])
    assert torch.equal(made[1], values[1])
    torch.testing.assert_close(made[2], 0.5 * values[2] + 0.5 * partners[1])


def test_noise_has_its_deviation():
    images = torch.full((8, 1, 64, 64), 0.5)
    noisy = add_noise(images, drawn(ALWAYS, list(range(8))), 0.05)
    assert (noisy - 0.5).std().item() == pytest.approx(0.05, rel=0.02)
    assert len({row.numpy().tobytes() for row in noisy}) == 8


def test_the_fixed_view_always_moves_and_never_flips_or_mixes():
    draws = drawn(FIXED_VIEW, list(range(500)))
    assert draws.warped.all()
    assert not draws.flip.any()
    assert not draws.mixed.any()
    assert (draws.noise_seeds < 0).all()


@pytest.mark.gpu
def test_on_a_gpu_the_numbers_are_those_of_the_cpu():
    images = pictures(32)
    draws = drawn(ALWAYS, list(range(32)), size=32)
    for change in (
        lambda x: warp(x, draws),
        lambda x: blend(x, x[torch.from_numpy(draws.partner).to(x.device)], draws),
        lambda x: add_noise(x, draws, 0.1),
    ):
        torch.testing.assert_close(change(images.cuda()).cpu(), change(images), atol=1e-4, rtol=0)
