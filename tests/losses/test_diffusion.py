"""The terms of diffusion against sums over samples and pixels by hand, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from losses.diffusion import TERMS
from losses.diffusion_terms import LossSettings
from settings.flat import replace

SIZES = {1: 2.5, 2: 1.8, 3: 1.4, 4: 1.2}
"""The document's weights of the size classes; 1 outside of lesions."""


class Tree:
    """What the terms read of a system's settings."""

    def __init__(self, **changes):
        named = {key.replace("__", "."): value for key, value in changes.items()}
        self.loss = replace(LossSettings(), named)


def given(channels=1, cells=8, factor=1, seed=0):
    """(prediction, batch) of 4 samples; a cell has `factor`^2 pixels, each a channel or more."""
    rng = np.random.default_rng(seed)
    inner = channels * factor**2
    shape = (4, inner, cells, cells)
    names = ("prediction", "second", "target", "sda.prediction", "sda.target")
    prediction = {name: rng.normal(size=shape).astype(np.float32) for name in names}
    prediction["weight"] = rng.uniform(0.5, 2.0, 4).astype(np.float32)
    prediction["sda.weight"] = np.array([0.0, 1.0, 0.0, 1.5], np.float32)
    region = rng.integers(0, 5, (4, 1, cells * factor, cells * factor)).astype(np.uint8)
    image = rng.uniform(size=(4, channels, cells * factor, cells * factor)).astype(np.float32)
    batch = {"region": region, "image": image}
    return tuple({k: torch.from_numpy(v) for k, v in d.items()} for d in (prediction, batch))


def value(name, prediction, batch, settings):
    total, count = TERMS[name](prediction, batch, settings)
    return float(total) / float(count)


def squared(prediction, one, other):
    return (prediction[one].numpy().astype(np.float64) - prediction[other].numpy()) ** 2


def test_mse_is_the_mean_over_values_times_the_weight_of_the_sample():
    prediction, batch = given()
    error = squared(prediction, "prediction", "target").mean(axis=(1, 2, 3))
    expected = (prediction["weight"].numpy() * error).mean()
    assert value("mse", prediction, batch, Tree()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("normalised", [True, False])
def test_regional_weighs_values_by_the_size_of_their_lesion(factor, normalised):
    """Divided by the weights; in the document's form by the values, so that lesions raise it."""
    prediction, batch = given(channels=2, factor=factor)
    error = squared(prediction, "prediction", "target")
    region = batch["region"].numpy()[:, 0]
    weights = np.vectorize(lambda r: SIZES.get(r, 1.0))(region)
    by_cell = weights.reshape(4, 8, factor, 8, factor).mean(axis=(2, 4))[:, None]
    of_sample = prediction["weight"].numpy()[:, None, None, None]
    total = (of_sample * by_cell * error).sum()
    count = (by_cell * np.ones_like(error)).sum() if normalised else error.size
    found = value("regional", prediction, batch, Tree(regional__normalised=normalised))
    assert found == pytest.approx(total / count, rel=1e-5)


def test_lesions_raise_the_documents_regional_error_and_not_ours():
    """Of a prediction that is equally wrong everywhere (001-M17)."""
    prediction, batch = given()
    prediction["prediction"] = prediction["target"] + 1.0
    prediction["weight"] = torch.ones(4)
    without = {**batch, "region": torch.zeros_like(batch["region"])}
    ours, theirs = Tree(), Tree(regional__normalised=False)
    for regions in (batch, without):
        assert value("regional", prediction, regions, ours) == pytest.approx(1.0, rel=1e-5)
    assert value("regional", prediction, without, theirs) == pytest.approx(1.0, rel=1e-5)
    assert value("regional", prediction, batch, theirs) > 1.3


def test_consistency_is_the_mean_difference_of_two_predictions():
    prediction, batch = given()
    expected = squared(prediction, "prediction", "second").mean()
    assert value("consistency", prediction, batch, Tree()) == pytest.approx(expected, rel=1e-6)


def test_sda_is_a_mean_over_all_samples_of_those_that_are_augmented():
    prediction, batch = given()
    error = squared(prediction, "sda.prediction", "sda.target").mean(axis=(1, 2, 3))
    expected = (prediction["sda.weight"].numpy() * error).sum() / 4
    assert value("sda", prediction, batch, Tree()) == pytest.approx(expected, rel=1e-6)
