"""What a phase reports of the steps since its last report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from accelerate import Accelerator
from torch import Tensor

from trainables.parts import Phase
from trainables.stepping.gradients import compared_columns
from trainables.stepping.inputs import SCHEDULE, schedule_values


class Interval:
    """Adds up steps, on the device until the report reads them.

    Args:
        steps: of the whole training, which size the schedules.
        rate: the learning rate by step.
        groups: of parameters -> factor on it.
        is_compared: whether the gradients of the terms are asked for.

    Attributes:
        compared: of the last step, `TermGradients.compared`.
        weights: of the terms at the last step.
        skipped: steps that overflowed, so that no update was applied.
    """

    def __init__(
        self,
        phase: Phase,
        accelerator: Accelerator,
        steps: int,
        rate: Callable[[int], float],
        groups: Mapping[str, float] = MappingProxyType({}),
        is_compared: bool = False,
    ) -> None:
        self.phase, self.accelerator, self.steps = phase, accelerator, steps
        self.rate, self.groups = rate, groups
        self._asked = compared_columns(phase.composite.terms) if is_compared else []
        self._begin()

    def _begin(self) -> None:
        self.weights: Mapping[str, float] = {}
        self.compared: Mapping[str, Tensor] = {}
        self.skipped = 0
        self._applied = 0
        self._means: dict[str, Tensor] = {}
        self._measured: dict[str, int] = {}
        self._largest_norm: Tensor | None = None
        self._norms: Tensor | None = None

    def add(self, sums: Mapping[str, Tensor], counts: Mapping[str, float], norm: Tensor) -> None:
        """Takes in an update that was applied.

        Args:
            sums: of each active term, over this rank's samples.
            counts: of each term, over all ranks.
            norm: of the gradient, before it was clipped.
        """
        self._applied += 1
        largest, norms = self._largest_norm, self._norms
        self._largest_norm = norm if largest is None else torch.maximum(largest, norm)
        self._norms = norm if norms is None else norms + norm
        for name, value in sums.items():
            mean = value.float() / counts[name]
            self._means[name] = self._means[name] + mean if name in self._means else mean
            self._measured[name] = self._measured.get(name, 0) + 1

    def report(self, step: int) -> dict[str, float | None]:
        """The columns of the interval that ends at `step`, equal on every rank; the next interval
        begins.
        """
        composite, weights = self.phase.composite, self.weights
        means = self._global_means()
        shares = {name: weights[name] * (means[name] or 0.0) for name in composite.terms}
        total = sum(shares.values())
        columns: dict[str, float | None] = {}
        for name in composite.terms:
            column = f"train.{composite.prefix}.{name}"
            columns[column] = means[name]
            columns[f"{column}.weight"] = weights[name]
            columns[f"{column}.share"] = shares[name] / total if total else 0.0
        columns[f"train.{composite.prefix}.total"] = total
        for column in self._asked:
            columns[f"train.{composite.prefix}.{column}"] = _finite(self.compared.get(column))
        largest, norms = self._largest_norm, self._norms
        prefix, last = self.phase.column_prefix, max(step - 1, 0)
        columns[f"{prefix}.grad_norm"] = _finite(largest)
        mean = _finite(norms)
        columns[f"{prefix}.grad_norm_mean"] = None if mean is None else mean / self._applied
        columns[f"{prefix}.lr"] = self.rate(last)
        for name, factor in self.groups.items():
            columns[f"{prefix}.lr.{name}"] = self.rate(last) * factor
        for key, value in schedule_values(self.phase, last, self.steps).items():
            columns[f"{prefix}.{SCHEDULE}{key}"] = value
        columns[f"{prefix}.skipped_steps"] = float(self.skipped)
        self._begin()
        return columns

    def _global_means(self) -> dict[str, float | None]:
        """Mean over the interval's steps of each term's global mean; None for a term that was
        never active.
        """
        names = [name for name in self.phase.composite.terms if name in self._means]
        means: dict[str, float | None] = dict.fromkeys(self.phase.composite.terms)
        if not names:
            return means
        values = torch.stack([self._means[name] / self._measured[name] for name in names])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="sum")
        means.update(zip(names, values.tolist(), strict=True))
        return means


def _finite(norm: Tensor | None) -> float | None:
    """A norm as it is reported: None where there is none, or where it overflowed though no
    gradient did, which a gradient scaler does not skip.
    """
    value = math.inf if norm is None else float(norm)
    return value if math.isfinite(value) else None
