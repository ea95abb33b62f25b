"""The learning rate of a phase: a function of the step, and the one schedule that remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from losses.schedules import piecewise
from trainables.optimizing.optimizer import OptimizerSettings


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The learning rate of the update that leads from `step` to `step + 1` of `steps`, but for
    what a plateau has made of it.

    The cosine ends at the last step of the training and never climbs again (004-M21: a period
    shorter than the training makes it cyclic).
    """
    warmup_steps = settings.warmup * steps
    rate = settings.lr
    if step < warmup_steps:
        share = step / warmup_steps
        rate *= settings.warmup_first + (1.0 - settings.warmup_first) * share
    if settings.schedule == "stages":
        position = min(step / max(steps, 1), 1.0)
        return rate * piecewise(settings.positions, settings.factors, position)
    if settings.schedule != "cosine" or step < warmup_steps:
        return rate
    progress = min((step - warmup_steps) / max(steps - warmup_steps, 1.0), 1.0)
    cosine = (1.0 + math.cos(math.pi * progress)) / 2.0
    return rate * (settings.final + (1.0 - settings.final) * cosine)


@dataclass
class Plateau:
    """What `schedule=plateau` remembers of the reports.

    Attributes:
        factor: on the rate.
        best: value of the objective, None before the first.
        waited: reports since then.
    """

    factor: float = 1.0
    best: float | None = None
    waited: int = 0

    def look(self, settings: OptimizerSettings, value: float | None, mode: str) -> None:
        """Takes in the objective of a report, None where it has no finite value: that is none
        that is better.
        """
        sign = 1.0 if mode == "min" else -1.0
        if value is not None and (self.best is None or sign * value < sign * self.best):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= settings.plateau.patience:
            self.factor = max(self.factor * settings.plateau.factor, settings.final)
            self.waited = 0


class Rate:
    """The learning rate of a phase by step.

    Args:
        steps: of the whole training, which size the schedule.

    Attributes:
        by_step: without what a plateau has made of it; a range test puts another in its place.
    """

    def __init__(self, settings: OptimizerSettings, steps: int) -> None:
        self.settings = settings
        self.by_step: Callable[[int], float] = partial(learning_rate, settings, steps=steps)
        self.plateau = Plateau() if settings.schedule == "plateau" else None

    def __call__(self, step: int) -> float:
        """Of the update that leads from `step` to `step + 1`."""
        rate = self.by_step(step)
        return rate if self.plateau is None else rate * self.plateau.factor

    def look(self, value: float | None, mode: str) -> None:
        """Takes in the objective of a report; `mode` is the better direction, `min` or `max`."""
        if self.plateau is not None:
            self.plateau.look(self.settings, value, mode)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint holds of it; None where it is a function of the step alone."""
        return None if self.plateau is None else asdict(self.plateau)

    def load(self, state: dict[str, Any] | None) -> None:
        """Goes on from the state of another; a plateau that follows on another schedule begins."""
        if self.plateau is not None and state is not None:
            self.plateau = Plateau(**state)
