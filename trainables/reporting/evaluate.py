"""Validation: every metric and every unweighted term on the fixed validation set, reduced over
the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from metrics.health_signs import number
from metrics.metric import Column, Metric
from trainables.parts import Phase
from trainables.stepping.devices import VALIDATION_SEED, seed_everything, to_device
from trainables.stepping.inputs import Told, in_validation
from trainables.stepping.train_settings import SystemSettings


@dataclass
class Worst:
    """Keeps the picture of the batch with the highest loss.

    Attributes:
        name: of the figure.
        weights: of the terms of the first phase.
        picture: `picture(prediction, batch) -> image` [3, H, W] in [0, 1].
    """

    name: str
    weights: Mapping[str, float]
    picture: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
    loss: float = -math.inf
    image: Tensor | None = None

    def look(
        self, measured: Tensor, prediction: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> None:
        """Takes in a batch; measured: [2, terms], its sums and counts."""
        means = (measured[0] / measured[1].clamp_min(1e-12)).tolist()
        loss = sum(w * x for w, x in zip(self.weights.values(), means, strict=True) if w)
        if loss > self.loss:
            self.loss, self.image = loss, self.picture(prediction, batch)


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    modules: Mapping[str, nn.Module],
    phases: Sequence[Phase],
    metrics: Sequence[Metric],
    batches: Iterable[Mapping[str, Tensor]],
    settings: SystemSettings,
    worst: Worst | None = None,
    read: Collection[str] | None = None,
) -> dict[str, float | None]:
    """Columns `val.<metric>` and `val.<prefix>.<term>`; None where nothing was counted or the
    value is not finite.

    Args:
        read: the columns that terms which are off are measured for; None for all.

    Sums and counts are added over batches and ranks before any root or ratio is taken, so the
    value does not depend on how the set is cut. Modules are in eval mode meanwhile. The generators
    of the process are seeded, for what was drawn before decides nothing; a training seeds them
    anew at every step.
    """
    totals: list[Tensor] | None = None
    forwards = [
        (phase, in_validation(phase), () if read is None else phase.composite.idle(read))
        for phase in phases
    ]
    seed_everything(VALIDATION_SEED, accelerator.device)
    with in_eval(modules):
        for batch in batches:
            batch = to_device(batch, accelerator.device, settings.train.channels_last)
            vectors = _measure(accelerator, modules, forwards, metrics, batch, settings, worst)
            if totals is None:
                totals = vectors
            else:
                totals = [a + b for a, b in zip(totals, vectors, strict=True)]
    totals = _reduce(accelerator, totals, phases, metrics)
    return _columns(totals, phases, metrics)


@contextmanager
def in_eval(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """The modules in eval mode, and afterwards as they were."""
    training = {name: module.training for name, module in modules.items()}
    for module in modules.values():
        module.eval()
    try:
        yield
    finally:
        for name, module in modules.items():
            module.train(training[name])


def _measure(
    accelerator: Accelerator,
    modules: Mapping[str, nn.Module],
    forwards: Sequence[tuple[Phase, Told, Collection[str]]],
    metrics: Sequence[Metric],
    batch: Mapping[str, Tensor],
    settings: SystemSettings,
    worst: Worst | None,
) -> list[Tensor]:
    """Float64 vectors (sums and count of one metric; sums and counts of one Composite) of one
    batch.
    """
    vectors: list[Tensor] = []
    plain: Mapping[str, Tensor] = batch
    for index, (phase, told, idle) in enumerate(forwards):
        batch = told(plain)
        with accelerator.autocast():
            prediction = phase.forward(modules, batch, settings)
        if index == 0:
            # Columns may share one measure and differ in `finish`.
            measures: dict[Any, Tensor] = {}
            for metric in metrics:
                if metric.measure not in measures:
                    measures[metric.measure] = sums_of(metric, prediction, batch, settings)
                vectors.append(measures[metric.measure])
        measured = phase.composite.measure(prediction, batch, settings, idle)
        if index == 0 and worst is not None:
            worst.look(torch.stack(measured), prediction, batch)
        vectors.append(torch.cat(measured))
        plain = {**plain, **phase.shared_outputs(prediction)}
    return vectors


def sums_of(
    metric: Metric,
    prediction: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    settings: SystemSettings,
) -> Tensor:
    """The sums of a metric on a batch with their count: what is added over batches and ranks."""
    return joined(metric.measure(prediction, batch, settings), f"metric {metric.name}")


def joined(measured: tuple[Tensor, Tensor], whose: str) -> Tensor:
    """Sums and, last, their count as one float64 vector.

    Args:
        whose: what has measured them, for the message.

    Raises:
        TypeError: they are not two tensors.
    """
    parts = measured if isinstance(measured, tuple) else (measured,)
    if [isinstance(part, Tensor) for part in parts] != [True, True]:
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(
            f"{whose} returns ({kinds}), and measures are two tensors, sums and their count: "
            "return (sums.double(), torch.tensor(count)), or `per_sample` of a value each."
        )
    sums, count = parts
    return torch.cat([sums.double().reshape(-1), count.double().reshape(1)])


def value_of(metric: Metric | Column, vector: Tensor) -> float | None:
    """The column of a metric, or of an examination, from such a vector; None where it is not
    finite.
    """
    sums = vector[:-1] if vector.numel() > 2 else vector[0]
    return finite(metric.finish(sums, float(vector[-1])))


def _reduce(
    accelerator: Accelerator,
    totals: list[Tensor] | None,
    phases: Sequence[Phase],
    metrics: Sequence[Metric],
) -> list[Tensor]:
    if totals is None:
        raise ValueError("the validation set is empty: there is nothing to measure.")
    if accelerator.num_processes == 1:
        return [vector.cpu() for vector in totals]
    sizes = [vector.numel() for vector in totals]
    summed = accelerator.reduce(torch.cat(totals), reduction="sum")
    return list(torch.split(summed.cpu(), sizes))


def _columns(
    totals: list[Tensor], phases: Sequence[Phase], metrics: Sequence[Metric]
) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    position = 0
    for index, phase in enumerate(phases):
        if index == 0:
            for metric, vector in zip(metrics, totals, strict=False):
                columns[f"val.{metric.name}"] = value_of(metric, vector)
            position = len(metrics)
        vector = totals[position + index]
        names = list(phase.composite.terms)
        for name, value, count in zip(
            names, vector[: len(names)], vector[len(names) :], strict=True
        ):
            mean = float(value / count) if count > 0 else math.nan
            columns[f"val.{phase.composite.prefix}.{name}"] = finite(mean)
    return columns


def finite(value: float) -> float | None:
    """The value, or None where it is not finite: JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def weighted_validation(
    report: Mapping[str, float | str | None], phases: Iterable[Phase]
) -> dict[str, float | None]:
    """`train.<prefix>.validation_total`: the validation's terms under the weights of the last
    step. It stands beside `train.<prefix>.total` and judges nothing, for it falls when the weights
    fall.
    """
    totals: dict[str, float | None] = {}
    for phase in phases:
        prefix, total = phase.composite.prefix, 0.0
        for name in phase.composite.terms:
            weight = number(report, f"train.{prefix}.{name}.weight")
            value = number(report, f"val.{prefix}.{name}")
            if weight and value is not None:
                total += weight * value
        totals[f"train.{prefix}.validation_total"] = total
    return totals
