"""Loss terms: named pure functions, with the count that turns a term's sum into a mean.

A term returns a *sum*; its count depends on the batch alone. The loop adds the counts of all
micro-batches and ranks first, so that a mean is exact under accumulation, ragged batches, masks
and any number of workers. The exception, a term that compares samples, says so (`Term.splits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from losses.schedules import ScheduleSettings
from settings.schema import Settings, setting

Tensors = Mapping[str, Tensor]
"""A batch or a prediction: named tensors whose first axis is the sample."""

RESERVED_NAMES = ("total", "balancer")
"""Names that no term may have: a column and a settings node beside the terms have them."""


@dataclass(frozen=True, kw_only=True)
class TermSettings(Settings):
    """The settings that every term has. A term with more extends this node."""

    weight: float = setting(1.0, "factor on the term in the training loss", low=0.0, high=1e6)
    enabled: bool = setting(True, "false switches the term off, as weight 0 does")
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)

    @property
    def is_on(self) -> bool:
        """Whether the term is trained, at some steps at least: its schedule may begin late."""
        return self.enabled and self.weight > 0.0


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Attributes:
        sum: `sum(prediction, batch, settings) -> scalar`, differentiable in the prediction.
            `settings` is the system's whole tree, typed by the term as what it reads of it.
        count: `count(batch, settings) -> scalar`: what the sum is divided by (samples, pixels,
            hole pixels); it may be 0, then the term is absent from the batch.
        reads: keys whose value changes the term's *measured* value (patterns of fnmatch). A space
            that searches one of them cannot use the term as its objective. Weights and schedules
            are not listed.
        unbounded: why the term has no lower bound, where it has none (a hinge generator); ""
            where it has.
        constant_count: whether the count is the same for every batch of one size (samples, all
            values), so that workers add it up over each other once and not at every step.
        splits: why the term's mean depends on how samples are cut into batches, where it does (a
            distance between the sets of predictions and targets of a batch); "" where it is a sum
            over samples. Such a term returns its value times the count, whatever the samples'
            order; it compares the micro-batch of one worker, and a step has the mean of the
            micro-batches' values.
    """

    sum: Callable[[Tensors, Tensors, Any], Tensor]
    count: Callable[[Tensors, Any], Tensor]
    reads: tuple[str, ...] = ()
    unbounded: str = ""
    constant_count: bool = False
    splits: str = ""

    def __call__(
        self, prediction: Tensors, batch: Tensors, settings: object
    ) -> tuple[Tensor, Tensor]:
        """(sum, count) of the term on one batch."""
        return self.sum(prediction, batch, settings), self.count(batch, settings)
