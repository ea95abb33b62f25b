"""What does nothing, or next to nothing, measured as a trained network is: the references that
stand beside every trained network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from metrics.metric import Metric, Tensors
from settings.schema import SettingsError
from trainables.reference import Reference
from trainables.reporting.evaluate import sums_of, value_of
from trainables.stepping.batches import step_seed
from trainables.stepping.devices import make_accelerator, to_device
from trainables.stepping.train_settings import Tree
from trainables.system import Loaders, PreparedT, System

UNTRAINED = "untrained"
"""The platform's own reference: the network of the settings at step 0."""

Measured = dict[str, Any]
"""{"val.<metric>": value, ..., "units": {"val.<metric>": [value of each unit]}}; None where
nothing was counted, the value is not finite, or the metric reads what the reference does not
predict.
"""


def measure_references(
    system: System[Tree, PreparedT], settings: Tree, prepared: PreparedT, split: str = "validation"
) -> dict[str, Measured]:
    """Every reference of a system on a fixed split, by the system's own metrics: over all samples,
    and over those of each unit in the order of `unit_names`.

    Raises:
        SettingsError: the data has no such split, or the system has a reference `untrained`.
    """
    loaders = system.loaders(settings, prepared)
    if getattr(loaders, split) is None:
        raise SettingsError(f"the data of {system.name} has no {split} split.")
    references = dict(system.references(settings, prepared))
    if UNTRAINED in references:
        raise SettingsError(
            f"system {system.name} has a reference {UNTRAINED!r}, which is the platform's own: "
            "the network at step 0. Give it another name."
        )
    device = make_accelerator(settings.train).device
    references[UNTRAINED] = untrained(system, settings, prepared, device)
    metrics = system.metrics(settings, prepared)
    return {
        name: _measure(reference, metrics, loaders, split, settings, device)
        for name, reference in references.items()
    }


def untrained(
    system: System[Tree, PreparedT], settings: Tree, prepared: PreparedT, device: torch.device
) -> Reference:
    """The network of the settings before its first step, from the generator that a training with
    this seed starts from.
    """
    phase = system.phases(settings, prepared)[0]
    with torch.random.fork_rng():
        torch.manual_seed(step_seed(settings.train.seed, -1))
        modules = system.build(settings, prepared).modules
    modules = {name: module.to(device).eval() for name, module in modules.items()}
    averages = {f"ema.{name}": module for name, module in modules.items()}
    return Reference(
        lambda batch: phase.forward({**modules, **averages}, batch, settings),
        "the network before its first step",
    )


def unit_names(loaders: Loaders, split: str) -> list[str]:
    """The units of a split in the order of their first samples; one for all samples where the
    system declares none.
    """
    return list(dict.fromkeys(_units(loaders, split)))


def _units(loaders: Loaders, split: str) -> Sequence[str]:
    samples: Any = getattr(loaders, split)
    units = loaders.units.get(split, ("all",) * len(samples))
    if len(units) != len(samples):
        raise ValueError(
            f"Loaders.units names {len(units)} units for the {len(samples)} samples of {split}: "
            "it takes one for each sample, in their order."
        )
    return units


class _Predicted(dict[str, Tensor]):
    """A prediction that says which tensor a metric has asked for in vain."""

    def __missing__(self, key: str) -> Tensor:
        raise _NotPredictedError(key)


class _NotPredictedError(Exception):
    """A metric reads a tensor that the reference does not predict."""


@torch.no_grad()
def _measure(
    reference: Reference,
    metrics: Sequence[Metric],
    loaders: Loaders,
    split: str,
    settings: Tree,
    device: torch.device,
) -> Measured:
    """Batches hold samples of one unit; sums and counts are added over batches, and then over
    units.
    """
    totals: dict[str, list[dict[Any, Tensor]]] = {}
    for unit, batch in _batches(loaders, split, settings.train.validation_batch_size):
        moved = to_device(batch, device, settings.train.channels_last)
        prediction = _Predicted(reference.predict(moved))
        measured = {m.measure: _sums(m, prediction, moved, settings) for m in metrics}
        totals.setdefault(unit, []).append({k: v for k, v in measured.items() if v is not None})
    by_unit = [_added(parts) for parts in totals.values()]
    whole = _added(by_unit)
    columns: Measured = {f"val.{m.name}": _value(m, whole) for m in metrics}
    columns["units"] = {f"val.{m.name}": [_value(m, sums) for sums in by_unit] for m in metrics}
    return columns


def _batches(loaders: Loaders, split: str, size: int) -> Iterator[tuple[str, Tensors]]:
    places: dict[str, list[int]] = {}
    for index, unit in enumerate(_units(loaders, split)):
        places.setdefault(unit, []).append(index)
    cuts = [
        (unit, indices[begin : begin + size])
        for unit, indices in places.items()
        for begin in range(0, len(indices), size)
    ]
    loader: DataLoader[Any] = DataLoader(
        getattr(loaders, split),
        batch_sampler=[indices for _, indices in cuts],
        collate_fn=loaders.collate,
    )
    for (unit, _), batch in zip(cuts, loader, strict=True):
        yield unit, batch


def _sums(metric: Metric, prediction: Tensors, batch: Tensors, settings: Tree) -> Tensor | None:
    try:
        return sums_of(metric, prediction, batch, settings).cpu()
    except _NotPredictedError:
        return None


def _added(parts: Sequence[Mapping[Any, Tensor]]) -> dict[Any, Tensor]:
    return {
        measure: torch.stack([part[measure] for part in parts]).sum(dim=0) for measure in parts[0]
    }


def _value(metric: Metric, sums: Mapping[Any, Tensor]) -> float | None:
    vector = sums.get(metric.measure)
    return None if vector is None else value_of(metric, vector)
