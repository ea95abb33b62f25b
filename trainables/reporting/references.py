"""What does nothing, or next to nothing, measured as a trained network is: the references that
stand beside every trained network. Both are measured over all samples and by unit, so that their
differences pair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from metrics.metric import Metric, Tensors
from settings.schema import SettingsError
from trainables.checkpoints.initial import begun
from trainables.examination import Examination, Examine
from trainables.parts import Loaders, Phase
from trainables.reference import Reference
from trainables.reporting.evaluate import joined, sums_of, value_of
from trainables.reporting.examine import exam_of, share_of, values_of
from trainables.reporting.measure import loaders_of, modules_of
from trainables.stepping.batches import validation_loader
from trainables.stepping.devices import fixed_draws, make_accelerator, to_device
from trainables.stepping.inputs import Told, in_validation, step_seed
from trainables.stepping.train_settings import Tree
from trainables.system import PreparedT, System

UNTRAINED = "untrained"
"""The platform's own reference: the network of the settings at step 0."""

Measured = dict[str, Any]
"""{"about": what it is, "costs": [the columns of `Reference.costs`], "val.<metric>": value, ...,
"unit": [names], "units": {"val.<metric>": [value of each unit]}}; None where nothing was counted,
the value is not finite, or the metric reads what the reference does not predict; the columns of
examinations are of no unit. Units are in the order of their first samples.
"""


def measure_references(
    system: System[Tree, PreparedT],
    settings: Tree,
    prepared: PreparedT,
    split: str = "validation",
    document: Tree | None = None,
) -> dict[str, Measured]:
    """Every reference of a system on a fixed split, by the system's own metrics and the terms of
    its first phase.

    Args:
        settings: what the references are fitted with, and how they are measured.
        document: the settings of `untrained`, where they are others.

    Raises:
        SettingsError: the data has no such split, or the system has a reference `untrained`.
    """
    loaders = loaders_of(system, settings, prepared, split)
    references = dict(system.references(settings, prepared))
    if UNTRAINED in references:
        raise SettingsError(
            f"system {system.name} has a reference {UNTRAINED!r}, which is the platform's own: "
            "the network at step 0. Give it another name."
        )
    accelerator = make_accelerator(settings.train)
    first = settings if document is None else document
    references[UNTRAINED] = untrained(system, first, prepared, accelerator)
    return {
        name: _measured(reference, system, settings, prepared, loaders, split, accelerator)
        for name, reference in references.items()
    }


def measure_by_unit(
    system: System[Tree, PreparedT],
    settings: Tree,
    prepared: PreparedT,
    path: Path,
    split: str = "validation",
) -> Measured:
    """A checkpoint on a fixed split, as a reference is measured.

    Raises:
        SettingsError: the data has no such split.
    """
    loaders = loaders_of(system, settings, prepared, split)
    accelerator = make_accelerator(settings.train)
    modules = modules_of(system, settings, prepared, path, accelerator)
    network = _network(system, settings, prepared, modules, accelerator, path.name)
    return _measured(network, system, settings, prepared, loaders, split, accelerator)


def _measured(
    reference: Reference,
    system: System[Tree, PreparedT],
    settings: Tree,
    prepared: PreparedT,
    loaders: Loaders,
    split: str,
    accelerator: Accelerator,
) -> Measured:
    metrics = _measures(system, settings, prepared)
    phase = system.phases(settings, prepared)[0]
    told = in_validation(phase)
    examinations = system.examinations(settings, prepared)
    return {
        **_measure(reference, metrics, loaders, split, settings, accelerator.device, told),
        **_examined(reference, examinations, loaders, split, settings, accelerator, phase),
    }


def untrained(
    system: System[Tree, PreparedT], settings: Tree, prepared: PreparedT, accelerator: Accelerator
) -> Reference:
    """The network of the settings before its first step, from the generator that a training with
    this seed starts from, or from the weights that it begins with.
    """
    with torch.random.fork_rng():
        torch.manual_seed(step_seed(settings.train.seed, -1))
        built = system.build(settings, prepared)
        begun(system, settings, built, lambda text: None)
    modules = {name: module.to(accelerator.device) for name, module in built.modules.items()}
    modules |= {f"ema.{name}": module for name, module in modules.items()}
    about = "the network before its first step"
    return _network(system, settings, prepared, modules, accelerator, about)


def _network(
    system: System[Tree, PreparedT],
    settings: Tree,
    prepared: PreparedT,
    modules: Mapping[str, nn.Module],
    accelerator: Accelerator,
    about: str,
) -> Reference:
    phase = system.phases(settings, prepared)[0]
    for module in modules.values():
        module.eval()

    def predict(batch: Tensors) -> Tensors:
        with accelerator.autocast():
            return phase.forward(modules, batch, settings)

    def of_network(run: Examine) -> Examine:
        return lambda exam: run(dataclasses.replace(exam, modules=modules))

    examinations = system.examinations(settings, prepared)
    examine = {each.name: of_network(each.run) for each in examinations}
    return Reference(predict, about, examine=examine)


def _measures(
    system: System[Tree, PreparedT], settings: Tree, prepared: PreparedT
) -> list[Metric]:
    """The metrics, and the terms of the first phase as such: an objective may be one of them."""
    composite = system.phases(settings, prepared)[0].composite
    terms = composite.terms.items()
    return [
        *system.metrics(settings, prepared),
        *(Metric(f"{composite.prefix}.{name}", "", "min", term, "a term") for name, term in terms),
    ]


def _units(loaders: Loaders, split: str) -> Sequence[str]:
    """The unit of each sample; one for all of them where the system declares none."""
    samples: Any = getattr(loaders, split)
    units = loaders.units.get(split, ("all",) * len(samples))
    if len(units) != len(samples):
        raise ValueError(
            f"Loaders.units names {len(units)} units for the {len(samples)} samples of {split}: "
            "it takes one for each sample, in their order."
        )
    return units


class _Predicted(dict[str, Tensor]):
    """A prediction that knows whether it was asked in vain for a tensor."""

    lacks = False

    def __missing__(self, key: str) -> Tensor:
        self.lacks = True
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        is_there = super().__contains__(key)
        self.lacks = self.lacks or not is_there
        return is_there


@torch.no_grad()
def _measure(
    reference: Reference,
    metrics: Sequence[Metric],
    loaders: Loaders,
    split: str,
    settings: Tree,
    device: torch.device,
    told: Told,
) -> Measured:
    """Predicts whole batches and measures the samples of each unit in them by themselves; sums and
    counts are added over batches, and then over units.
    """
    totals: dict[str, list[dict[str, Tensor]]] = {}
    with fixed_draws(device):
        for units, batch in _batches(loaders, split, settings.train.validation_batch_size):
            moved = told(to_device(batch, device, settings.train.channels_last))
            prediction = reference.predict(moved)
            for unit, rows in units.items():
                at = torch.tensor(rows, device=device)
                part = {key: value[at] for key, value in moved.items()}
                of_part = _Predicted({key: value[at] for key, value in prediction.items()})
                sums = _sums(reference, metrics, of_part, part, settings)
                totals.setdefault(unit, []).append(sums)
    by_unit = [_added(parts) for parts in totals.values()]
    whole = _added(by_unit)
    costs = [f"val.{name}" for name in reference.costs]
    columns: Measured = {"about": reference.about, "costs": costs, "unit": list(totals)}
    columns |= {f"val.{m.name}": _value(m, whole) for m in metrics}
    columns["units"] = {f"val.{m.name}": [_value(m, sums) for sums in by_unit] for m in metrics}
    return columns


def _examined(
    reference: Reference,
    examinations: Sequence[Examination],
    loaders: Loaders,
    split: str,
    settings: Tree,
    accelerator: Accelerator,
    phase: Phase,
) -> Measured:
    """The columns of the examinations over all cases, which are of no unit."""
    columns: Measured = {}
    for each in examinations:
        run, sums = reference.examine.get(each.name), {}
        if run is not None:
            cases = range(each.cases)
            exam = exam_of({}, loaders, split, settings, accelerator, each.name, cases, phase)
            sums = share_of(each, run, exam)
        columns |= values_of(each, sums)
    return columns


def _batches(
    loaders: Loaders, split: str, size: int
) -> Iterator[tuple[dict[str, list[int]], Tensors]]:
    """Batches in the order of the samples, each with the rows of its units."""
    names = _units(loaders, split)
    for number, batch in enumerate(validation_loader(loaders, size, 1, 0, split)):
        rows: dict[str, list[int]] = {}
        for row, unit in enumerate(names[number * size : (number + 1) * size]):
            rows.setdefault(unit, []).append(row)
        yield rows, batch


def _sums(
    reference: Reference,
    metrics: Sequence[Metric],
    prediction: _Predicted,
    batch: Tensors,
    settings: Tree,
) -> dict[str, Tensor]:
    """Sums with their count by metric, without those that read what is not predicted."""
    measures = {
        name: joined(pair, f"the reference ({reference.about}), metric {name},").cpu()
        for name, pair in reference.measure(batch).items()
    }
    measured: dict[Any, Tensor | None] = {}  # columns may share one measure
    for metric in metrics:
        if metric.name in measures:
            continue
        if metric.measure not in measured:
            prediction.lacks = False
            try:
                measured[metric.measure] = sums_of(metric, prediction, batch, settings).cpu()
            except (KeyError, ValueError):
                if not prediction.lacks:
                    raise
                measured[metric.measure] = None
        vector = measured[metric.measure]
        if vector is not None:
            measures[metric.name] = vector
    return measures


def _added(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}


def _value(metric: Metric, sums: Mapping[str, Tensor]) -> float | None:
    vector = sums.get(metric.name)
    return None if vector is None else value_of(metric, vector)
