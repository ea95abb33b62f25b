"""Measures of language models.

B samples, L tokens, V vocabulary; `logits` [B, L, V], at t of the token at t + 1, `tokens` int64
[B, L], `mask` bool [B, L] of those that are real.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metrics.metric import Metric, Tensors, mean

Measured = tuple[Tensor, Tensor]


def log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), dim=-1)


def nats(logits: Tensor, batch: Tensors) -> Measured:
    """Of every real token but the first of a sample, given those before it: (sum, tokens)."""
    logs = log_probabilities(logits[:, :-1])
    of_next = logs.gather(-1, batch["tokens"][:, 1:, None])[..., 0]
    real = batch["mask"][:, 1:]
    return -torch.where(real, of_next, 0.0).sum(), real.sum(dtype=torch.float64)


def nats_of(name: str) -> Callable[[Tensors, Tensors, object], Measured]:
    """`nats` of those logits of the prediction."""

    def measure(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
        return nats(prediction[name], batch)

    return measure


def perplexity(sums: Tensor, count: float) -> float:
    """exp of the mean of nats; infinite where that is too large for a number."""
    value = mean(sums, count)
    return math.exp(value) if value < 700.0 or math.isnan(value) else math.inf


def language_metrics() -> list[Metric]:
    """The objective first."""
    measure, text = nats_of("logits"), "cross entropy of the next token, mean over tokens"
    return [
        Metric("nats_per_token", "nat", "min", measure, text),
        Metric("perplexity", "", "min", measure, "exp of nats_per_token", perplexity),
    ]
