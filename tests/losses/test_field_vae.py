"""The terms of the simulation VAE against torch.distributions, and their counts."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from losses.composite import Composite
from losses.field_vae import BETA_RAMP, TERMS, LossSettings
from losses.schedules import schedule_factor


def make_prediction(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(count, *shape, generator=generator)

    return {
        "scaled": normal(5, 6),
        "scaled_target": normal(5, 6),
        "main": normal(3),
        "main_logvar": normal(3),
        "prior_mu": normal(2, 3, 6),
        "prior_logvar": normal(2, 3, 6),
        "delta_mu": normal(2, 3, 6),
        "delta_logvar": normal(2, 3, 6),
    }


def batch_of(prediction):
    return {"field": prediction["scaled_target"].transpose(1, 2)}


def deviation(log_variance):
    return (0.5 * log_variance).exp()


def test_kl_is_that_of_the_distributions_it_names():
    """The residual posterior N(mu + d_mu, s^2 exp(d_logvar)) against the prior N(mu, s^2)."""
    p = make_prediction()
    main = kl_divergence(Normal(p["main"], deviation(p["main_logvar"])), Normal(0.0, 1.0))
    posterior = Normal(
        p["prior_mu"] + p["delta_mu"], deviation(p["prior_logvar"] + p["delta_logvar"])
    )
    hier = kl_divergence(posterior, Normal(p["prior_mu"], deviation(p["prior_logvar"])))
    total, count = TERMS["kl"](p, batch_of(p), None)
    assert float(total) == pytest.approx(float(main.sum() + hier.sum()), rel=1e-5)
    assert float(count) == 4


def test_kl_is_zero_at_the_priors_alone():
    p = {key: torch.zeros_like(value) for key, value in make_prediction().items()}
    p["prior_logvar"] += 1.3
    assert float(TERMS["kl"](p, batch_of(p), None)[0]) == 0.0
    for key in ("main", "main_logvar", "delta_mu", "delta_logvar"):
        moved = {**p, key: p[key] + 0.1}
        assert float(TERMS["kl"](moved, batch_of(p), None)[0]) > 0.0


def test_reconstruction_is_the_mean_square():
    p = make_prediction()
    total, count = TERMS["reconstruction"](p, batch_of(p), None)
    expected = torch.nn.functional.mse_loss(p["scaled"], p["scaled_target"])
    assert float(total / count) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_finite_and_the_mean_is_exact_under_splits(name):
    p = make_prediction(6)
    leaves = {key: value.clone().requires_grad_() for key, value in p.items()}
    total, _ = TERMS[name](leaves, batch_of(p), None)
    total.backward()
    grads = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
    assert grads and all(bool(torch.isfinite(g).all()) and bool((g != 0).any()) for g in grads)
    parts = [{key: value[rows] for key, value in p.items()} for rows in (slice(0, 1), slice(1, 6))]
    sums, counts = zip(*(TERMS[name](part, batch_of(part), None) for part in parts), strict=True)
    assert float(sum(counts)) == float(TERMS[name].count(batch_of(p), None))
    assert float(sum(sums)) == pytest.approx(total.item(), rel=1e-5)


def test_the_ramp_is_the_documents():
    assert schedule_factor(BETA_RAMP, 299, 1000) == pytest.approx(1e-4)
    assert schedule_factor(BETA_RAMP, 550, 1000) == pytest.approx(0.5, rel=1e-3)
    assert schedule_factor(BETA_RAMP, 800, 1000) == 1.0
    weights = Composite(TERMS, LossSettings()).weights(999, 1000)
    assert weights == {"reconstruction": 1.0, "kl": 1e-6}
