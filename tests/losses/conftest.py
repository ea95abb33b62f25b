"""Balancers with steps as they see them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from losses.balancers.base import Observed
from losses.balancers.settings import BalancerSettings, make_balancer
from losses.terms import Term

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
