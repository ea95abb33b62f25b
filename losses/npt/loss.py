"""The loss of npt: which terms a training has. `losses.npt.terms` has the formulas,
`losses.npt.settings` the settings.
"""

from __future__ import annotations

import dataclasses

from losses.npt import terms as formulas
from losses.npt.settings import LossSettings
from losses.npt.terms import NptTree
from losses.terms import Term

__all__ = ["TERMS", "LossSettings", "terms"]

_KEYS = {
    "direct": ("form",),
    "encoding": ("form",),
    "fidelity": ("form", "temperature", "chunk"),
    "regularisation": ("form",),
    "guidance": ("form", "measure", "scale"),
    "variance": ("gamma",),
    "error_parallel": ("form",),
    "error_orthogonal": ("form",),
    "bottleneck": ("form", "beta", "temperature", "model.bottleneck"),
    "modulation": ("form",),
    "orthogonality": ("form", "directions"),
}
"""Settings of each term that change what it measures; `chunk` its last digits."""

TERMS: dict[str, Term] = {
    name: Term(
        getattr(formulas, name),
        formulas.tokens if name == "fidelity" else formulas.kept_tokens,
        reads=tuple(key if "." in key else f"loss.{name}.{key}" for key in keys),
    )
    for name, keys in _KEYS.items()
}

_UNBOUNDED = "the variance of s is subtracted, as the document has it (003-M2)"


def terms(settings: NptTree) -> dict[str, Term]:
    """The terms in the order of the columns. The document's guidance has no lower bound and says
    so.
    """
    if settings.loss.guidance.form != "document":
        return dict(TERMS)
    return {**TERMS, "guidance": dataclasses.replace(TERMS["guidance"], unbounded=_UNBOUNDED)}
