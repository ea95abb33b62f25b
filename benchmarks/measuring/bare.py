"""A training step as a notebook would write it, of the same networks, terms and batches as a
system's: for each phase forward, weighted sum of means, backward, clip, update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.measuring.steps import Clock, batches_of, prepared_settings, timed_steps
from trainables.optimizing.optimizer import OptimizerSettings, make_optimizer, parameter_groups
from trainables.parts import Built, Phase
from trainables.system import System


def bare_steps(
    system: System, changes: Mapping[str, Any], steps: int, clock: Clock = time.perf_counter
) -> Callable[[], float]:
    """A function that takes `steps` steps and returns the seconds of one; warmed up."""
    settings, prepared = prepared_settings(system, changes)
    torch.manual_seed(0)
    built = system.build(settings, prepared)
    phases = [_BarePhase(phase, built, settings) for phase in system.phases(settings, prepared)]

    def step(batches: list[Any]) -> None:
        batch = batches[0]
        for phase in phases:
            batch = {**batch, **phase.update(batch)}

    return timed_steps(step, batches_of(system, settings, prepared), steps, clock)


class _BarePhase:
    def __init__(self, phase: Phase, built: Built, settings: Any) -> None:
        node: OptimizerSettings = getattr(settings, phase.optimizer)
        groups = parameter_groups(
            built.modules, phase.modules, node, built.no_decay, built.groups
        )
        self.phase, self.modules, self.settings = phase, built.modules, settings
        self.optimizer = make_optimizer(node, groups)
        self.parameters = [p for name in phase.modules for p in built.modules[name].parameters()]
        others = [m for name, m in built.modules.items() if name not in phase.modules]
        self.others = [p for module in others for p in module.parameters() if p.requires_grad]
        weights = phase.composite.weights(0, 1)
        self.weights = {name: weight for name, weight in weights.items() if weight}

    def update(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the phase hands on to the next one."""
        for parameter in self.others:
            parameter.requires_grad_(False)
        self.optimizer.zero_grad(set_to_none=True)
        prediction = self.phase.forward(self.modules, batch, self.settings)
        total = torch.zeros(())
        for name, weight in self.weights.items():
            value, count = self.phase.composite.terms[name](prediction, batch, self.settings)
            total = total + weight * value / count.clamp(min=1)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.train.clip_norm)
        self.optimizer.step()
        for parameter in self.others:
            parameter.requires_grad_(True)
        handed: dict[str, Any] = self.phase.shared_outputs(prediction)
        return handed
