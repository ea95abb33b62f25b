"""Rejection sampling where everything is known: the sampler follows the exact flow of a mixture of
two normal laws with wrong weights, and the log-ratio to the mixture with the right ones is exact.

Shapes: B samples of one number, [B, 1].
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.rejection import (
    RejectionSettings,
    Thresholds,
    check_sampling,
    rejection_sample,
    warm_up,
)
from models.diffusion.strategies.sampling import sample
from models.diffusion.strategies.settings import SamplingSettings, StrategySettings
from settings.flat import replace
from settings.schema import SettingsError

MEANS, DEVIATION = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.25
WRONG, RIGHT = 0.8, 0.5
"""Weights of the left mode: of what the sampler makes, and of real data."""

SHAPE = (1,)


def strategy_of(**changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return make_strategy(replace(StrategySettings(), named), (1,))


def log_densities(strategy, x, t):
    """log N(x; alpha mean, alpha^2 DEVIATION^2 + sigma^2) of both modes, [B, 2]."""
    at = strategy.coefficients(t.double())
    mean = at.alpha[:, None] * MEANS
    variance = (at.alpha * DEVIATION).square() + at.sigma.square()
    variance = variance[:, None]
    return -0.5 * ((x.double() - mean).square() / variance + (2.0 * math.pi * variance).log())


def log_mixture(strategy, x, t, left):
    weights = torch.tensor([left, 1.0 - left], dtype=torch.float64).log()
    return torch.logsumexp(log_densities(strategy, x, t) + weights, dim=1)


def judge_of(strategy, ratio=None):
    """The exact prediction for the wrong mixture, and the exact log-ratio to the right one."""

    def judge(x, t, rows):
        at = strategy.coefficients(t.double())
        weights = torch.tensor([WRONG, 1.0 - WRONG], dtype=torch.float64).log()
        share = torch.softmax(log_densities(strategy, x, t) + weights, dim=1)
        variance = ((at.alpha * DEVIATION).square() + at.sigma.square())[:, None]
        off = x.double() - at.alpha[:, None] * MEANS
        mean = MEANS + at.alpha[:, None] * DEVIATION**2 / variance * off
        clean = (share * mean).sum(dim=1, keepdim=True)
        noise = (x.double() - at.alpha[:, None] * clean) / at.sigma[:, None].clamp_min(1e-9)
        exact = log_mixture(strategy, x, t, RIGHT) - log_mixture(strategy, x, t, WRONG)
        found = exact if ratio is None else ratio(x, t)
        return at.a[:, None] * clean + at.b[:, None] * noise, found

    return judge


def left_share(strategy, count, sampling, trajectories=400, **changes):
    settings = RejectionSettings(warm_up=trajectories, **changes)
    judge = judge_of(strategy)
    seeds = torch.arange(10**6, 10**6 + trajectories)
    thresholds = warm_up(strategy, judge, seeds, SHAPE, sampling, settings.percentile)
    seeds = torch.arange(count)
    made = rejection_sample(strategy, judge, thresholds, seeds, SHAPE, sampling, settings)
    return float((made.x < 0.0).double().mean()), made


def plain_share(strategy, count, sampling):
    judge = judge_of(strategy)
    rows = torch.arange(count)
    made = sample(strategy, lambda x, t: judge(x, t, rows)[0], rows, SHAPE, sampling)
    return float((made.x < 0.0).double().mean())


def error_of(share, count):
    return math.sqrt(share * (1.0 - share) / count)


KINDS = {
    "rflow": {"kind": "rflow"},
    "ddpm": {"kind": "ddpm", "ddpm__prediction": "v"},
}
STEPS = SamplingSettings(steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bounded_ratios_and_steps_back_to_the_noise_give_the_law_of_real_data(kind):
    strategy, count = strategy_of(**KINDS[kind]), 4000
    sampling = replace(STEPS, {"rflow.solver": "heun"})
    assert abs(plain_share(strategy, count, sampling) - WRONG) < 3.0 * error_of(WRONG, count)
    share, made = left_share(strategy, count, sampling, percentile=1.0, back_steps=20, cap=10_000)
    assert abs(share - RIGHT) < 3.0 * error_of(RIGHT, count)
    assert not made.is_capped.any()


@pytest.mark.parametrize("back, expected", [("clean", 0.73), ("state", 0.77)])
def test_the_default_moves_the_share_towards_that_of_real_data(back, expected):
    """One step back, from a quantile: not exact, and by more than three errors better (the figures
    are those of docs/diffusion.md).
    """
    strategy, count = strategy_of(kind="rflow"), 4000
    share, made = left_share(strategy, count, STEPS, back=back)
    assert RIGHT < share < WRONG - 3.0 * error_of(WRONG, count)
    assert share == pytest.approx(expected, abs=0.01)
    assert float(made.rejections.double().mean()) == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4"])
def test_without_a_rejection_the_image_is_that_of_the_sampler_at_one_evaluation_more(solver):
    """The last state is judged, too; every other evaluation is one that the sampler makes."""
    strategy, seeds = strategy_of(kind="rflow"), torch.arange(16)
    sampling = replace(STEPS, {"rflow.solver": solver})
    settings = RejectionSettings()
    judge = judge_of(strategy, lambda x, t: torch.zeros(len(x), dtype=torch.float64))
    thresholds = warm_up(strategy, judge, seeds, SHAPE, sampling, settings.percentile)
    assert not thresholds.ratio.any() and not thresholds.increment.any()
    made = rejection_sample(strategy, judge, thresholds, seeds, SHAPE, sampling, settings)
    plain = sample(strategy, lambda x, t: judge(x, t, seeds)[0], seeds, SHAPE, sampling)
    torch.testing.assert_close(made.x, plain.x)
    assert not made.rejections.any()
    assert made.evaluations.tolist() == [plain.evaluations // 16 + 1] * 16
    low = replace(settings, {"low": 0.02})
    less = rejection_sample(strategy, judge, thresholds, seeds, SHAPE, sampling, low)
    torch.testing.assert_close(less.x, plain.x)
    assert less.evaluations.tolist() == [plain.evaluations // 16] * 16


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_and_its_rejections_do_not_depend_on_its_batch(kind, eta):
    strategy, sampling = strategy_of(**KINDS[kind]), replace(STEPS, {"ddpm.eta": eta})
    settings, judge, seeds = RejectionSettings(), judge_of(strategy), torch.arange(12)
    thresholds = warm_up(strategy, judge, seeds, SHAPE, sampling, settings.percentile)
    parts = [
        [
            rejection_sample(strategy, judge, thresholds, its, SHAPE, sampling, settings)
            for its in seeds.split(size)
        ]
        for size in (1, 8, 12)
    ]
    alone, eight, whole = (
        {name: torch.cat([getattr(one, name) for one in part]) for name in ("x", "rejections")}
        for part in parts
    )
    for other in (eight, whole):
        assert torch.equal(alone["rejections"], other["rejections"])
        torch.testing.assert_close(alone["x"], other["x"])
    assert alone["rejections"].unique().numel() > 1


def test_the_thresholds_are_quantiles_of_ratios_and_of_their_increments():
    strategy, seeds = strategy_of(kind="rflow"), torch.arange(8)
    sampling, seen = SamplingSettings(steps=3), []

    def ratio(x, t):
        seen.append(10.0 * (1.0 - t.double()) + x[:, 0].double())
        return seen[-1]

    found = warm_up(strategy, judge_of(strategy, ratio), seeds, SHAPE, sampling, 0.75)
    ratios = torch.stack(seen).numpy()
    np.testing.assert_allclose(found.ratio, np.quantile(ratios, 0.75, axis=1))
    np.testing.assert_allclose(
        found.increment[1:], np.quantile(np.diff(ratios, axis=0), 0.75, axis=1)
    )


@pytest.mark.parametrize("first, share", [(-1.0, math.exp(-1.0)), (0.5, 1.0)])
def test_a_state_is_accepted_with_the_probability_of_its_ratio(first, share):
    """Of one step: log L = `first` above the threshold of 0 everywhere; a cap of 0 counts whom it
    would have rejected.
    """
    strategy, count = strategy_of(kind="rflow"), 4000
    sampling, seeds = SamplingSettings(steps=1), torch.arange(count)

    def ratio(x, t):
        return torch.where(t.double() == 1.0, 0.0, first)

    zeros = torch.zeros(2, dtype=torch.float64)
    settings = RejectionSettings(cap=0)
    made = rejection_sample(
        strategy, judge_of(strategy, ratio), Thresholds(zeros, zeros), seeds, SHAPE, sampling,
        settings,
    )  # fmt: skip
    assert not made.rejections.any()
    accepted = 1.0 - float(made.is_capped.double().mean())
    assert abs(accepted - share) <= 3.0 * error_of(share, count)


def test_the_cap_ends_a_sample_that_nothing_accepts():
    strategy, seeds = strategy_of(kind="rflow"), torch.arange(3)
    judge = judge_of(strategy, lambda x, t: torch.full((len(x),), -1e9, dtype=torch.float64))
    high = Thresholds(*(torch.zeros(21, dtype=torch.float64),) * 2)
    settings = RejectionSettings(cap=7, back_steps=3)
    made = rejection_sample(strategy, judge, high, seeds, SHAPE, STEPS, settings)
    assert made.rejections.tolist() == [7, 7, 7] and made.is_capped.all()


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"rflow.solver": "torchdiffeq"}, "sampling.rflow.solver=torchdiffeq"),
        ({"rflow.solver": "monai"}, "sampling.rflow.solver=monai"),
        ({"restart.enabled": True}, "sampling.restart.enabled"),
    ],
)
def test_samplers_without_single_steps_are_refused(changes, named):
    with pytest.raises(SettingsError, match=named):
        check_sampling(replace(STEPS, changes), "rflow")
