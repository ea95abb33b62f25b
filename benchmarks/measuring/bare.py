"""A training step as a notebook would write it, of the same networks, terms and batches as a
system's: for each phase forward, weighted sum of means, backward, clip, update.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.rows import Row
from benchmarks.measuring.steps import (
    Clock,
    batches_of,
    in_turn,
    loop_steps,
    prepared_settings,
    timed_steps,
    undisturbed_clock,
)
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


SIDES = ("ours", "bare")


def against_bare(name: str, system: System, steps: int, blocks: int) -> Row:
    """Milliseconds of a step of our loop beside the bare one's: medians over blocks of steps in
    turn; the ratio is the median over pairs of blocks.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sides = {side: steps_of(side, system, Path(folder), steps, {}) for side in SIDES}
        times = in_turn(sides, blocks)
    pairs = zip(times["bare"], times["ours"], strict=True)
    ratio = statistics.median(bare / ours for bare, ours in pairs)
    ours, bare = (1000 * statistics.median(times[side]) for side in SIDES)
    peer = "bare torch loop, same networks, terms and batches"
    return Row(name, ours, "ms", peer, bare, ratio)


def steps_of(
    side: str, system: System, folder: Path, steps: int, changes: Mapping[str, Any]
) -> Callable[[], float]:
    """A function that takes a block of steps and returns the seconds of one; warmed up."""
    clock = undisturbed_clock()
    if side == "bare":
        return bare_steps(system, changes, steps, clock)
    return loop_steps(system, changes, folder, steps, clock)


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
