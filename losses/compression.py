"""The loss of the image autoencoders: settings, and which terms a kind of model has.
`losses.compression_terms` has the formulas.

The weights are those that the source document gives its VAE, for means over each term's own count;
what it gives the VQ-VAE and the DC-AE is in the presets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from losses import compression_terms, counts
from losses.adversarial import CriticSettings, adversarial_term
from losses.adversarial import critic_terms as patch_terms
from losses.balancers.settings import BalancerSettings
from losses.terms import Term, TermSettings
from models.efficientnet import BACKBONES
from settings.schema import Settings, setting

__all__ = ["TERMS", "CriticSettings", "LossSettings", "critic_terms", "terms"]


@dataclass(frozen=True, kw_only=True)
class RegionalSettings(Settings):
    """Weights of pixels by the longest diameter of the lesion that they belong to; 1 outside."""

    enabled: bool = setting(False, "weigh pixels of lesions by the size of the lesion")
    tiny: float = setting(2.5, "weight in lesions below 10 mm", low=0.0, high=100.0)
    small: float = setting(1.8, "weight in lesions of 10 to 20 mm", low=0.0, high=100.0)
    medium: float = setting(1.4, "weight in lesions of 20 to 30 mm", low=0.0, high=100.0)
    large: float = setting(1.2, "weight in lesions of 30 mm or more", low=0.0, high=100.0)


@dataclass(frozen=True, kw_only=True)
class L1Settings(TermSettings):
    regional: RegionalSettings = field(default_factory=RegionalSettings)


@dataclass(frozen=True, kw_only=True)
class PerceptualSettings(TermSettings):
    backbone: str = setting(
        "efficientnet_lite0", "frozen network that sees the images", choices=BACKBONES
    )
    slice_share: float = setting(
        0.25, "volumes: part of the slices across each axis that it sees", low=0.001, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """A node for every term; `terms` says which of them a model has."""

    l1: L1Settings = field(default_factory=L1Settings)
    perceptual: PerceptualSettings = field(
        default_factory=lambda: PerceptualSettings(weight=0.001)
    )
    kl: TermSettings = field(default_factory=lambda: TermSettings(weight=1e-6))
    vq: TermSettings = field(default_factory=lambda: TermSettings(weight=0.25))
    bce: TermSettings = field(default_factory=TermSettings)
    dice: TermSettings = field(default_factory=TermSettings)
    boundary: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5))
    adversarial: TermSettings = field(
        default_factory=lambda: TermSettings(weight=0.01, enabled=False)
    )
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


_SAMPLES, _VALUES = counts.samples_of("image"), counts.values_of("image")

TERMS: dict[str, Term] = {
    "l1": Term(compression_terms.l1, compression_terms.l1_count, reads=("loss.l1.regional.*",)),
    "perceptual": Term(
        compression_terms.perceptual,
        _SAMPLES,
        reads=("loss.perceptual.backbone", "loss.perceptual.slice_share"),
    ),
    "kl": Term(compression_terms.kl, _SAMPLES),
    "vq": Term(compression_terms.vq, _SAMPLES),
    "bce": Term(compression_terms.bce, _VALUES),
    "dice": Term(compression_terms.dice, _SAMPLES),
    "boundary": Term(compression_terms.boundary, compression_terms.boundary_count),
}
"""All but the adversarial term, which depends on the critic."""

_OF_IMAGES, _OF_MASKS = ("l1", "perceptual"), ("bce", "dice", "boundary")
_OF_KIND = {"vae": ("kl",), "vqvae": ("vq",), "dcae": ()}


def terms(settings: Any) -> dict[str, Term]:
    """The terms that the model of a settings tree has, in the order of the columns.

    A model of masks (`model.seg_mode`) is not compared by a network trained on photographs.
    Without a critic (`discriminator.enabled=false`) there is no adversarial term.
    """
    names = _OF_MASKS if settings.model.seg_mode else _OF_IMAGES
    found = {name: TERMS[name] for name in (*names, *_OF_KIND[settings.model.kind])}
    if settings.discriminator.enabled:
        found["adversarial"] = adversarial_term(settings.discriminator.objective, "image")
    return found


def critic_terms(settings: Any) -> dict[str, Term]:
    """The terms of the critic's phase."""
    return patch_terms("image")
