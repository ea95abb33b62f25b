"""The linear denoiser against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.mri.dataset import open_split
from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.forward import noised
from trainables.diffusion.prediction import strategy_of
from trainables.diffusion.references import Linear, fit_linear
from trainables.diffusion.samples import PAIRS
from trainables.diffusion.system import Diffusion
from trainables.stepping.inputs import batch_of

SYSTEM = Diffusion()


def test_the_estimate_is_the_conditional_mean_of_gaussian_data():
    """mean + S (S + r I)^-1 (y - mean), S the covariance that axes, variances and floor say."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0][:3]
    variances, floor, mean = np.array([3.0, 1.0, 0.2]), 0.05, rng.normal(size=6)
    y, ratio = rng.normal(size=(4, 6)), np.array([0.01, 0.1, 1.0, 50.0])
    outside = np.eye(6) - axes.T @ axes
    covariance = axes.T @ np.diag(variances) @ axes + floor * outside
    expected = [
        mean + covariance @ np.linalg.solve(covariance + r * np.eye(6), row - mean)
        for r, row in zip(ratio, y, strict=True)
    ]
    tensors = (torch.from_numpy(x) for x in (mean, axes, variances))
    linear = Linear(*tensors, floor)
    estimate = linear.estimate(torch.from_numpy(y).view(4, 1, 2, 3), torch.from_numpy(ratio))
    np.testing.assert_allclose(estimate.flatten(1).numpy(), np.stack(expected), rtol=1e-6)


def patients_of(count, each, sides, rng):
    """Rows that vary along few directions, with noise; those of a patient are alike."""
    directions = rng.normal(size=(3, sides))
    patients = np.repeat(np.arange(count), each)
    own = rng.normal(size=(count, 3)) @ directions
    rows = own[patients] + 0.3 * rng.normal(size=(len(patients), sides))
    return torch.from_numpy(rows).float(), patients.tolist()


def test_the_floor_is_the_variance_that_new_patients_have_outside():
    rows, patients = patients_of(12, 6, 200, np.random.default_rng(1))
    linear = fit_linear(rows, patients)
    # and what the axes of some patients miss of the others' directions
    assert linear.floor == pytest.approx(0.3**2, rel=0.2)
    # of the training rows themselves nothing is outside
    left = (rows - linear.mean) - (rows - linear.mean) @ linear.axes.T @ linear.axes
    assert float(left.abs().max()) < 1e-3


def test_it_does_better_on_new_patients_than_the_bare_covariance():
    rng = np.random.default_rng(2)
    rows, patients = patients_of(20, 6, 200, rng)
    training, fresh = rows[:60], rows[60:]
    linear = fit_linear(training, patients[:60])
    own = ((training - linear.mean) @ linear.axes.T).square().mean(dim=0)
    bare = Linear(linear.mean, linear.axes, own, 1e-9)
    for ratio in (0.01, 0.1, 1.0):
        noise = torch.from_numpy(rng.normal(size=fresh.shape)).float()
        noisy, ratios = fresh + ratio**0.5 * noise, torch.full((len(fresh),), ratio)
        errors = [
            float((each.estimate(noisy, ratios) - fresh).square().mean())
            for each in (linear, bare)
        ]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("kind", ["rflow", "ddpm"])
def test_references_predict_what_their_estimate_amounts_to(shared_cache, kind):
    """The noisy image as the estimate leaves no noise: what a network would have to say for it."""
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, "strategy.kind": kind})
    prepared = SYSTEM.prepare(settings, shared_cache)
    loaders, found = SYSTEM.loaders(settings, prepared), SYSTEM.references(settings, prepared)
    batch = batch_of(loaders, "validation", list(range(2 * PAIRS)))
    strategy = strategy_of(settings)
    for name in ("mean", "noisy", "linear"):
        prediction = found[name].predict(batch)
        given = noised(prepared.space(settings.space), batch, settings)
        estimate = strategy.clean_estimate(given["noisy"], prediction["prediction"], given["t"])
        torch.testing.assert_close(estimate, prediction["clean_estimate"], atol=2e-3, rtol=2e-3)
    alpha = strategy.coefficients(given["t"]).alpha.float().view(-1, 1, 1, 1)
    noisy = found["noisy"].predict(batch)["clean_estimate"]
    torch.testing.assert_close(noisy * alpha, given["noisy"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["rflow", "ddpm"])
@pytest.mark.parametrize(
    "divided",
    [
        {"space.statistics": "none"},
        {"space.statistics": "sample_means"},
        {"space.input_scale": 0.25},
    ],
    ids=["none", "sample_means", "input_scale"],
)
def test_the_objective_compares_images_whatever_they_are_divided_by(shared_cache, kind, divided):
    """Of one channel: the same noise beside the image's own deviation, the error in its units."""
    values = []
    for differing in ({}, divided):
        changes = {"strategy.kind": kind, **differing}
        settings = replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})
        prepared = SYSTEM.prepare(settings, shared_cache)
        loaders = SYSTEM.loaders(settings, prepared)
        batch = batch_of(loaders, "validation", list(range(4 * PAIRS)))
        found = SYSTEM.references(settings, prepared)
        metric = SYSTEM.metrics(settings, prepared)[0]
        of_each = []
        for each in ("mean", "noisy", "linear"):
            sums, pairs = metric.measure(found[each].predict(batch), batch, settings)
            of_each.append(metric.finish(sums, float(pairs)))
        values.append(of_each)
        deviation = float(prepared.space(settings.space).deviation)
        assert (deviation == pytest.approx(1.0, rel=1e-5)) == (not differing)
    assert values[1] == pytest.approx(values[0], rel=2e-3)


def test_input_scale_is_the_deviation_of_what_is_noised(shared_cache):
    settings = replace(SYSTEM.Settings(), {**SYSTEM.small, "space.input_scale": 0.25})
    prepared = SYSTEM.prepare(settings, shared_cache)
    space, samples = prepared.space(settings.space), open_split(prepared.data, "train")
    images = torch.stack([samples.read(place)["image"] for place in range(len(samples))])
    z = space.encode(images)
    assert float(z.std(correction=0)) == pytest.approx(0.25, rel=1e-4)
    assert float(z.mean()) == pytest.approx(0.0, abs=1e-4)
    torch.testing.assert_close(space.decode(z), images, atol=1e-5, rtol=1e-5)


def test_input_scale_of_images_that_are_not_standardised_is_refused():
    with pytest.raises(SettingsError, match=r"space\.statistics=none leaves images as they are"):
        replace(SYSTEM.Settings(), {"space.statistics": "none", "space.input_scale": 0.5})
