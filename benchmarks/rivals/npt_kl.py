"""The term `fidelity` of npt in chunks of tokens against all tokens at once, for a vocabulary of
32,768: how far apart values and gradients are, and what forward and backward need in memory above
the logits of both sides, the gradient of the student's included. At once by the formula as it is
written, and by torch's `kl_div`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.peaks import peak_mib, peak_of
from benchmarks.measuring.rows import Row, main, row
from losses.npt.divergence import chunked_kl

VOCABULARY, TOKENS, CHUNK = 32_768, 1024, 16
COMPARED = 256
"""Tokens whose values and gradients are compared."""

TEMPERATURE = 2.0


def measure() -> Iterator[Row]:
    torch.set_num_threads(1)
    yield from differences()
    ours, *others = (peak_of("benchmarks.rivals.npt_kl", side) for side in FORMS)
    for name, whole in zip(("formula", "kl_div"), others, strict=True):
        peer = f"all tokens at once by {name}"
        yield row(f"npt_kl/memory_above_the_logits/{name}", ours, "MiB", peer, whole)


def in_chunks(teacher: Tensor, student: Tensor) -> Tensor:
    """[n, V] -> [n]"""
    return chunked_kl(teacher, student, TEMPERATURE, CHUNK)


def by_formula(teacher: Tensor, student: Tensor) -> Tensor:
    log_p, log_q = (torch.log_softmax(x / TEMPERATURE, dim=-1) for x in (teacher, student))
    return TEMPERATURE**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def by_torch(teacher: Tensor, student: Tensor) -> Tensor:
    log_p, log_q = (torch.log_softmax(x / TEMPERATURE, dim=-1) for x in (teacher, student))
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True)
    return TEMPERATURE**2 * kl.sum(dim=-1)


FORMS = {"chunks": in_chunks, "formula": by_formula, "kl_div": by_torch}


def logits_of(tokens: int, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    """Of a teacher and of a student near it, float32, the second with a gradient."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(tokens, vocabulary, generator=generator).mul_(3.0)
    student = torch.randn(tokens, vocabulary, generator=generator).add_(teacher)
    return teacher, student.requires_grad_()  # no third of that size was needed on the way


def differences(tokens: int = COMPARED, vocabulary: int = VOCABULARY) -> Iterator[Row]:
    """The largest difference of a token's value to that of all tokens at once, over the largest of
    these; and the largest error of the gradient, over its largest entry in float64.
    """
    teacher, student = logits_of(tokens, vocabulary)
    exact = measured(by_formula, teacher.double(), student.detach().double().requires_grad_())
    ours = measured(in_chunks, teacher, student)
    for name in ("formula", "kl_div"):
        values, gradient = measured(FORMS[name], teacher, student)
        off = float((ours[0] - values).abs().max() / values.max())
        yield Row(f"npt_kl/value_off/{name}", off, "", "bound", 1e-6, None)
        ours_off, theirs_off = (error_of(each, exact[1]) for each in (ours[1], gradient))
        peer = f"all tokens at once by {name}"
        yield row(f"npt_kl/gradient_error/{name}", ours_off, "", peer, theirs_off)


def error_of(gradient: Tensor, exact: Tensor) -> float:
    return float((gradient - exact).abs().max() / exact.abs().max())


def measured(
    form: Callable[[Tensor, Tensor], Tensor], teacher: Tensor, student: Tensor
) -> tuple[Tensor, Tensor]:
    """The values of the tokens, and the gradient of their sum."""
    values = form(teacher, student)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    return values.detach(), gradient


def memory_mib(side: str, tokens: int = TOKENS, vocabulary: int = VOCABULARY) -> float:
    """What forward and backward raise the peak of this process by, of code that has run before."""
    FORMS[side](*logits_of(2, 8)).sum().backward()
    teacher, student = logits_of(tokens, vocabulary)
    before = peak_mib()
    FORMS[side](teacher, student).sum().backward()
    return peak_mib() - before


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        torch.set_num_threads(1)
        print(json.dumps(memory_mib(sys.argv[2])))
    else:
        main(measure, __doc__)
