"""Outlines and their heat, against the Bessel series and the symmetries of the equation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j0, j1, jn_zeros

from data.fields.outlines import (
    CONDUCTIVITY_SLOPE,
    END_TIME,
    GRID,
    PROBE_REACH,
    Outline,
    conduct,
    field,
    image,
    nodes,
    random_outline,
    samples,
)

SLOPES = (0.0, CONDUCTIVITY_SLOPE)


def outline_of(seed: int) -> Outline:
    return random_outline(np.random.default_rng(seed))


def disc_temperatures(distance: np.ndarray, radius: float, times: np.ndarray) -> np.ndarray:
    """u(r, t) = Σ 2 / (α_n J1(α_n)) J0(α_n r/a) exp(-α_n² t/a²): a disc of temperature 1 whose rim
    is held at 0 (Carslaw and Jaeger, Conduction of Heat in Solids, 7.6).
    """
    alpha = jn_zeros(0, 200)
    modes = 2.0 / (alpha * j1(alpha)) * j0(alpha * distance[..., None] / radius)
    decay = np.exp(-(alpha**2) * times[:, None] / radius**2)
    return np.einsum("...n,tn->t...", modes, decay) * (distance < radius)


@pytest.mark.parametrize("radius", [0.4, 0.6])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.013, -0.021)])
def test_a_disc_against_the_bessel_series(centre, radius):
    """Within 0.04 of the initial temperature at the first of 32 times, where the rim is still a
    jump, and within 0.01 from the fifth on.
    """
    times = END_TIME * np.arange(1, 33) / 32
    place = nodes()
    distance = np.hypot(place[None] - centre[0], place[:, None] - centre[1])
    error = conduct(Outline(centre, radius), 32, 0.0) - disc_temperatures(distance, radius, times)
    assert np.abs(error).max() < 0.04
    assert np.abs(error[4:]).max() < 0.01
    assert np.sqrt(np.mean(error**2)) < 0.002


def test_the_probes_of_a_disc_against_the_bessel_series():
    at = np.linspace(-PROBE_REACH, PROBE_REACH, 8)
    distance = np.hypot(at[None], at[:, None]).reshape(-1)
    times = END_TIME * np.arange(1, 33) / 32
    wanted = disc_temperatures(distance, 0.6, times)
    np.testing.assert_allclose(field(Outline((0.0, 0.0), 0.6), 32, 8, True), wanted, atol=0.02)


@given(seed=st.integers(0, 10**6), slope=st.sampled_from(SLOPES))
@settings(max_examples=min(15, settings.default.max_examples))
def test_heat_only_leaves(seed, slope):
    """The temperature stays between those of the body and of its surroundings; heat and ‖u‖²
    fall at every time.
    """
    history = conduct(outline_of(seed), 16, slope)
    assert history.min() >= -1e-6
    assert history.max() <= 1.0 + 1e-6
    for energy in (history.sum((1, 2)), (history**2).sum((1, 2))):
        assert (np.diff(energy) < 0.0).all()
        assert energy[-1] > 0.0


@given(seed=st.integers(0, 10**6))
@settings(max_examples=min(10, settings.default.max_examples))
def test_flipping_outline_and_conductivity_flips_the_temperatures(seed):
    outline = outline_of(seed)
    there = conduct(outline, 8, 0.4)
    back = conduct(outline.flipped(), 8, -0.4)[..., ::-1]
    np.testing.assert_allclose(back, there, atol=1e-9)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=min(10, settings.default.max_examples))
def test_only_symmetric_fields_are_the_same_for_the_flipped_outline(seed):
    outline = outline_of(seed)
    here, there = (field(body, 8, 6, True) for body in (outline, outline.flipped()))
    np.testing.assert_allclose(here, there, atol=1e-9)
    here, there = (field(body, 8, 6, False) for body in (outline, outline.flipped()))
    assert np.linalg.norm(here - there) > 0.05 * np.linalg.norm(here)


def test_the_conductivity_breaks_the_symmetry_of_a_disc():
    """Not the place of the body alone: heat stays longer on the left, where less is conducted."""
    history = conduct(Outline((0.0, 0.0), 0.6), 16, CONDUCTIVITY_SLOPE)[-1]
    left, right = history[:, : GRID // 2].sum(), history[:, GRID // 2 :].sum()
    assert left > 1.05 * right


@given(seed=st.integers(0, 10**6), side=st.sampled_from([16, 33, 64]))
def test_images_are_flipped_by_flipped_outlines(seed, side):
    outline = outline_of(seed)
    flipped = image(outline.flipped(), side)
    np.testing.assert_allclose(flipped, image(outline, side)[:, ::-1], atol=1e-9)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=min(10, settings.default.max_examples))
def test_a_pixel_is_the_covered_share(seed):
    """Against 16x16 points in each pixel."""
    outline, side, fine = outline_of(seed), 32, 16
    place = (np.arange(side * fine) + 0.5) * 2.0 / (side * fine) - 1.0
    inside = outline.depth(place[None], place[:, None]) > 0.0
    share = inside.reshape(side, fine, side, fine).mean((1, 3))
    drawn = image(outline, side)
    assert np.abs(drawn - share).max() < 0.2
    assert abs(drawn.mean() - share.mean()) < 1e-3
    assert {0.0, 1.0} <= set(drawn.ravel().tolist())


@given(seed=st.integers(0, 10**6))
def test_bodies_lie_within_the_frame_and_are_not_cut_in_two(seed):
    outline = outline_of(seed)
    around, slope = outline.shape(np.linspace(-math.pi, math.pi, 500))
    assert np.hypot(*outline.centre) + outline.radius * around.max() < 0.91
    assert outline.radius > 0.15
    assert around.min() > 0.24
    # r'(θ) is what `depth` takes it for.
    numeric = np.gradient(around, np.linspace(-math.pi, math.pi, 500), edge_order=2)
    np.testing.assert_allclose(slope, numeric, atol=0.02)


def test_the_seed_decides_and_the_count_does_not():
    few = list(samples(2, 3, 32, 8, 4, False))
    more = list(samples(4, 3, 32, 8, 4, False))
    for (one, field_one), (other, field_other) in zip(few, more[:2], strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(field_one, field_other)
        assert one.shape == (32, 32)
        assert field_one.shape == (8, 16)
    assert not np.array_equal(more[2][0], more[3][0])
    assert not np.array_equal(next(samples(1, 4, 32, 8, 4, False))[0], few[0][0])


def test_fields_differ_between_bodies():
    """A mean field would not do: the spread over bodies is a good part of the field."""
    fields = np.stack([made for _, made in samples(40, 0, 16, 8, 8, False)])
    spread = np.linalg.norm(fields - fields.mean(0)) / np.linalg.norm(fields)
    assert 0.3 < spread < 0.9
