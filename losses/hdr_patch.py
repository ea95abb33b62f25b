"""The loss of HDR hole filling: the terms by name; `losses.hdr_patch_terms` has the formulas and
the settings.
"""

from __future__ import annotations

import math

import torch

from losses import counts
from losses import hdr_patch_terms as hdr
from losses.adversarial import adversarial_term, idle_critic
from losses.hdr_patch_terms import HdrTree, LossSettings
from losses.terms import Term
from models.efficientnet import FeatureWeightsError
from models.perceptual import frozen_features

__all__ = ["REFUSED", "TERMS", "LossSettings", "idle_terms", "refused_keys", "terms"]

_MU_LAW = ("loss.mu", "loss.exposure")
_RING = "hdr.ring_kernel"
_NEEDED = ("hdr.epsilon", "hdr.prefill")
_WEIGHT = ("hdr.mask", "hdr.ring_scale", _RING)

TERMS: dict[str, Term] = {
    "log": Term(
        hdr.log_residual,
        hdr.log_residual_count,
        reads=("loss.log.kind", "loss.log.beta", "loss.log.masked", *_NEEDED, *_WEIGHT),
    ),
    "l1": Term(hdr.mu_l1, counts.values, reads=_MU_LAW, constant_count=True),
    "edge": Term(hdr.edge, counts.differences, reads=_MU_LAW, constant_count=True),
    "boundary": Term(
        hdr.boundary_l1, hdr.boundary_count, reads=(*_MU_LAW, _RING, "loss.boundary.over")
    ),
    "hole": Term(hdr.hole_l1, hdr.hole_count, reads=(*_MU_LAW, "loss.hole.over")),
    "context": Term(
        hdr.context_l1, hdr.context_count, reads=(*_MU_LAW, _RING, "loss.context.over")
    ),
    "sparsity": Term(hdr.sparsity, counts.hole_values, reads=_NEEDED),
    "range": Term(
        hdr.range_penalty,
        hdr.range_count,
        reads=("loss.range.safe_range", "hdr.cap.*", _RING),
    ),
    "wasserstein": Term(hdr.wasserstein, counts.images_with_hole, reads=_NEEDED),
    "moments": Term(hdr.moments, counts.images_with_hole, reads=_NEEDED),
    "perceptual": Term(
        hdr.perceptual,
        counts.images,
        reads=(*_MU_LAW, "loss.perceptual.*"),
        constant_count=True,
    ),
    "color": Term(hdr.color, counts.images_with_hole, reads=(*_MU_LAW, _RING)),
}
"""All but the adversarial term, which depends on the critic."""


def terms(settings: HdrTree) -> dict[str, Term]:
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


def idle_terms(settings: HdrTree) -> list[str]:
    """Terms that are on but cannot work, under the head's settings or on this machine, in words,
    for the preflight.
    """
    loss, head = settings.loss, settings.hdr
    problems = idle_critic(settings)
    if loss.context.is_on and head.mask:
        problems.append(
            "loss.context has no gradient: with hdr.mask=true valid pixels outside the ring never "
            "change. Set hdr.mask=false or loss.context.enabled=false."
        )
    if loss.boundary.is_on and head.mask and head.ring_scale == 0.0:
        problems.append(
            "loss.boundary has no gradient: with hdr.mask=true and hdr.ring_scale=0 the ring "
            "never changes. Raise hdr.ring_scale or set loss.boundary.enabled=false."
        )
    if loss.perceptual.is_on:
        try:  # here, not at the first report or where its schedule begins
            frozen_features(loss.perceptual.backbone, torch.device("cpu"))
        except FeatureWeightsError as error:
            problems.append(f"loss.perceptual cannot be measured: {error}")
    needed = math.log(1.0 / head.epsilon)
    if loss.range.is_on and head.prefill == "zero" and loss.range.safe_range < needed:
        problems.append(
            f"loss.range forbids filling: over a base of 0, radiance 1 needs a residual of "
            f"log(1 / hdr.epsilon) = {needed:.1f}, and loss.range.safe_range is "
            f"{loss.range.safe_range:g} (004-M1). Use hdr.prefill=push_pull."
        )
    return problems
