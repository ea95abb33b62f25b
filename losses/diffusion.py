"""The loss of diffusion: which terms a training has. `losses.diffusion_terms` has the formulas and
the settings.
"""

from __future__ import annotations

from losses import diffusion_terms
from losses.diffusion_terms import DiffusionTree, LossSettings, samples
from losses.images import perceptual
from losses.terms import Term
from settings.mri import MASK

__all__ = ["TERMS", "LossSettings", "terms"]

_NOISED = ("strategy.*", "space.*")
"""What decides how an image is noised, what of it is predicted, and in what units: errors of two
strategies, or in two spaces, are not comparable.
"""

TERMS: dict[str, Term] = {
    "mse": Term(diffusion_terms.mse, samples, reads=_NOISED, constant_count=True),
    "regional": Term(
        diffusion_terms.regional,
        diffusion_terms.regional_count,
        reads=(*_NOISED, "loss.regional.size.*", "loss.regional.normalised"),
    ),
    "perceptual": Term(
        perceptual,
        samples,
        reads=(*_NOISED, "loss.perceptual.backbone", "loss.perceptual.slice_share"),
        constant_count=True,
    ),
    "consistency": Term(diffusion_terms.consistency, samples, reads=_NOISED, constant_count=True),
    "sda": Term(diffusion_terms.sda, samples, reads=_NOISED, constant_count=True),
}


def terms(settings: DiffusionTree) -> dict[str, Term]:
    """The terms of a training, in the order of the columns. Masks have no perceptual term, whose
    network was trained on photographs. Where the regional term is off the training split has no
    regions, and only validation measures it. Latents were made once, of images as they are, and
    have no `sda`; a file of them has neither images nor regions.
    """
    if not settings.space.has_images:
        return {name: TERMS[name] for name in ("mse", "consistency")}
    without = {"perceptual": settings.data.group == MASK, "sda": settings.space.is_latent}
    return {name: term for name, term in TERMS.items() if not without.get(name, False)}
