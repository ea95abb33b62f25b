"""How a VQ-VAE uses its codebook: the histogram of the codes over the whole validation set, and
the sign that most of it is dead.

Means of the measures of batches would depend on the batch size: a small batch cannot use a large
codebook. So the counts of the codes are added up first.

Shapes: `codes` [B, *s] whole numbers from 0 to K - 1, K = `model.vqvae.codes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from metrics.health import STOP_HELP, HealthSettings
from metrics.health_signs import SIGNS, MeasuredSign
from metrics.metric import Metric, Tensors
from models.autoencoders.settings import ModelSettings
from settings.schema import setting

READS = ("model.vqvae.codes",)


def _sign(way_out: str) -> MeasuredSign:
    return MeasuredSign(
        "codebook_utilisation",
        "val.codebook_utilisation",
        f"codes that validation uses, all others are dead ({way_out}): share",
        warns_below=True,
    )


_SIGN = _sign("see model.vqvae.revive")
_REVIVED_SIGN = _sign(
    "model.vqvae.revive is on: the first restarts take some tens of updates; if it stays so, "
    "raise model.vqvae.revive_below, or take fewer model.vqvae.codes"
)


@dataclass(frozen=True, kw_only=True)
class CodebookHealthSettings(HealthSettings):
    """Health thresholds where a model may have a codebook.

    Below a half a codebook of half the size would hold every code that is used: of each index a
    bit is for nothing.
    """

    measured: ClassVar[tuple[MeasuredSign, ...]] = (_SIGN,)

    codebook_utilisation: float = setting(
        0.5,
        "warn below: share of the codes that validation uses at least once",
        low=0.0,
        high=1.0,
    )
    stop: tuple[str, ...] = setting((), STOP_HELP, choices=(*SIGNS, _SIGN.name))

    def of_model(self, model: ModelSettings) -> HealthSettings:
        """The same for this model: without the sign where it has no codebook, and with another way
        out where its codes are revived already.
        """
        if model.kind != "vqvae":
            plain = {one.name: getattr(self, one.name) for one in fields(HealthSettings)}
            return HealthSettings(**{**plain, "stop": tuple(x for x in self.stop if x in SIGNS)})
        if model.vqvae.revive == "none":
            return self
        same = {one.name: getattr(self, one.name) for one in fields(self)}
        return _RevivedHealthSettings(**same)


class _RevivedHealthSettings(CodebookHealthSettings):
    measured = (_REVIVED_SIGN,)


class AutoencoderTree(Protocol):
    """What is read of a system's settings."""

    @property
    def model(self) -> ModelSettings: ...


def histogram(values: Tensor, bins: int) -> Tensor:
    """How often each of 0 .. bins - 1 occurs in each row: [rows, n] -> float64 [rows, bins]. A row
    with a value outside, such as one rounded from NaN, is NaN throughout: a broken model has no
    rate, rather than a low one.
    """
    rows = len(values)
    places = values.long().clamp(min=-1, max=bins) + 1
    places = places + torch.arange(rows, device=values.device)[:, None] * (bins + 2)
    counts = torch.bincount(places.flatten(), minlength=rows * (bins + 2)).double()
    counts = counts.view(rows, bins + 2)
    outside = counts[:, :1] + counts[:, -1:] > 0
    return torch.where(outside, math.nan, counts[:, 1:-1])


def entropy_bits(counts: Tensor) -> Tensor:
    """- sum p log2 p over the last axis, p the share of each count; 0 where all counts are."""
    total = counts.sum(dim=-1, keepdim=True).clamp(min=1.0)
    shares = counts / total
    return torch.xlogy(shares, 1.0 / shares).sum(dim=-1) / math.log(2.0)


def code_counts(
    prediction: Tensors, batch: Tensors, settings: AutoencoderTree
) -> tuple[Tensor, Tensor]:
    """(how often each code is used [K], how many codes were written)"""
    codes = prediction["codes"].flatten()[None]
    counts = histogram(codes, settings.model.vqvae.codes)[0]
    return counts, counts.sum()


def entropy(counts: Tensor, count: float) -> float:
    return float(entropy_bits(counts)) if count > 0 else math.nan


def perplexity(counts: Tensor, count: float) -> float:
    """2^entropy: the number of codes that, used equally, would have this entropy."""
    return 2.0 ** entropy(counts, count)


def perplexity_percent(counts: Tensor, count: float) -> float:
    return 100.0 * perplexity(counts, count) / counts.numel()


def utilisation(counts: Tensor, count: float) -> float:
    """Share of the codes that are used at all."""
    return float((counts > 0).double().mean()) if count > 0 else math.nan


def dead_codes(counts: Tensor, count: float) -> float:
    return float((counts == 0).sum()) if count > 0 else math.nan


def codebook_metrics() -> tuple[Metric, ...]:
    """The diagnostics: full use of the codebook is no aim, and its rate is `rate_bpp`."""
    where = "over the whole validation set"
    rows: tuple[tuple[str, str, Callable[[Tensor, float], float], str], ...] = (
        ("perplexity", "", perplexity, f"2^entropy of the codes {where}"),
        ("perplexity_pct", "%", perplexity_percent, "perplexity as a share of the codebook"),
        ("utilisation", "", utilisation, f"share of the codes used at least once {where}"),
        ("dead_codes", "", dead_codes, f"codes that are never used {where}"),
        ("entropy", "bit", entropy, f"entropy of the codes {where}"),
    )
    return tuple(
        Metric(f"codebook_{name}", unit, None, code_counts, text, finish, READS)
        for name, unit, finish, text in rows
    )
