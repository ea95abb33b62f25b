"""What a head that tells real noisy images from generated ones is judged by: over all pairs of an
image and a log-SNR, and at each log-SNR.

Shapes: B pairs; `logit`, `label` (1 is real), `level` (a place in `LEVELS`) [B].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.diffusion import LEVELS
from metrics.metric import Metric, Tensors

BINS = 10
"""Of the probability of real, for the calibration."""

_FINE = 1000
"""Bins of the logit in which the area under the curve is counted; two samples in one bin count as
equal.
"""

_LEAST_LOGIT, _WIDEST = 1e-4, 14.0
"""The bins are equal in asinh(logit / `_LEAST_LOGIT`) up to `_WIDEST` either way, a logit of 60:
as fine for a head that knows next to nothing as for one that is sure.
"""


def level_name(level: float) -> str:
    """`log_snr_m6`, as the columns of diffusion have it."""
    return f"log_snr_{level:g}".replace("-", "m")


def rejection_metrics() -> list[Metric]:
    """All of them; the first is the objective."""
    made = list(_at(None, ""))
    for place, level in enumerate(LEVELS):
        parts = _at(place, f"_{level_name(level)}")
        made += [dataclasses.replace(metric, detail=True) for metric in parts]
    return made


def _at(place: int | None, end: str) -> Iterator[Metric]:
    """Those at one log-SNR, or at all of them."""
    where = "" if place is None else f" at log-SNR {LEVELS[place]:g}"
    bound = functools.partial
    yield Metric(
        f"bce{end}", "nat", "min", bound(_bce, place),
        f"binary cross-entropy{where}; no knowledge has 0.693",
    )  # fmt: skip
    yield Metric(
        f"accuracy{end}", "", "max", bound(_accuracy, place),
        f"share of real and generated that is told right{where}",
    )  # fmt: skip
    yield Metric(
        f"auc{end}", "", "max", bound(_ranks, place),
        f"probability that a real one looks more real than a generated one{where}",
        finish=_auc,
    )  # fmt: skip
    yield Metric(
        f"ece{end}", "", "min", bound(_calibration, place),
        f"expected calibration error over {BINS} bins of the probability{where}",
        finish=_ece,
    )  # fmt: skip
    for index in range(BINS):
        yield Metric(
            f"reliability{end}_b{index}", "", None, bound(_share_real, place, index),
            f"share of real where the head says {index / BINS:g} to {(index + 1) / BINS:g}{where}",
            detail=True,
        )  # fmt: skip


def _chosen(
    place: int | None, prediction: Tensors, batch: Tensors
) -> tuple[Tensor, Tensor, Tensor]:
    """(logit, label, weight) float64 [B]; the weight is 1 at this log-SNR and 0 elsewhere."""
    logit, label = prediction["logit"].double(), batch["label"].double()
    if place is None:
        return logit, label, torch.ones_like(logit)
    return logit, label, (batch["level"] == place).double()


def _bce(
    place: int | None, prediction: Tensors, batch: Tensors, settings: object
) -> tuple[Tensor, Tensor]:
    logit, label, weight = _chosen(place, prediction, batch)
    each = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return (each * weight).sum(), weight.sum()


def _accuracy(
    place: int | None, prediction: Tensors, batch: Tensors, settings: object
) -> tuple[Tensor, Tensor]:
    """A logit of 0 is half right."""
    logit, label, weight = _chosen(place, prediction, batch)
    right = 0.5 + 0.5 * logit.sign() * (2.0 * label - 1.0)
    return (right * weight).sum(), weight.sum()


def _places(logit: Tensor) -> Tensor:
    """The bin of the probability."""
    return (logit.sigmoid() * BINS).long().clamp(max=BINS - 1)


def _fine_places(logit: Tensor) -> Tensor:
    share = 0.5 + 0.5 * (logit / _LEAST_LOGIT).asinh() / _WIDEST
    return (share * _FINE).long().clamp(0, _FINE - 1)


def _ranks(
    place: int | None, prediction: Tensors, batch: Tensors, settings: object
) -> tuple[Tensor, Tensor]:
    """Real and generated in each fine bin, [2 x _FINE]."""
    logit, label, weight = _chosen(place, prediction, batch)
    where = _fine_places(logit)
    counts = logit.new_zeros(2 * _FINE)
    counts.index_add_(0, where, weight * label)
    counts.index_add_(0, where + _FINE, weight * (1.0 - label))
    return counts, weight.sum()


def _auc(counts: Tensor, count: float) -> float:
    real, generated = counts.double().view(2, _FINE)
    below = generated.cumsum(0) - 0.5 * generated
    return float((real * below).sum() / (real.sum() * generated.sum()))


def _calibration(
    place: int | None, prediction: Tensors, batch: Tensors, settings: object
) -> tuple[Tensor, Tensor]:
    """Probability minus share of real, summed in each bin, [BINS]."""
    logit, label, weight = _chosen(place, prediction, batch)
    off = logit.new_zeros(BINS)
    off.index_add_(0, _places(logit), weight * (logit.sigmoid() - label))
    return off, weight.sum()


def _ece(off: Tensor, count: float) -> float:
    """Sum over bins of |mean probability - share of real|, by their shares (arXiv 1706.04599)."""
    return float(off.double().abs().sum()) / count if count > 0 else float("nan")


def _share_real(
    place: int | None, index: int, prediction: Tensors, batch: Tensors, settings: object
) -> tuple[Tensor, Tensor]:
    logit, label, weight = _chosen(place, prediction, batch)
    weight = weight * (_places(logit) == index)
    return (label * weight).sum(), weight.sum()
