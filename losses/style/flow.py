"""The loss of style_flow: which terms a training has. `losses.style.terms` has the formulas
and the settings.
"""

from __future__ import annotations

import dataclasses

from losses.counts import samples_of
from losses.style import terms as formulas
from losses.style.terms import LossSettings, StyleFlowTree
from losses.terms import Term

__all__ = ["TERMS", "LossSettings", "terms"]

_SAMPLES = samples_of("latent")

_SWD_KEYS = (
    *(f"patch_{size}" for size in (1, 3, 5, 7)),
    *("mean_removed", "padding", "projections", "directions", "max_samples", "draws"),
    *("group", "dropped", "style_weights"),
)

TERMS: dict[str, Term] = {
    "swd": Term(
        formulas.swd,
        _SAMPLES,
        reads=tuple(f"loss.swd.{key}" for key in _SWD_KEYS),
        constant_count=True,
    ),
    "ssm": Term(
        formulas.ssm,
        _SAMPLES,
        reads=("loss.ssm.max_positions", "loss.ssm.form", "loss.ssm.floor"),
        constant_count=True,
    ),
    "velocity": Term(formulas.velocity, _SAMPLES, constant_count=True),
    "divergence": Term(
        formulas.divergence, _SAMPLES, reads=("loss.divergence.form",), constant_count=True
    ),
    "trajectory": Term(formulas.trajectory, _SAMPLES, constant_count=True),
    "repulsion": Term(formulas.repulsion, formulas.changing, reads=("loss.repulsion.margin",)),
}

_SPLITS = {
    "style": "the patches of all samples of a target style are compared together "
    "(loss.swd.group=style)",
    "pooled": "the patches of all samples are compared together (loss.swd.group=pooled)",
}


def terms(settings: StyleFlowTree) -> dict[str, Term]:
    """The terms of a training, in the order of the columns. Where `swd` compares samples together
    its mean depends on how they are cut into batches, and it says so.
    """
    splits = _SPLITS.get(settings.loss.swd.group)
    if splits is None:
        return dict(TERMS)
    swd = TERMS["swd"]
    reads = (*swd.reads, "train.validation_batch_size")
    return {**TERMS, "swd": dataclasses.replace(swd, splits=splits, reads=reads)}
