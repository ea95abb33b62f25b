"""The loss of the image autoencoders: which terms a kind of model has. `losses.compression_terms`
has the formulas and the settings.
"""

from __future__ import annotations

import dataclasses

from losses import compression_terms, counts
from losses.adversarial import CriticSettings, adversarial_term
from losses.compression_terms import CompressionTree, LossSettings
from losses.images import perceptual
from losses.terms import Term

__all__ = ["TERMS", "CriticSettings", "LossSettings", "terms"]

_SAMPLES, _VALUES = counts.samples_of("image"), counts.values_of("image")

TERMS: dict[str, Term] = {
    "l1": Term(compression_terms.l1, compression_terms.l1_count, reads=("loss.l1.regional.*",)),
    "mse": Term(compression_terms.mse, _VALUES, constant_count=True),
    "perceptual": Term(
        perceptual,
        _SAMPLES,
        reads=("loss.perceptual.backbone", "loss.perceptual.slice_share"),
        constant_count=True,
    ),
    "kl": Term(compression_terms.kl, _SAMPLES, constant_count=True),
    "vq": Term(compression_terms.vq, _SAMPLES, constant_count=True),
    "bce": Term(compression_terms.bce, _VALUES, constant_count=True),
    "dice": Term(compression_terms.dice, _SAMPLES, constant_count=True),
    "boundary": Term(compression_terms.boundary, compression_terms.boundary_count),
}
"""All but the adversarial term, which depends on the critic. The count of `l1` is constant where
lesions have no weight of their own, which `terms` knows.
"""

_OF_IMAGES, _OF_MASKS = ("l1", "mse", "perceptual"), ("bce", "dice", "boundary")
_OF_KIND = {"vae": ("kl",), "vqvae": ("vq",), "dcae": ()}


def terms(settings: CompressionTree) -> dict[str, Term]:
    """The terms that the model of a settings tree has, in the order of the columns.

    A model of masks (`model.seg_mode`) has no perceptual term, whose network was trained on
    photographs. Without a critic (`discriminator.enabled=false`) there is no adversarial term.
    """
    names = _OF_MASKS if settings.model.seg_mode else _OF_IMAGES
    chosen = {name: TERMS[name] for name in (*names, *_OF_KIND[settings.model.kind])}
    if "l1" in chosen and not settings.loss.l1.regional.enabled:
        chosen["l1"] = dataclasses.replace(chosen["l1"], constant_count=True)
    if settings.discriminator.enabled:
        chosen["adversarial"] = adversarial_term(settings.discriminator.objective, "image")
    return chosen
