"""The rule of what a forward draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from losses.terms import Tensors
from trainables.contract.examined import Examined, forward
from trainables.contract.fault import Fault
from trainables.parts import Phase
from trainables.stepping.inputs import in_validation


def draws_by_sample(examined: Examined) -> Iterator[Fault]:
    """A forward draws from the seeds of its samples, and from no generator: those of two workers
    differ, and a validation finds them wherever the training left them. Only the dropout of
    `torch.nn` does as it likes.
    """
    settings = examined.settings
    modules = examined.with_averages(settings, examined.modules(settings))
    _without_dropout(modules)
    for phase, _, batch in examined.predictions(settings, modules):
        if phase.name not in examined.system.audit_tensors(settings, examined.prepared):
            yield from _faults(phase, modules, batch, examined, "training")
    for module in modules.values():
        module.eval()
    batch = examined.batch(settings, validation=True)
    with torch.no_grad():
        for phase in examined.system.phases(settings, examined.prepared):
            told = in_validation(phase)(batch)
            yield from _faults(phase, modules, told, examined, "validation")
            batch |= phase.shared_outputs(forward(phase, modules, told, settings))


def _without_dropout(modules: Mapping[str, nn.Module]) -> None:
    for part in (part for module in modules.values() for part in module.modules()):
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        elif isinstance(part, (nn.MultiheadAttention, nn.RNNBase)):
            part.dropout = 0.0


def _faults(
    phase: Phase,
    modules: Mapping[str, nn.Module],
    batch: Tensors,
    examined: Examined,
    when: str,
) -> Iterator[Fault]:
    before = _generators()
    phase.forward(modules, batch, examined.settings)
    after = _generators()
    moved = [name for name, state in before.items() if after[name] != state]
    if moved:
        yield Fault(
            f"forward of phase {phase.name}",
            "it draws from the seeds of its samples, so that workers and micro-batches share one "
            "law and one sequence",
            f"in {when} it draws from the generator of {', '.join(moved)}",
            'Use draw_normal(batch["seed"], "name", shape) or its kin of `trainables.api`; only '
            "torch.nn's own dropout may use torch's generator",
        )


def _generators() -> dict[str, object]:
    """Where the generators of the process stand."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["pos"],
    }


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (draws_by_sample,)
