"""Shift and deviation of latents, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.latent_scale import channel_scale, constant_channels, overall_scale

EPS = float(np.finfo(np.float32).eps)


def latents(seed: int, level: float) -> np.ndarray:
    """[7, 4, 5, 6]: channels of other means and deviations."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(7, 4, 5, 6)) * np.array([1e-3, 1.0, 40.0, 7.0])[:, None, None]
    return (values + level * np.array([1.0, -1.0, 0.0, 3.0])[:, None, None]).astype(np.float32)


def moments(values: np.ndarray) -> tuple[list[float], list[float]]:
    wide = values.astype(np.float64)
    return wide.mean(axis=(0, 2, 3)).tolist(), wide.std(axis=(0, 2, 3)).tolist()


def test_every_channel_has_mean_0_and_variance_1():
    values = latents(0, 2.0)
    mean, std = moments(values)
    made = channel_scale(mean, std, 2).standardised(values)
    assert made.dtype == np.float32
    assert np.allclose(made.mean(axis=(0, 2, 3), dtype=np.float64), 0.0, atol=1e-5)
    assert np.allclose(made.std(axis=(0, 2, 3), dtype=np.float64), 1.0, rtol=1e-5)
    alone = channel_scale(mean, std, 2).standardised(values[3])
    assert np.array_equal(alone, made[3]), "with and without an axis for the batch"
    wanted = (values[3, 2].astype(np.float64) - mean[2]) / std[2]
    assert np.array_equal(alone[2], wanted.astype(np.float32))


@given(seed=st.integers(0, 10**6), level=st.sampled_from([0.0, 1.0, 1e4]), each=st.booleans())
def test_what_comes_back_differs_by_the_rounding_of_float32(seed, level, each):
    """Twice by half a unit in the last place: of latent - shift, and of the latent."""
    values = latents(seed, level)
    mean, std = moments(values)
    whole = float(np.mean(mean)), 1.0 / float(values.std(dtype=np.float64))
    scale = channel_scale(mean, std, 2) if each else overall_scale(*whole)
    back = scale.restored(scale.standardised(values))
    assert back.dtype == np.float32
    wide = values.astype(np.float64)
    bound = 0.5 * EPS * (np.abs(wide - scale.shift) + np.abs(wide))
    assert np.all(np.abs(back - wide) <= bound * (1.0 + 1e-6))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0e5])
def test_a_constant_channel_is_shifted_only(value):
    values = latents(1, 0.0)
    values[:, 1] = value
    mean, std = moments(values)
    assert constant_channels(mean, std).tolist() == [False, True, False, False]
    scale = channel_scale(mean, std, 2)
    made = scale.standardised(values)
    assert np.allclose(made[:, 1], 0.0, atol=EPS * abs(value))
    assert np.array_equal(scale.restored(made)[:, 1], values[:, 1])
    other = np.full((4, 5, 6), value + 0.5, np.float32)  # of a split where it is not constant
    assert np.allclose(scale.standardised(other)[1], other[1] - value, atol=EPS * abs(value))


def test_small_deviations_of_a_small_mean_are_no_constant():
    mean, std = [1.0, 1.0, 0.0, 0.0], [1e-6, 2e-7, 1e-30, 0.0]
    assert constant_channels(mean, std).tolist() == [False, True, False, True]
