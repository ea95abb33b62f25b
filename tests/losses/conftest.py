"""Balancers with steps as they see them; batches of style_flow."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from losses.balancers.base import Observed
from losses.balancers.settings import BalancerSettings, make_balancer
from losses.style.flow import terms
from losses.style.terms import LossSettings
from losses.terms import Term
from settings.flat import replace

# Balancers: three terms, and steps as a balancer sees them

NAMES = ("near", "far", "edge")
ONES = dict.fromkeys(NAMES, 1.0)


def summed(prediction, batch, settings):
    return prediction["x"].sum()


def counted(batch, settings):
    return torch.tensor(1.0)


TERMS = {name: Term(summed, counted) for name in NAMES}


def make_balanced(kind, names=NAMES, **changes):
    return make_balancer(BalancerSettings(kind=kind, **changes), {n: TERMS[n] for n in names})


def seen(losses, norms=None, seed=0, names=NAMES):
    norms = {} if norms is None else dict(zip(names, map(float, norms), strict=True))
    return Observed(dict(zip(names, map(float, losses), strict=True)), norms, seed)


def weights(balancer, step=0, base=ONES):
    return list(balancer.weights(base, step).values())


def course(steps, names=3, seed=0):
    """Losses and gradient norms that fall unevenly, [steps, names] each."""
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.85, 1.0, names)
    losses = rng.uniform(0.1, 5.0, names) * rates ** np.arange(steps)[:, None]
    noise = np.exp(0.05 * rng.normal(size=(2, steps, names)))
    return losses * noise[0], (0.3 + losses) * noise[1]


def follow(balancer, steps, first=0):
    losses, norms = course(40, len(balancer.names), seed=5)
    for step in range(first, steps):
        names = balancer.names
        balancer.observe(seen(losses[step], norms[step], seed=step, names=names), step)


@pytest.fixture(scope="session")
def balancers():
    makers = {"terms": TERMS, "make": make_balanced, "seen": seen, "course": course}
    return SimpleNamespace(**makers, weights=weights, follow=follow)


# style_flow: a batch and what a forward makes of it

B, R, C = 4, 3, 3


class StyleFlowTree:
    """What the terms read of a system's settings."""

    def __init__(self, **changes):
        self.loss = replace(LossSettings(), {k.replace("__", "."): v for k, v in changes.items()})


def style_flow_batch(seed=0, side=6, training=True, dtype=torch.float32):
    """(prediction, batch) of 4 samples of 2 styles, one of which keeps its own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    prediction = {name: normal(B, C, side, side) for name in ("x1", "x0", "velocity")}
    prediction["divergence"] = 5.0 * normal(B)
    batch = {
        "latent": normal(B, C, side, side),
        "references": normal(B, R, C, side, side) + 0.5,
        "pooled_references": normal(B, R, C, side, side) - 0.5,
        "style": torch.tensor([0, 1, 0, 0]),
        "target": torch.tensor([1, 0, 1, 0]),
        "seed": torch.tensor([11, 7, 5, 3]),
    }
    if training:
        batch["update_seed"] = torch.full((B,), 99)
    return prediction, batch


def samples_at(tensors, places):
    return {name: values[places] for name, values in tensors.items()}


def value_of_term(name, prediction, batch, **changes):
    tree = StyleFlowTree(**changes)
    total, count = terms(tree)[name](prediction, batch, tree)
    return float(total) / float(count)


@pytest.fixture(scope="session")
def flow():
    makers = {"given": style_flow_batch, "at": samples_at, "value": value_of_term}
    return SimpleNamespace(**makers, Tree=StyleFlowTree)
