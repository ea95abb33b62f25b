"""The metrics of the conditioner: the decoded field first, then the scaled latents.

Errors of scaled latents hide that columns differ in what they do to the field (000-M24); so the
objective is the error of the decoded field, where there is a decoder.

Shapes: B samples, M main latent size, K hierarchical codes of size h; `main`, `paired_main`
[B, M], `hier`, `paired_hier` [B, K, h], `field` [B, T, N], `paired_valid` [B] in {0, 1}.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metrics.metric import Metric, Mode, Tensors, mean
from metrics.relative_l2 import counted, mean_relative_l2, relative_l2
from settings.schema import Settings, setting

Measured = tuple[Tensor, Tensor]

BINS_PER_DECADE = 200
DECADES = (-5, 2)
"""Decades of the histogram of relative errors, 1e-5 to 1e2; errors outside go to the end bins."""

_BINS = BINS_PER_DECADE * (DECADES[1] - DECADES[0])


@dataclass(frozen=True, kw_only=True)
class MetricSettings(Settings):
    tail_percent: int = setting(
        95, "percentile of the relative errors that has a column of its own", low=1, high=99
    )


class VaeNode(Protocol):
    @property
    def reach(self) -> float:
        """The end of the range to which the training targets are scaled."""


class ModelNode(Protocol):
    def bound(self, targets_reach: float) -> float:
        """The largest output of the network, in the units of targets that end at that."""


class LatentTree(Protocol):
    """What is read of a system's settings."""

    @property
    def vae(self) -> VaeNode: ...

    @property
    def model(self) -> ModelNode: ...


# The decoded field


def field_error_histogram(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Counts in bins of equal width in the logarithm [bins]: additive, unlike a percentile. Errors
    that are not a number count as the largest.
    """
    errors = relative_l2(prediction["field"], batch["field"])
    errors = torch.where(torch.isnan(errors), math.inf, errors)
    place = (errors.clamp(min=10.0 ** DECADES[0]).log10() - DECADES[0]) * BINS_PER_DECADE
    bins = torch.bincount(place.clamp(max=_BINS - 1).long(), minlength=_BINS).double()
    return bins, bins.sum()


def percentile(share: float, bins: Tensor, count: float) -> float:
    """The value below which that share of the histogram lies, interpolated (in the logarithm)
    within its bin: exact to the width of a bin, 1.2 %.
    """
    if count == 0:
        return math.nan
    before = torch.cumsum(bins, dim=0)
    index = int(torch.searchsorted(before, share * count))
    within = (share * count - float(before[index] - bins[index])) / float(bins[index])
    return 10.0 ** (DECADES[0] + (index + within) / BINS_PER_DECADE)


# Latents


def square_error(kind: str, prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    error = _error(kind, prediction, batch)
    return error.square().sum(), counted(error)


def absolute_error(kind: str, prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    error = _error(kind, prediction, batch)
    return error.abs().sum(), counted(error)


def all_square_error(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Squared error of both kinds of latents together, each number counted once."""
    main, hier = (square_error(kind, prediction, batch, settings) for kind in ("main", "hier"))
    return main[0] + hier[0], main[1] + hier[1]


def root(sums: Tensor, count: float) -> float:
    return math.sqrt(mean(sums, count))


def variation(kind: str, prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Per number x of the latent with its target y: sums of y, y^2 and (x - y)^2 over samples,
    [3 * size].
    """
    target = batch[kind].double().flatten(1)
    error = _error(kind, prediction, batch).flatten(1)
    sums = torch.stack([target, target.square(), error.square()]).sum(dim=1)
    return sums.flatten(), torch.tensor(len(target), dtype=torch.float64, device=sums.device)


def r_squared(sums: Tensor, count: float) -> float:
    """1 - sum (x - y)^2 / sum (y - mean y)^2 of each number of the latent, then their mean.
    Numbers that do not vary over the set are left out.
    """
    if count == 0:
        return math.nan
    total, square, error = sums.view(3, -1)
    spread = square - total.square() / count
    varies = spread > 1e-9 * square
    shares = 1.0 - error[varies] / spread[varies]
    return float(shares.mean()) if len(shares) else math.nan


def cosine(kind: str, prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Cosine of the main latent, or of each hierarchical code; 0 for those of length 0."""
    latent, target = prediction[kind].double(), batch[kind].double()
    values = torch.cosine_similarity(latent, target, dim=-1, eps=1e-12)
    return values.sum(), counted(values)


def view_distance(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """|f(view) - f(image)| over both kinds of latents, of samples whose two views differ."""
    squares = [
        (prediction[kind] - prediction[f"paired_{kind}"]).double().flatten(1).square().sum(dim=1)
        for kind in ("main", "hier")
    ]
    valid = batch["paired_valid"].double()
    return (valid * (squares[0] + squares[1]).sqrt()).sum(), valid.sum()


def beyond(limit: str, prediction: Tensors, batch: Tensors, settings: LatentTree) -> Measured:
    """How many target numbers exceed `vae.reach`, the end of the training targets (`reach`), or
    the end of what the network can put out (`bound`).
    """
    # A training target at the end of the range is inside, whatever its rounding.
    reach = settings.vae.reach
    most = reach * (1.0 + 1e-5) if limit == "reach" else settings.model.bound(reach)
    targets = torch.cat([batch[kind].flatten() for kind in ("main", "hier")])
    return (targets.abs() > most).sum().double(), counted(targets)


def _error(kind: str, prediction: Tensors, batch: Tensors) -> Tensor:
    return prediction[kind].double() - batch[kind].double()


# The declarations


def conditioner_metrics(settings: MetricSettings, decoder: bool = True) -> tuple[Metric, ...]:
    """Every metric; the first is the objective. Without a decoder those of the field are absent,
    and the objective is `latent_rmse`.
    """
    field_errors = (_FIELD_ERROR, _tail(settings.tail_percent)) if decoder else ()
    return (*field_errors, _LATENT_RMSE, *_BOTH, *_DIAGNOSTICS)


def _tail(percent: int) -> Metric:
    return Metric(
        name=f"decoded_field_error_p{percent}",
        unit="",
        mode="min",
        measure=field_error_histogram,
        finish=functools.partial(percentile, percent / 100.0),
        help=f"percentile {percent} of the relative L2 error over samples, to 1.2 %",
        reads=("metric.tail_percent",),
    )


def _of(
    kind: str,
    name: str,
    mode: Mode,
    measure: Callable[..., Measured],
    help: str,  # noqa: A002 - the field's word for it
    finish: Callable[[Tensor, float], float] = mean,
) -> Metric:
    words = "main latent" if kind == "main" else "hierarchical codes"
    text = f"{help} of the {words}, scaled"
    of_kind = functools.partial(measure, kind)
    return Metric(f"{kind}_{name}", "", mode, of_kind, text, finish=finish)


_FIELD_ERROR = Metric(
    name="decoded_field_error",
    unit="",
    mode="min",
    measure=mean_relative_l2,
    help="relative L2 error of the decoded field, mean over samples",
)

_LATENT_RMSE = Metric(
    name="latent_rmse",
    unit="",
    mode="min",
    measure=all_square_error,
    finish=root,
    help="root mean square error over all numbers of the scaled latents",
)

_BOTH = tuple(
    metric
    for kind in ("main", "hier")
    for metric in (
        _of(kind, "mse", "min", square_error, "mean square error"),
        _of(kind, "mae", "min", absolute_error, "mean absolute error"),
        _of(kind, "r2", "max", variation, "R2 per number, then mean,", r_squared),
        _of(kind, "cosine", "max", cosine, "cosine of prediction and target"),
    )
)

_DIAGNOSTICS = (
    Metric(
        name="consistency_score",
        unit="",
        mode="min",
        measure=view_distance,
        help="distance between the predictions on two views of one object, mean over samples",
    ),
    Metric(
        name="out_of_range_share",
        unit="",
        mode=None,
        measure=functools.partial(beyond, "reach"),
        help="share of the validation targets beyond the range of the training targets",
        reads=("vae.reach",),
    ),
    Metric(
        name="unreachable_share",
        unit="",
        mode=None,
        measure=functools.partial(beyond, "bound"),
        help="share of the validation targets that the network's tanh cannot reach",
        reads=("vae.reach", "model.reach"),
    ),
)
