"""The loss of HDR hole filling: settings and terms by name; `losses.hdr_patch_terms` has the
formulas.

The weights are for means over each term's own count (pixels of the hole, images with a hole); the
document's 1, 5, 6, 8, 20 and 10 are in the presets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from losses import counts
from losses import hdr_patch_terms as hdr
from losses.adversarial import adversarial_term, idle_critic
from losses.balancers.settings import BalancerSettings
from losses.terms import Term, TermSettings
from models.efficientnet import BACKBONES
from settings.schema import Settings, setting


@dataclass(frozen=True, kw_only=True)
class LogSettings(TermSettings):
    """How the error e of the logarithm is penalised.

    l1: |e|. smooth_l1: e^2 / (2 beta) below beta, |e| - beta / 2 above. charbonnier:
    sqrt(e^2 + 1e-6).
    """

    kind: str = setting(
        "l1", "penalty on the log error", choices=("l1", "smooth_l1", "charbonnier")
    )
    beta: float = setting(
        0.2, "where smooth_l1 turns from square to line", unit="nat", low=1e-4, high=10.0
    )


@dataclass(frozen=True, kw_only=True)
class RangeSettings(TermSettings):
    enabled: bool = setting(False, "false switches the term off, as weight 0 does")
    safe_range: float = setting(
        6.0, "size of scale * |raw| that is still free", unit="nat", low=0.0, high=40.0
    )


@dataclass(frozen=True, kw_only=True)
class PerceptualSettings(TermSettings):
    enabled: bool = setting(False, "false switches the term off, as weight 0 does")
    backbone: str = setting(
        "efficientnet_lite0", "frozen network that sees the images", choices=BACKBONES
    )
    beta: float = setting(1e-3, "where smooth-L1 turns from square to line", low=1e-6, high=1.0)


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    mu: float = setting(300.0, "mu of the mu-law images of the loss", low=1.0, high=1e5)
    exposure: float = setting(0.8, "factor on radiance before the mu-law", low=1e-4, high=1e4)
    log: LogSettings = field(default_factory=LogSettings)
    l1: TermSettings = field(default_factory=lambda: TermSettings(weight=1.0))
    edge: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5))
    boundary: TermSettings = field(default_factory=lambda: TermSettings(weight=1.0))
    hole: TermSettings = field(default_factory=lambda: TermSettings(weight=2.0))
    context: TermSettings = field(default_factory=lambda: TermSettings(weight=1.0, enabled=False))
    sparsity: TermSettings = field(default_factory=lambda: TermSettings(weight=0.1, enabled=False))
    range: RangeSettings = field(default_factory=RangeSettings)
    wasserstein: TermSettings = field(
        default_factory=lambda: TermSettings(weight=0.5, enabled=False)
    )
    moments: TermSettings = field(default_factory=lambda: TermSettings(weight=0.5, enabled=False))
    perceptual: PerceptualSettings = field(default_factory=PerceptualSettings)
    color: TermSettings = field(default_factory=lambda: TermSettings(weight=0.05, enabled=False))
    adversarial: TermSettings = field(
        default_factory=lambda: TermSettings(weight=0.01, enabled=False)
    )
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


_MU_LAW = ("loss.mu", "loss.exposure")
_RING = "hdr.ring_kernel"
_NEEDED = ("hdr.epsilon", "hdr.prefill")
_WEIGHT = ("hdr.mask", "hdr.ring_scale", _RING)

TERMS: dict[str, Term] = {
    "log": Term(
        hdr.log_residual,
        hdr.log_residual_count,
        reads=("loss.log.kind", "loss.log.beta", *_NEEDED, *_WEIGHT),
    ),
    "l1": Term(hdr.mu_l1, counts.values, reads=_MU_LAW),
    "edge": Term(hdr.edge, counts.differences, reads=_MU_LAW),
    "boundary": Term(hdr.boundary_l1, hdr.boundary_count, reads=(*_MU_LAW, _RING)),
    "hole": Term(hdr.hole_l1, counts.hole_values, reads=_MU_LAW),
    "context": Term(hdr.context_l1, hdr.context_count, reads=(*_MU_LAW, _RING)),
    "sparsity": Term(hdr.sparsity, counts.hole_values, reads=_NEEDED),
    "range": Term(
        hdr.range_penalty,
        hdr.range_count,
        reads=("loss.range.safe_range", "hdr.cap.*", _RING),
    ),
    "wasserstein": Term(hdr.wasserstein, counts.images_with_hole, reads=_NEEDED),
    "moments": Term(hdr.moments, counts.images_with_hole, reads=_NEEDED),
    "perceptual": Term(hdr.perceptual, counts.images, reads=(*_MU_LAW, "loss.perceptual.*")),
    "color": Term(hdr.color, counts.images_with_hole, reads=(*_MU_LAW, _RING)),
}
"""All but the adversarial term, which depends on the critic."""


def terms(settings: Any) -> dict[str, Term]:
    """The terms of a settings tree: `TERMS`, and with a critic the adversarial one."""
    if not settings.discriminator.enabled:
        return TERMS
    return {**TERMS, "adversarial": adversarial_term(settings.discriminator.objective, "target")}


REFUSED: dict[str, str] = {
    "kl": (
        "a KL divergence between softmaxes of residuals does not see an additive constant, so a "
        "wrong exposure costs nothing, and a residual is no probability (004-M12). Use loss.log "
        "for the error, or loss.wasserstein for the distribution inside the holes"
    ),
}
"""Terms of the document that are left out on purpose, with the reason."""


def refused_keys(prefix: str = "loss") -> dict[str, str]:
    """`REFUSED` by settings key (`loss.kl`), as the resolver wants it to answer an override."""
    return {f"{prefix}.{name}": reason for name, reason in REFUSED.items()}


def idle_terms(settings: Any) -> list[str]:
    """Terms that are on but cannot work under the head's settings, in words, for the preflight."""
    loss, hdr = settings.loss, settings.hdr
    problems = idle_critic(settings)
    if _on(loss.context) and hdr.mask:
        problems.append(
            "loss.context has no gradient: with hdr.mask=true valid pixels outside the ring never "
            "change. Set hdr.mask=false or loss.context.enabled=false."
        )
    if _on(loss.boundary) and hdr.mask and hdr.ring_scale == 0.0:
        problems.append(
            "loss.boundary has no gradient: with hdr.mask=true and hdr.ring_scale=0 the ring "
            "never changes. Raise hdr.ring_scale or set loss.boundary.enabled=false."
        )
    needed = math.log(1.0 / hdr.epsilon)
    if _on(loss.range) and hdr.prefill == "zero" and loss.range.safe_range < needed:
        problems.append(
            f"loss.range forbids filling: over a base of 0, radiance 1 needs a residual of "
            f"log(1 / hdr.epsilon) = {needed:.1f}, and loss.range.safe_range is "
            f"{loss.range.safe_range:g} (004-M1). Use hdr.prefill=push_pull."
        )
    return problems


def _on(term: TermSettings) -> bool:
    return term.enabled and term.weight > 0.0
