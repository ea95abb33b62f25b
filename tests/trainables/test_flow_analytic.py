"""Small networks trained by the strategies reach what is possible in closed form: the floor of the
loss on Gaussian data, the shares of two modes, and where a condition and guidance lead.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.sampling import sample
from models.diffusion.strategies.settings import SamplingSettings, StrategySettings
from models.draws import draw_normal, draw_uniform
from settings.flat import replace

KINDS = {
    "rflow": {},
    "epsilon": {"kind": "ddpm"},
    "v": {"kind": "ddpm", "ddpm.prediction": "v"},
}
MEAN, STD = 0.4, 0.4
MODES, SHARES, WIDTH = (-1.5, 1.0), (0.3, 0.7), 0.3
CENTRES, SPREAD, DROPOUT = (-1.0, 1.0), 0.5, 0.3

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


class Network(nn.Module):
    """Of x, t and a condition of one-hot vectors; zeros are no condition."""

    def __init__(self, conditions=0, width=96):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1 + 9 + conditions, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )
        self.conditions = conditions

    def forward(self, x, t, condition=None):
        angles = math.pi * t[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0])
        parts = [x, t[:, None], angles.sin(), angles.cos()]
        if self.conditions:
            none = x.new_zeros(len(x), self.conditions)
            parts.append(none if condition is None else condition)
        return self.layers(torch.cat(parts, dim=1))


def trained(strategy, draw, conditions=0, steps=2000, batch=512):
    """A network after `steps`, and the average of its weights.

    Args:
        draw: seeds -> (clean [B, 1], condition [B, conditions] or None).
    """
    torch.manual_seed(0)
    network = Network(conditions)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    cooling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        seeds = torch.arange(step * batch, (step + 1) * batch)
        clean, condition = draw(seeds)
        noise, t = draw_normal(seeds, "noise", (1,)), strategy.draw_times(seeds)
        prediction = network(strategy.noised(clean, noise, t), t, condition)
        errors = (prediction - strategy.target(clean, noise, t)).square().mean(dim=1)
        optimizer.zero_grad()
        (strategy.weight(t) * errors).mean().backward()
        optimizer.step()
        cooling.step()
        average.update_parameters(network)
    return average.module.eval()


def gaussian(seeds):
    return MEAN + STD * draw_normal(seeds, "clean", (1,)), None


def mixture(seeds):
    modes = torch.tensor(MODES)[(draw_uniform(seeds, "mode", (1,)) > SHARES[0]).long()]
    return modes + WIDTH * draw_normal(seeds, "clean", (1,)), None


def conditional(seeds):
    """Two classes with a centre each; the condition is dropped for a share of them."""
    classes = (draw_uniform(seeds, "class") > 0.5).long()
    clean = torch.tensor(CENTRES)[classes][:, None] + SPREAD * draw_normal(seeds, "clean", (1,))
    condition = nn.functional.one_hot(classes, 2).float()
    is_kept = draw_uniform(seeds, "dropout", (1,)) >= DROPOUT
    return clean, condition * is_kept


def floor(strategy, t):
    """Var(target | x_t) of Gaussian data: target and x_t are normal together."""
    at = strategy.coefficients(t)
    variance = at.alpha**2 * STD**2 + at.sigma**2
    covariance = at.a * at.alpha * STD**2 + at.b * at.sigma
    return at.a**2 * STD**2 + at.b**2 - covariance**2 / variance


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_gaussian_data_reaches_its_floor(kind):
    """Within 5 %, over the training's law of t and at each log-SNR of the objective; on samples
    that the training has not seen. A network of zeros is far above.
    """
    strategy = make_strategy(replace(StrategySettings(), KINDS[kind]))
    network = trained(strategy, gaussian, steps=500)
    seeds = torch.arange(10**9, 10**9 + 50_000)
    clean, noise = gaussian(seeds)[0], draw_normal(seeds, "noise", (1,))

    def loss_and_floor(t):
        with torch.no_grad():
            prediction = network(strategy.noised(clean, noise, t), t.float())
        target = strategy.target(clean, noise, t)
        # What is lost beyond the best prediction: its own error on these samples is not noise.
        at = strategy.coefficients(t)
        x = strategy.noised(clean, noise, t)
        share = (x - at.alpha[:, None] * MEAN) / (at.alpha**2 * STD**2 + at.sigma**2)[:, None]
        best = at.a[:, None] * (MEAN + at.alpha[:, None] * STD**2 * share)
        best = best + at.b[:, None] * at.sigma[:, None] * share
        least = floor(strategy, t).mean()
        excess = (prediction - target).square().mean() - (best - target).square().mean()
        return float(least + excess), float(least), float(target.square().mean())

    loss, least, of_zeros = loss_and_floor(strategy.draw_times(seeds).double())
    assert 0.999 * least <= loss <= 1.05 * least < 0.9 * of_zeros
    for value in (-3.0, 0.0, 3.0):
        t = strategy.time_of(torch.full((len(seeds),), value, dtype=torch.float64))
        loss, least, _ = loss_and_floor(t)
        assert loss <= 1.05 * least, value


@pytest.mark.parametrize(
    ("kind", "changes"), [("rflow", {"rflow.solver": "heun"}), ("v", {"ddpm.solver": "ancestral"})]
)
def test_samples_of_two_modes_have_their_shares(kind, changes):
    """4,096 samples of .3/.7, within 3 standard errors."""
    strategy = make_strategy(replace(StrategySettings(), KINDS[kind]))
    network = trained(strategy, mixture)
    settings = replace(SamplingSettings(steps=100), changes)
    x = sample(strategy, network, torch.arange(4096), (1,), settings).x[:, 0]
    lower = x < sum(MODES) / 2
    share = float(lower.double().mean())
    assert share == pytest.approx(SHARES[0], abs=3.0 * math.sqrt(0.3 * 0.7 / 4096))
    for part, mean in ((x[lower], MODES[0]), (x[~lower], MODES[1])):
        assert float(part.mean()) == pytest.approx(mean, abs=0.04)


@pytest.fixture(scope="module")
def of_classes(module_on_one_thread):
    strategy = make_strategy(StrategySettings())
    return strategy, trained(strategy, conditional, conditions=2)


def test_a_condition_moves_the_samples_to_its_class(of_classes):
    strategy, network = of_classes
    for index, centre in enumerate(CENTRES):
        condition = nn.functional.one_hot(torch.full((4096,), index), 2).float()
        found = sample(
            strategy,
            lambda x, t, condition=condition: network(x, t, condition),
            torch.arange(4096),
            (1,),
            replace(SamplingSettings(steps=60), {"rflow.solver": "heun"}),
        )
        assert float(found.x.mean()) == pytest.approx(centre, abs=0.05)
        assert float(found.x.std()) == pytest.approx(SPREAD, rel=0.06)


@pytest.mark.parametrize(("start", "end"), [(2.0, 2.0), (2.5, 1.0)])
def test_guidance_moves_the_samples_as_its_formula_says(of_classes, start, end):
    """Against the flow of the closed-form velocities v_u + w(t) (v_c - v_u), by fine steps of
    RK4; the mean goes beyond the class.
    """
    strategy, network = of_classes
    condition = torch.tensor([[0.0, 1.0]]).expand(4096, 2)
    changes = {"guidance.start": start, "guidance.end": end, "rflow.solver": "heun"}
    found = sample(
        strategy,
        lambda x, t: network(x, t, condition),
        torch.arange(4096),
        (1,),
        replace(SamplingSettings(steps=60), changes),
        unconditional=network,
    )
    expected = guided_by_hand(draw_normal(torch.arange(4096), "noise", (1,)).double(), start, end)
    assert float(expected.mean()) > CENTRES[1] + 0.15
    assert float(found.x.mean()) == pytest.approx(float(expected.mean()), abs=0.08)


def guided_by_hand(x, start, end, steps=200):
    def of_class(x, t, centre):
        share = (x - (1 - t) * centre) / ((1 - t) ** 2 * SPREAD**2 + t**2)
        return centre + (1 - t) * SPREAD**2 * share - t * share

    def slope(x, t):
        spread = (1 - t) ** 2 * SPREAD**2 + t**2
        centres = x.new_tensor(CENTRES)
        posterior = torch.softmax(-((x - (1 - t) * centres) ** 2) / (2 * spread), dim=1)
        each = torch.cat([of_class(x, t, float(centre)) for centre in centres], dim=1)
        unconditional = (posterior * each).sum(dim=1, keepdim=True)
        w = end + (start - end) * t
        return -(unconditional + w * (each[:, 1:] - unconditional))

    dt = -1.0 / steps
    for index in range(steps):
        t = 1.0 - index / steps
        k1 = slope(x, t)
        k2 = slope(x + dt / 2 * k1, t + dt / 2)
        k3 = slope(x + dt / 2 * k2, t + dt / 2)
        k4 = slope(x + dt * k3, t + dt)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x
