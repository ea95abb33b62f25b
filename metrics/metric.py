"""Metrics: weight-free measures of a model on the validation set, declared with all that they
read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

Mode = Literal["min", "max"]
"""The better direction of a measure."""


def mean(sums: Tensor, count: float) -> float:
    """The default `finish`: sum over count; NaN where nothing was counted."""
    return float(sums) / count if count > 0 else float("nan")


@dataclass(frozen=True)
class Metric:
    """One column `val.<name>`.

    Attributes:
        name: with the unit as its last part where it has one (`hole_psnr_db`).
        mode: the better direction; None for a diagnostic, which cannot be an objective.
        measure: `measure(prediction, batch, settings) -> (sums, count)`, float64 sums (a scalar
            or a vector) and the count they are divided by. Sums and counts are added over batches
            and ranks. `settings` is the system's whole tree, typed as what is read of it.
        finish: `finish(sums, count) -> value` after that addition (a root, a logarithm, a ratio
            of sums).
        reads: settings keys (patterns of fnmatch) that change what is *measured*, not what is
            learnt. A space that searches one of them is refused with this metric as objective.
        help: one line for `--show` and the page.
        detail: a part of another measure (one size of lesions, one bin of times), which `train`
            leaves out of what it prints at its end.
    """

    name: str
    unit: str
    mode: Mode | None
    measure: Callable[[Tensors, Tensors, Any], tuple[Tensor, Tensor]]
    help: str
    finish: Callable[[Tensor, float], float] = mean
    reads: tuple[str, ...] = ()
    detail: bool = False


@dataclass(frozen=True)
class Column:
    """One column `val.<name>` of a measure that is no sum over validation batches: what a
    `Metric` declares, without its `measure` (`trainables.examination`).
    """

    name: str
    unit: str
    mode: Mode | None
    help: str
    finish: Callable[[Tensor, float], float] = mean
    reads: tuple[str, ...] = ()
    detail: bool = False


def per_sample(values: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of one value per sample; samples whose value is NaN are not counted. values:
    [B].
    """
    values = values.double()
    finite = torch.isfinite(values)
    return torch.where(finite, values, 0.0).sum(), finite.sum().double()
