"""The loss of the head that tells real noisy images from generated ones.

Shapes: B samples; `logit`, `label` [B].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.terms import Tensors, Term, TermSettings
from settings.schema import Settings


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    bce: TermSettings = field(default_factory=TermSettings)


def cross_entropies(prediction: Tensors, batch: Tensors) -> Tensor:
    """Binary cross-entropy of each sample [B], nat: 1 is real."""
    logit = prediction["logit"].float()
    return F.binary_cross_entropy_with_logits(logit, batch["label"].float(), reduction="none")


def bce(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Summed over samples, nat."""
    return cross_entropies(prediction, batch).sum()


def samples(batch: Tensors, settings: object) -> Tensor:
    return torch.tensor(batch["label"].shape[0], dtype=torch.float64)


TERMS: dict[str, Term] = {"bce": Term(bce, samples, constant_count=True)}
