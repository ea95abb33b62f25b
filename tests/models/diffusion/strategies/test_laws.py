"""Samplers of diffusion step by step against MONAI's, and the law of the samples that predictions
for Gaussian data and for a mixture lead to, against closed forms.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from scipy import stats

from models.diffusion.strategies.sampling import denoising_step, sample
from models.draws import draw_normal
from models.integration import SOLVERS

KINDS = ("rflow", "epsilon", "v", "epsilon_100")
SEEDS = torch.arange(4096)

pytestmark = pytest.mark.usefixtures("one_thread")


def affine(made, settings, predict, **options):
    """(factor, shift) of the sample as a function of its noise, where the sampler is linear."""
    noise = torch.tensor([[0.0], [1.0], [-2.0]])
    x = sample(made, predict, SEEDS[:3], (1,), settings, noise=noise, **options).x[:, 0]
    factor, shift = float(x[1] - x[0]), float(x[0])
    assert float(x[2]) == pytest.approx(shift - 2.0 * factor, abs=1e-4)
    return factor, shift


# --- steps of diffusion, against MONAI -----------------------------------------------------------


def monai_pair(prediction="epsilon"):
    kinds = {"epsilon": "epsilon", "v": "v_prediction"}
    options = {"schedule": "cosine", "clip_sample": False, "prediction_type": kinds[prediction]}
    return DDIMScheduler(1000, **options), DDPMScheduler(1000, **options)


def states(samples=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, samples, 1, 4, 4, generator=generator)


def ours(made, x, prediction, here, there, eta, fresh=None):
    """A step between times in 1/1000; the image's estimate and the noise's are the strategy's."""
    t, s = (torch.full((len(x),), place / 1000, dtype=torch.float64) for place in (here, there))
    clean, noise = (
        made.clean_estimate(x, prediction, t),
        made.noise_estimate(x, prediction, t),
    )
    at_t, at_s = made.coefficients(t), made.coefficients(s)
    return denoising_step(at_t, at_s, clean, noise, eta, fresh)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("place", [40, 500, 920])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_of_ddim_is_that_of_monai(analytic, prediction, place, eta):
    """Its index i is our step i + 1, and it goes 20 back; noise by the same generator."""
    scheduler, _ = monai_pair(prediction)
    scheduler.set_timesteps(50)
    x, predicted, _ = states()
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    expected, _ = scheduler.step(
        predicted, place - 1, x, eta, generator=torch.Generator().manual_seed(2)
    )
    found = ours(analytic.strategy(prediction), x, predicted, place, place - 20, eta, fresh)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("place", [2, 40, 500, 990])
def test_an_ancestral_step_is_that_of_monai(analytic, prediction, place):
    """`fixed_small`: the variance of the posterior."""
    _, scheduler = monai_pair(prediction)
    x, predicted, _ = states()
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    expected, _ = scheduler.step(
        predicted, place - 1, x, generator=torch.Generator().manual_seed(2)
    )
    found = ours(analytic.strategy(prediction), x, predicted, place, place - 1, 1.0, fresh)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_sampler_is_made_of_these_steps(analytic):
    """A loop over MONAI's DDPM of 100 steps, with our noises in place of its own, beside ours."""
    made = analytic.strategy("v_100")
    predict = analytic.gaussian(made)
    scheduler = DDPMScheduler(
        100, schedule="cosine", clip_sample=False, prediction_type="v_prediction"
    )
    x = draw_normal(SEEDS[:5], "noise", (1,))
    for number, place in enumerate(range(100, 0, -1)):
        prediction = predict(x, torch.full((5,), place / 100))
        mean, _ = scheduler.step(
            prediction, place - 1, x, generator=torch.Generator().manual_seed(3)
        )
        if place > 1:
            theirs = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
            bar = scheduler.alphas_cumprod.double()
            beta = scheduler.betas.double()[place - 1]
            std = float(((1 - bar[place - 2]) / (1 - bar[place - 1]) * beta).sqrt())
            mean = mean + std * (draw_normal(SEEDS[:5], f"step {number}", (1,)) - theirs)
        x = mean
    settings = analytic.sampling(steps=100, ddpm__solver="ancestral")
    found = sample(made, predict, SEEDS[:5], (1,), settings)
    torch.testing.assert_close(found.x, x, rtol=0.0, atol=1e-3)


# --- Gaussian data: the law of the samples in closed form ----------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_rflow_arrives_at_gaussian_data(analytic, solver):
    """x(0) = mean + std x(1); Euler of 200 steps is off by the order of a step."""
    made = analytic.strategy("rflow")
    settings = analytic.sampling(rflow__solver=solver, steps=200)
    factor, shift = affine(made, settings, analytic.gaussian(made))
    tolerance = 5e-3 if solver == "euler" else 1e-4
    assert factor == pytest.approx(analytic.std, abs=tolerance)
    assert shift == pytest.approx(analytic.mean, abs=tolerance)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("epsilon", 10), ("epsilon", 333), ("v", 10), ("v", 50), ("epsilon_100", 50), ("v_100", 250)],
)
def test_ddim_is_the_product_of_its_steps(analytic, kind, steps):
    """Against the recursion of means and deviations by numpy, and near the data's own."""
    made = analytic.strategy(kind)
    settings = analytic.sampling(steps=steps)
    times = made.sampling_times(settings)
    at = made.coefficients(times)
    alpha, sigma = at.alpha.numpy(), at.sigma.numpy()
    factor, shift = 1.0, 0.0
    for (alpha_t, alpha_s), (sigma_t, sigma_s) in zip(
        pairwise(alpha), pairwise(sigma), strict=True
    ):
        variance = alpha_t**2 * analytic.std**2 + sigma_t**2
        slope = (alpha_s * alpha_t * analytic.std**2 + sigma_s * sigma_t) / variance
        factor, shift = (
            factor * slope,
            slope * (shift - alpha_t * analytic.mean) + alpha_s * analytic.mean,
        )
    found = affine(made, settings, analytic.gaussian(made))
    assert found == pytest.approx((factor, shift), abs=1e-4)
    if steps >= 50:
        first = (
            analytic.mean * analytic.std * alpha[0]
        )  # of the noise that is taken for x_t above t = 0
        assert found == pytest.approx((analytic.std, analytic.mean), abs=0.035 + first)


def variance_of(analytic, made, settings, eta):
    """(mean, variance) of the samples by the same recursion, with the noise of each step."""
    times = made.sampling_times(settings)
    mean, variance = 0.0, 1.0
    at = made.coefficients(times)
    for (alpha_t, alpha_s), (sigma_t, sigma_s) in zip(
        pairwise(at.alpha.numpy()), pairwise(at.sigma.numpy()), strict=True
    ):
        added = eta**2 * sigma_s**2 / sigma_t**2 * (1.0 - alpha_t**2 / alpha_s**2)
        total = alpha_t**2 * analytic.std**2 + sigma_t**2
        slope = alpha_s * alpha_t * analytic.std**2 + math.sqrt(sigma_s**2 - added) * sigma_t
        slope /= total
        mean = slope * (mean - alpha_t * analytic.mean) + alpha_s * analytic.mean
        variance = slope**2 * variance + added
    return mean, variance


@pytest.mark.parametrize("kind", ["epsilon", "v", "epsilon_100"])
@pytest.mark.parametrize(("changes", "eta"), [({"solver": "ancestral"}, 1.0), ({"eta": 0.5}, 0.5)])
def test_noisy_samplers_have_the_mean_and_the_variance_of_their_steps(
    analytic, kind, changes, eta
):
    made = analytic.strategy(kind)
    settings = analytic.sampling(
        steps=60, **{f"ddpm__{key}": value for key, value in changes.items()}
    )
    x = sample(made, analytic.gaussian(made), SEEDS, (1,), settings).x.numpy()
    mean, variance = variance_of(analytic, made, settings, eta)
    error = math.sqrt(variance / len(x))
    assert float(x.mean()) == pytest.approx(mean, abs=3 * error)
    assert float(x.var()) == pytest.approx(variance, rel=3 * math.sqrt(2 / len(x)))
    assert abs(mean - analytic.mean) < 0.01 and abs(math.sqrt(variance) - analytic.std) < 0.04


@pytest.mark.slow
def test_all_steps_of_ddpm_have_the_law_of_the_data(analytic):
    made = analytic.strategy("v")
    settings = analytic.sampling(steps=1000, ddpm__solver="ancestral")
    x = sample(made, analytic.gaussian(made), SEEDS, (1,), settings).x[:, 0].numpy()
    assert stats.kstest(x, stats.norm(analytic.mean, analytic.std).cdf).pvalue > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_leaves_the_law_of_the_data(analytic, kind):
    """Noise of the right amount leads to the law at the later t; the way down leads back. The
    final state is the data's as without a restart, but half of it has been drawn anew.
    """
    made = analytic.strategy(kind)
    changes = {
        "steps": 100,
        "rflow__solver": "heun",
        "restart__enabled": True,
        "restart__rounds": 3,
        "restart__steps": 60,
    }
    with_restart = (
        sample(made, analytic.gaussian(made), SEEDS, (1,), analytic.sampling(**changes))
        .x[:, 0]
        .numpy()
    )
    changes["restart__enabled"] = False
    without = (
        sample(made, analytic.gaussian(made), SEEDS, (1,), analytic.sampling(**changes))
        .x[:, 0]
        .numpy()
    )
    assert stats.kstest(with_restart, stats.norm(analytic.mean, analytic.std).cdf).pvalue > 0.01
    correlation = np.corrcoef(with_restart, without)[0, 1]
    assert correlation < 0.95


# --- a mixture


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("rflow", {"rflow__solver": "heun"}),
        ("rflow", {"rflow__solver": "rk4", "steps": 30}),
        ("rflow", {"rflow__solver": "midpoint", "restart__enabled": True}),
        ("v", {"steps": 120}),
        ("v", {"steps": 120, "ddpm__solver": "ancestral"}),
        ("epsilon", {"steps": 120, "ddpm__eta": 0.3}),
    ],
)
def test_modes_get_their_shares(analytic, kind, changes):
    """4,096 samples of .3/.7, within 3 standard errors, and the places and widths of the modes."""
    made = analytic.strategy(kind)
    settings = analytic.sampling(**{"steps": 100, **changes})
    x = sample(made, analytic.mixture(made), SEEDS, (1,), settings).x[:, 0]
    lower = x < sum(analytic.modes) / 2
    share = float(lower.double().mean())
    assert share == pytest.approx(analytic.shares[0], abs=3 * math.sqrt(0.3 * 0.7 / len(x)))
    for part, mean in ((x[lower], analytic.modes[0]), (x[~lower], analytic.modes[1])):
        assert float(part.mean()) == pytest.approx(
            mean, abs=3 * analytic.width / math.sqrt(len(part))
        )
        assert float(part.std()) == pytest.approx(analytic.width, rel=0.15)
