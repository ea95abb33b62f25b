"""Predictions that are the best for data of a known law, for every strategy, and its settings."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.settings import SamplingSettings, StrategySettings
from settings.flat import replace

KINDS = {
    "rflow": {},
    "epsilon": {"kind": "ddpm"},
    "v": {"kind": "ddpm", "ddpm.prediction": "v"},
    "epsilon_100": {"kind": "ddpm", "ddpm.steps": 100},
    "v_100": {"kind": "ddpm", "ddpm.prediction": "v", "ddpm.steps": 100},
}
MEAN, STD = 0.7, 0.5
MODES, SHARES, WIDTH = (-1.5, 1.0), (0.3, 0.7), 0.2


def strategy(kind, **changes):
    """By its name in KINDS; "__" stands for a dot."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return make_strategy(replace(StrategySettings(), {**KINDS[kind], **named}))


def sampling(**changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(SamplingSettings(), named)


def factors(made, t, x):
    at = made.coefficients(t)
    parts = (at.alpha, at.sigma, at.a, at.b)
    return [part.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) for part in parts]


def gaussian(made, mean=MEAN, std=STD):
    """The best prediction for data N(mean, std^2): a E[x_0 | x] + b E[noise | x]."""

    def predict(x, t):
        alpha, sigma, a, b = factors(made, t, x)
        share = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        return a * (mean + alpha * std**2 * share) + b * sigma * share

    return predict


def mixture(made):
    """The same for the mixture: each mode's by its posterior probability."""

    def predict(x, t):
        alpha, sigma, a, b = factors(made, t, x)
        variance = alpha**2 * WIDTH**2 + sigma**2
        means = x.new_tensor(MODES)
        logits = x.new_tensor(SHARES).log() - (x - alpha * means) ** 2 / (2.0 * variance)
        share = (x - alpha * means) / variance
        clean, noise = means + alpha * WIDTH**2 * share, sigma * share
        both = torch.softmax(logits, dim=1) * (a * clean + b * noise)
        return both.sum(dim=1, keepdim=True)

    return predict


@pytest.fixture(scope="session")
def analytic():
    """The names above (a conftest cannot be imported under importlib mode)."""
    return SimpleNamespace(
        strategy=strategy,
        sampling=sampling,
        gaussian=gaussian,
        mixture=mixture,
        mean=MEAN,
        std=STD,
        modes=MODES,
        shares=SHARES,
        width=WIDTH,
    )
