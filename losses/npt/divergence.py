"""The divergence between two sets of logits over a large vocabulary, without their probabilities
in memory all at once.

Shapes: n tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chunked_kl(teacher: Tensor, student: Tensor, temperature: float, chunk: int) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of each token, logits [n, V] -> [n], in
    float32 or as wide as the logits are. No more than a chunk's probabilities are in memory, going
    forward and back; the teacher has no gradient.
    """
    values: Tensor = _Divergence.apply(teacher, student, temperature, chunk)
    return values


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, teacher: Tensor, student: Tensor, temperature: float, chunk: int
    ) -> Tensor:
        ctx.save_for_backward(teacher, student)
        ctx.temperature, ctx.chunk = temperature, chunk
        # of one piece: small results among large ones would keep the memory in pieces
        values = _wide(student.new_empty(len(student)))
        for part in _chunks(len(student), chunk):
            values[part] = _of_tokens(teacher[part], student[part], temperature)
        return values.mul_(temperature**2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None]:
        """d / d student = T (softmax(student / T) - softmax(teacher / T))"""
        teacher, student = ctx.saved_tensors
        whole = torch.empty_like(student)
        for part in _chunks(len(student), ctx.chunk):
            scaled = (_wide(x[part]) / ctx.temperature for x in (teacher, student))
            p, q = (torch.softmax(x, dim=-1) for x in scaled)
            whole[part] = q.sub_(p).mul_(ctx.temperature * gradient[part, None])
        return None, whole, None, None


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _of_tokens(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    scaled = (_wide(x) / temperature for x in (teacher, student))
    log_p, log_q = (torch.log_softmax(x, dim=-1) for x in scaled)
    return log_q.sub_(log_p).neg_().mul_(log_p.exp_()).sum(dim=-1)
