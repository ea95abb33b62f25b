"""A training whose settings change at given steps: the stretches of its timeline, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings.paths import TrainingPaths
from settings.timeline import SEED

if TYPE_CHECKING:
    from trainables.run import Budget
    from trainables.stepping.train_settings import SystemSettings


@dataclass(frozen=True)
class Part:
    """A stretch of a timeline with all its settings.

    Attributes:
        stop_step: the step at which it ends; None for the end of the training.
    """

    settings: SystemSettings
    stop_step: int | None = None


def parts_of(system: Any, resolved: Any) -> list[Part]:
    """The stretches with all their settings; without a timeline the training is one part.

    Raises:
        SettingsError: a timeline that does not end with the training, or that changes a setting
            that cannot change during a training.
    """
    from settings.flat import replace
    from settings.schema import SettingsError
    from trainables.checkpoints.changeable import check_changeable
    from trainables.configured import Configured

    if not resolved.timeline:
        return [Part(resolved.settings)]
    steps, end = resolved.settings.train.steps, resolved.timeline[-1].until
    if end != steps:
        raise SettingsError(
            f"the timeline ends at step {end}, and train.steps is {steps}: make the last `until` "
            "the length of the training."
        )
    keys = dict.fromkeys(key for stretch in resolved.timeline for key in stretch.values)
    keys.pop(SEED, None)
    check_changeable(keys, Configured(system, resolved.settings), "the timeline")
    return [Part(replace(resolved.settings, s.values), s.until) for s in resolved.timeline]


def train_parts(
    parts: Sequence[Part],
    train_part: Callable[[Part, bool], Any],
    *,
    resume: bool,
    trained: int = 0,
    budget: Budget,
) -> Any:
    """Trains one part after another, as far as the budget goes, and returns the last report.

    Args:
        train_part: `train_part(part, resume)` trains a part, from the newest checkpoint with
            `resume`, and returns its last report.
        trained: the step from which a resumed training continues; parts that end before are done.
    """
    from settings.stop_reasons import STOP_REASON

    done = sum(part.stop_step is not None and part.stop_step <= trained for part in parts)
    report: Any = {}
    for part in parts[min(done, len(parts) - 1) :]:
        report = train_part(part, resume)
        # A worker group may have found its time used up where this process does not.
        is_cut = part.stop_step is not None and report["step"] < part.stop_step
        if report.get(STOP_REASON) or budget.is_over or is_cut:
            break
        resume = True
    return report


def trained_step(directory: Path, system: str, moved: str = "") -> int:
    """The step of the newest readable checkpoint of a training; 0 where there is none."""
    from trainables.checkpoints import checkpoint

    folder = TrainingPaths(directory).checkpoints
    newest = checkpoint.newest_good(folder, system, lambda message: None, moved)
    return newest.step if newest else 0


def print_timeline(timeline: Sequence[Any]) -> None:
    """Prints one line a stretch."""
    for stretch in timeline:
        values = "  ".join(f"{key}={value}" for key, value in stretch.values.items())
        print(f"until step {stretch.until:>7}  {values}")
