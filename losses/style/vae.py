"""The loss of the autoencoder of images that styles are transferred between.

Shapes: B images [B, 3, H, W] in [0, 1]; `mean`, `deviation` [B, c, h, w] of their latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from losses.balancers.settings import BalancerSettings
from losses.compression_terms import kl, mse
from losses.counts import samples_of, values_of
from losses.terms import Tensors, Term, TermSettings
from settings.schema import Settings


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """At a weight of 10 the squares are about as large as the absolute error."""

    l1: TermSettings = field(default_factory=TermSettings)
    mse: TermSettings = field(default_factory=lambda: TermSettings(weight=10.0))
    kl: TermSettings = field(default_factory=lambda: TermSettings(weight=1e-6))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


def l1(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum of |reconstruction - image|."""
    return (prediction["reconstruction"].float() - batch["image"].float()).abs().sum()


_VALUES = values_of("image")

TERMS: Mapping[str, Term] = {
    "l1": Term(l1, _VALUES, constant_count=True),
    "mse": Term(mse, _VALUES, constant_count=True),
    "kl": Term(kl, samples_of("image"), constant_count=True),
}
