"""The loss of the conditioner: the terms by name. `losses.conditioner_terms` has the formulas and
the settings.
"""

from __future__ import annotations

import functools

from losses import conditioner_terms as terms
from losses import counts
from losses.conditioner_terms import LossSettings
from losses.terms import Term

__all__ = ["NEED_DECODER", "TERMS", "LossSettings"]

_SMOOTHED = "loss.label_smoothing"


def _of(kind: str) -> dict[str, Term]:
    """The terms of one kind of latent, `main` or `hier`."""
    values, perceptual = counts.values_of(kind), f"loss.{kind}_perceptual"
    return {
        f"{kind}_mse": Term(
            functools.partial(terms.squared, kind),
            values,
            reads=(_SMOOTHED,),
            constant_count=True,
        ),
        f"{kind}_mae": Term(
            functools.partial(terms.absolute, kind),
            values,
            reads=(_SMOOTHED,),
            constant_count=True,
        ),
        f"{kind}_huber": Term(
            functools.partial(terms.smooth_l1, kind),
            values,
            reads=(_SMOOTHED, f"loss.{kind}_huber.beta"),
            constant_count=True,
        ),
        f"{kind}_perceptual": Term(
            functools.partial(terms.perceptual, kind),
            functools.partial(terms.perceptual_count, kind),
            reads=tuple(f"{perceptual}.{key}" for key in ("kind", "widths", "start", "seed")),
            constant_count=True,
        ),
    }


TERMS: dict[str, Term] = {
    **_of("main"),
    **_of("hier"),
    "decoded": Term(terms.decoded, counts.samples_of("main"), constant_count=True),
    "consistency": Term(terms.consistency, counts.marked("paired_valid")),
    "spectral": Term(
        terms.spectral,
        terms.spectral_count,
        reads=("loss.spectral.kind", "loss.spectral.iterations"),
        constant_count=True,
    ),
}

NEED_DECODER = ("decoded",)
"""Terms that read a decoded field: a system without a decoder leaves them out of its Composite."""
