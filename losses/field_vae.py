"""The loss of the simulation VAE: reconstruction and the divergence of its latents.

B samples, T time steps, N nodes, M numbers of the main latent, K codes of h numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from losses.balancers.settings import BalancerSettings
from losses.schedules import ScheduleSettings
from losses.terms import Tensors, Term, TermSettings
from settings.schema import Settings

BETA_RAMP = ScheduleSettings(kind="linear", start=0.3, end=0.8, first=1e-4, last=1.0)
"""The document's ramp: 1e-4 of the final value for 30 % of a training, then linear until 80 %."""


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """The document weighs 1e6 : 1; under Adam only the ratio matters."""

    reconstruction: TermSettings = field(default_factory=TermSettings)
    kl: TermSettings = field(default_factory=lambda: TermSettings(weight=1e-6, schedule=BETA_RAMP))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


def main_kl(prediction: Tensors) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each sample [B], summed over the main latent, nat."""
    mu, logvar = prediction["main"].float(), prediction["main_logvar"].float()
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1.0).flatten(1).sum(dim=1)


def hier_kl(prediction: Tensors) -> Tensor:
    """KL of the residual posterior of each sample [B], summed over codes, numbers and time, nat.

    The posterior is N(mu + delta_mu, sigma^2 exp(delta_logvar)), the prior N(mu, sigma^2): half of
    delta_mu^2 / sigma^2 + exp(delta_logvar) - delta_logvar - 1 (NVAE, Vahdat and Kautz 2020,
    equation 2; 000-M21: the source's expression belongs to a different sampling scheme).
    """
    delta_mu, delta = prediction["delta_mu"].float(), prediction["delta_logvar"].float()
    precision = torch.exp(-prediction["prior_logvar"].float())
    per_value = 0.5 * (delta_mu.square() * precision + delta.exp() - delta - 1.0)
    return per_value.flatten(1).sum(dim=1)


def reconstruction(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """(scaled field - scaled target)^2, summed over [B, N, T]."""
    return (prediction["scaled"].float() - prediction["scaled_target"]).square().sum()


def kl(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum over samples of the divergence of the main latent and of every code, nat."""
    return (main_kl(prediction) + hier_kl(prediction)).sum()


def values(batch: Tensors, settings: object) -> Tensor:
    """Every value of the fields."""
    return torch.tensor(batch["field"].numel(), dtype=torch.float64)


def samples(batch: Tensors, settings: object) -> Tensor:
    return torch.tensor(batch["field"].shape[0], dtype=torch.float64)


TERMS: dict[str, Term] = {
    "reconstruction": Term(
        reconstruction, values, reads=("model.reach",), constant_count=True
    ),
    "kl": Term(kl, samples, constant_count=True),
}
