"""What is noised and what is predicted: against MONAI's schedulers in fp32, against formulas of
the papers, and estimates against the image and the noise that they are of.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.ddpm import cosine_alpha_bar
from models.diffusion.strategies.settings import StrategySettings
from settings.flat import replace

KINDS = {
    "rflow": {},
    "epsilon": {"kind": "ddpm"},
    "v": {"kind": "ddpm", "ddpm.prediction": "v"},
    "epsilon_100": {"kind": "ddpm", "ddpm.steps": 100},
}
TIMES = torch.tensor([0.005, 0.25, 0.5, 0.8637, 0.98], dtype=torch.float64)
LOG_SNRS = torch.tensor([-6.0, -3.0, 0.0, 3.0, 6.0], dtype=torch.float64)


def strategy(kind, **changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return make_strategy(replace(StrategySettings(), {**KINDS[kind], **named}))


def pair(dtype=torch.float64, samples=5):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, samples, 2, 4, 3, generator=generator, dtype=torch.float64)
    return clean.to(dtype), noise.to(dtype)


def monai_ddpm(steps):
    return DDIMScheduler(steps, schedule="cosine", clip_sample=False)


# --- against MONAI -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [100, 1000])
def test_alpha_bar_is_that_of_the_cosine_schedule(steps):
    """Of step i what MONAI has at index i - 1; it computes in fp32."""
    alpha_bar = cosine_alpha_bar(steps)
    assert alpha_bar.dtype == torch.float64 and float(alpha_bar[0]) == 1.0
    expected = monai_ddpm(steps).alphas_cumprod.double()
    torch.testing.assert_close(alpha_bar[1:], expected, rtol=2e-3, atol=2e-7)
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    at = make_strategy(
        replace(StrategySettings(), {"kind": "ddpm", "ddpm.steps": steps})
    ).coefficients(t)
    torch.testing.assert_close(at.alpha.square(), alpha_bar, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(at.sigma.square(), 1.0 - alpha_bar, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["epsilon", "v", "epsilon_100"])
def test_noise_and_targets_are_those_of_monai(kind):
    made, scheduler = strategy(kind), monai_ddpm(strategy(kind).levels)
    clean, noise = pair(torch.float32)
    steps = torch.tensor([1, 2, 37, 64, 99]) * (made.levels // 100)
    t = (steps / made.levels).float()
    torch.testing.assert_close(
        made.noised(clean, noise, t),
        scheduler.add_noise(clean, noise, steps - 1),
        rtol=1e-4,
        atol=1e-5,
    )
    velocity = scheduler.get_velocity(clean, noise, steps - 1)
    expected = velocity if kind == "v" else noise
    torch.testing.assert_close(made.target(clean, noise, t), expected, rtol=1e-4, atol=1e-5)


def test_rflow_is_that_of_monai():
    made = strategy("rflow")
    clean, noise = pair(torch.float32)
    x = made.noised(clean, noise, TIMES)
    expected = RFlowScheduler().add_noise(clean, noise, 1000.0 * TIMES)
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(made.target(clean, noise, TIMES), clean - noise)


# --- estimates, inverses, precision --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_are_exact_where_the_prediction_is(kind):
    """001-M14: the clean estimate of ddpm is not x minus the prediction."""
    made = strategy(kind)
    clean, noise = pair()
    x, prediction = made.noised(clean, noise, TIMES), made.target(clean, noise, TIMES)
    assert x.dtype == torch.float64
    torch.testing.assert_close(made.clean_estimate(x, prediction, TIMES), clean)
    torch.testing.assert_close(made.noise_estimate(x, prediction, TIMES), noise)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_are_the_image_and_the_noise(kind):
    made = strategy(kind)
    clean, noise = pair(torch.float32)
    assert torch.equal(made.noised(clean, noise, torch.zeros(5)), clean)
    torch.testing.assert_close(
        made.noised(clean, noise, torch.ones(5)), noise, rtol=0.0, atol=2e-2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_is_that_of_the_path(kind):
    """Of one image and one noise, by differences inside a step of the schedule."""
    made = strategy(kind)
    clean, noise = pair()
    t, step = TIMES + 0.3 / 1000, 1e-5
    x, prediction = made.noised(clean, noise, t), made.target(clean, noise, t)
    difference = made.noised(clean, noise, t + step) - made.noised(clean, noise, t - step)
    found = made.derivative(x, prediction, t)
    torch.testing.assert_close(found, difference / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_log_snr_and_its_inverse(kind):
    made = strategy(kind)
    found = made.time_of(LOG_SNRS)
    assert found.dtype == torch.float64 and ((found > 0.0) & (found < 1.0)).all()
    torch.testing.assert_close(made.log_snr(found), LOG_SNRS, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(made.time_of(made.log_snr(TIMES)), TIMES, rtol=0.0, atol=1e-12)
    assert float(made.log_snr(torch.zeros(1))) == float("inf")
    assert float(made.time_of(torch.tensor([float("inf")]))) == 0.0


def test_log_snr_by_hand():
    """rflow: 2 log((1 - t) / t). The cosine: about cot^2 of the angle."""
    t = TIMES.numpy()
    assert strategy("rflow").log_snr(TIMES).numpy() == pytest.approx(2 * np.log((1 - t) / t))
    angle = (t + 0.008) / 1.008 * np.pi / 2
    bar = np.cos(angle) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    found = strategy("epsilon").log_snr(TIMES).numpy()
    assert found == pytest.approx(np.log(bar / (1 - bar)), abs=1e-3)


def test_a_log_snr_that_the_schedule_has_not_is_refused():
    with pytest.raises(ValueError, match=r"has log-SNR -15\.2.* and more, not -16"):
        strategy("epsilon_100").time_of(torch.tensor([0.0, -16.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_raised_and_leaves_nothing_behind(kind):
    """MONAI's schedulers rebind their schedule to the precision of the images, and the noise at
    small t is 0 from then on.
    """
    made = strategy(kind)
    clean, noise = pair(torch.float32)
    before = made.noised(clean, noise, TIMES)
    half = made.noised(clean.bfloat16(), noise.bfloat16(), TIMES.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(made.noised(clean, noise, TIMES), before)
    exact = made.noised(clean.bfloat16().float(), noise.bfloat16().float(), TIMES)
    small = made.noised(clean.bfloat16(), noise.bfloat16(), TIMES)
    assert torch.equal(small, exact)
    assert made.clean_estimate(small, clean.bfloat16(), TIMES).dtype == torch.float32


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_those_of_the_paper(kind, gamma):
    """arXiv 2303.09556, section 3.4; of the velocity x_0 - noise: x_0 is off by t times its
    error.
    """
    made = strategy(kind, min_snr__enabled=True, min_snr__gamma=gamma)
    snr = torch.exp(made.log_snr(TIMES))
    least = torch.minimum(snr, torch.tensor(gamma))
    expected = {"rflow": least * TIMES**2, "v": least / (snr + 1.0)}.get(kind, least / snr)
    torch.testing.assert_close(made.weight(TIMES), expected.float(), rtol=1e-5, atol=0.0)
    assert torch.equal(strategy(kind).weight(TIMES), torch.ones(5))


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weighs_the_error_of_the_clean_estimate(kind):
    made = strategy(kind, min_snr__enabled=True)
    clean, noise = pair()
    x, target = made.noised(clean, noise, TIMES), made.target(clean, noise, TIMES)
    prediction = target + 0.1 * clean.flip(0)
    errors = (made.clean_estimate(x, prediction, TIMES) - clean).square().sum(dim=(1, 2, 3))
    ours = made.weight(TIMES) * (prediction - target).square().sum(dim=(1, 2, 3))
    least = torch.exp(made.log_snr(TIMES)).clamp(max=5.0)
    torch.testing.assert_close(ours, least * errors, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_finite_everywhere(kind):
    made = strategy(kind, min_snr__enabled=True)
    weights = made.weight(torch.linspace(0.0, 1.0, 101))
    assert weights.isfinite().all() and (weights >= 0.0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_added_on_the_way_back(kind):
    """From t to a later t: of a mixture of image and noise, image and noise as they are there."""
    made = strategy(kind)
    clean, noise = (
        torch.full((100_000,), 1.7),
        torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0)),
    )
    low, high = torch.full((100_000,), 0.1), torch.full((100_000,), 0.33)
    x = made.renoised(made.noised(clean, noise[0], low), noise[1], low, high)
    at = made.coefficients(high[:1])
    assert float(x.mean()) == pytest.approx(1.7 * float(at.alpha), abs=4e-3)
    assert float(x.std()) == pytest.approx(float(at.sigma), rel=1e-2)
    same = made.renoised(clean, noise[1], low, low)
    torch.testing.assert_close(same, clean, rtol=0.0, atol=1e-3)
