"""The law of the Gaussian fields, against many of them and a Fourier sum of its own."""

from __future__ import annotations

import numpy as np
import pytest

from data.style.fields import draw_fields, law_of, spectrum_of
from data.style.settings import DataSettings
from settings.flat import replace

SETTINGS = DataSettings(source="fields", field_channels=3, field_side=8, crops=32)


@pytest.mark.parametrize("style", [0, 1, 2])
def test_patches_have_the_covariance_of_the_law(style):
    """Each entry within five standard errors; patches at one place of independent fields."""
    law, count = law_of(style, SETTINGS), 6_000
    fields = law.draw(count, np.random.default_rng(1)).astype(np.float64)
    patches = fields[:, :, 6:, 3:5]
    patches = np.concatenate([patches], axis=2).reshape(count, -1)
    expected = law.patch_covariance(2)
    found = patches.T @ patches / count
    deviations = np.sqrt(np.diag(expected))
    error = np.sqrt(np.outer(deviations, deviations) ** 2 + expected**2) / np.sqrt(count)
    assert (np.abs(found - expected) < 5 * error).all()
    assert np.abs(patches.mean(axis=0)).max() < 5 * deviations.max() / np.sqrt(count)


def test_the_correlation_is_the_fourier_sum_of_the_spectrum():
    law, side = law_of(1, SETTINGS), 8
    u = np.arange(side)
    for shift in ((0, 0), (1, 0), (2, 3), (7, 5)):
        wave = np.cos(2 * np.pi * (u[:, None] * shift[0] + u * shift[1]) / side)
        assert law.correlation[shift] == pytest.approx((law.spectrum * wave).mean(), abs=1e-12)
    assert law.correlation[0, 0] == pytest.approx(1.0)


def test_a_longer_length_is_smoother_and_0_is_white():
    assert np.allclose(spectrum_of(0.0, 16), 1.0)
    neighbours = [
        np.fft.ifft2(spectrum_of(length, 16)).real[0, 1] for length in (0.0, 0.5, 2.0, 6.0)
    ]
    assert neighbours == sorted(neighbours)
    assert neighbours[0] == pytest.approx(0.0, abs=1e-12)
    assert neighbours[-1] > 0.7


def test_channels_have_the_spread_that_is_set_and_a_mean_variance_of_1():
    covariances = [law_of(style, SETTINGS).channel_covariance for style in range(3)]
    for covariance in covariances:
        values = np.linalg.eigvalsh(covariance)
        assert values[-1] / values[0] == pytest.approx(SETTINGS.field_spread)
        assert values.mean() == pytest.approx(1.0)
    assert np.abs(covariances[0] - covariances[1]).max() > 0.1


def test_fields_are_drawn_by_the_seed_and_independent_between_splits():
    first, again = draw_fields(SETTINGS), draw_fields(SETTINGS)
    for split, of in first.splits.items():
        assert np.array_equal(of.values, again.splits[split].values)
    other = draw_fields(replace(SETTINGS, {"seed": 1}))
    assert not np.array_equal(first.splits["test"].values, other.splits["test"].values)
    train, validation = (first.splits[name].values[0].ravel() for name in ("train", "validation"))
    assert abs(np.corrcoef(train, validation)[0, 1]) < 0.5
    assert len(draw_fields(replace(SETTINGS, {"test_share": 0.0})).splits["test"].values) == 0
