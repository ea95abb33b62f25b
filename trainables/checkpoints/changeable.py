"""The settings that may change while a training goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from losses.balancers.base import FixedWeights
from settings.match import matches
from settings.schema import SettingsError
from trainables.configured import Configured
from trainables.parts import Phase

ON_RESUME = ("train.checkpoint_every", "train.finite_check_every", "train.external")
"""Settings that a resumed sweep may change for all its trials: no number depends on them."""


def check_changeable(keys: Iterable[str], configured: Configured, who: str) -> None:
    """Refuses keys that a checkpoint has been built on.

    What a step reads anew may change: the weights, schedules and parameters of the terms, the
    learning rate and the optimizer's other numbers, how often the gradient is looked at, and what
    the system names in `changeable`.
    Not what shapes the modules or the data, and not what the state of an optimizer or balancer
    depends on: its kind, and under a balancer which terms there are.

    Args:
        configured: the system, whose phases are asked.
        who: wants the change, as the error names it.

    Raises:
        SettingsError: names the keys, and those that may change.
    """
    phases = configured.phases
    allowed = [pattern for phase in phases for pattern in _read_anew(phase)]
    allowed += ["train.finite_check_every", *configured.system.changeable]
    fixed = [pattern for phase in phases for pattern in _state_depends_on(phase)]
    wrong = [key for key in keys if not matches(key, allowed) or matches(key, fixed)]
    if wrong:
        raise SettingsError(
            f"{who} changes settings while a training goes on, and {', '.join(wrong)} cannot "
            f"change then. What may: {', '.join(dict.fromkeys(allowed))}, but for "
            f"{', '.join(dict.fromkeys(fixed))}. Take the others out, and fix them for the whole "
            "training."
        )


def _read_anew(phase: Phase) -> tuple[str, ...]:
    return f"{phase.composite.prefix}.*", f"{phase.optimizer}.*"


def _state_depends_on(phase: Phase) -> tuple[str, ...]:
    prefix = phase.composite.prefix
    kinds = (f"{phase.optimizer}.kind", f"{prefix}.balancer.kind")
    if isinstance(phase.composite.balancer, FixedWeights):
        return kinds
    return (*kinds, f"{prefix}.*.enabled")
