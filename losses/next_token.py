"""The loss of a language model: the cross entropy of each token given those before it.

B samples, L tokens, V vocabulary. Of the prediction: `logits` [B, L, V], at t of the token at
t + 1. Of the batch: `tokens` int64 [B, L]; `mask` bool [B, L], those that are real.
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
    next_token: TermSettings = field(default_factory=TermSettings)


def next_token(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum over real tokens but the first of a sample of -log p(token | those before it), nat."""
    logits, tokens = prediction["logits"][:, :-1].float(), batch["tokens"][:, 1:]
    nats = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    return (nats.view(tokens.shape) * batch["mask"][:, 1:]).sum()


def predicted(batch: Tensors, settings: object) -> Tensor:
    """The tokens that are predicted."""
    return batch["mask"][:, 1:].sum(dtype=torch.float64)


TERMS: dict[str, Term] = {"next_token": Term(next_token, predicted)}
