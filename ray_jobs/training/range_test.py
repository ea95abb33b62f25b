"""A learning-rate range test (Smith, WACV 2017, section 3.3) on the training loop itself: the rate
grows from step to step until the loss diverges.

The loss is the weighted training loss. It says how large a step the optimizer bears, not which
settings are good: trials are judged by measures that do not depend on weights.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from settings.command import command
from settings.schema import SettingsError

if TYPE_CHECKING:
    from trainables.loop import Training
    from trainables.stepping.train_settings import Tree
    from trainables.stepping.update import PhaseUpdate
    from trainables.system import PreparedT, System

SMOOTHING = 0.9
"""Of the moving average of the loss; it remembers ten steps, in which the rate of 200 steps over
six decades doubles.
"""

DIVERGED = 4.0
"""A smoothed loss above so many times its best one has diverged."""

MARGIN = 10.0
"""What is suggested is the rate of the divergence, or of the lowest loss where that is smaller,
divided by this: a loss that falls little may pass its minimum long before it is 4 times that.
"""

TURNED = 0.1
"""Of its fall that a smoothed loss has risen again by its end, where it has turned."""


@dataclass(frozen=True)
class Range:
    """Rates from `low` to `high`, exponentially over `steps` updates.

    Attributes:
        phase: whose rate it is; "" for that of every phase.
    """

    low: float = 1e-7
    high: float = 0.1
    steps: int = 200
    phase: str = ""

    def rate(self, step: int) -> float:
        """Of the update that leads from `step` to `step + 1`."""
        share = min(step / (self.steps - 1), 1.0)
        return self.low * (self.high / self.low) ** share


@dataclass(frozen=True)
class Row:
    """An update: its rate, the loss of its batch before it is applied, and the moving average of
    the losses up to it, without the bias of its start. A loss may be not finite.
    """

    step: int
    rate: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class Found:
    """The outcome of a range test.

    Attributes:
        phase: whose loss it is.
        diverged_at: the rate of the divergence; None where there was none.
        lowest: the rate at which the smoothed loss is lowest.
        suggestion: a tenth of the smaller of both; None where the loss has not turned.
        steepest: the rate at which the smoothed loss falls most over the logarithm of the rate,
            before it is lowest; None where it never falls.
    """

    phase: str
    rows: Sequence[Row]
    diverged_at: float | None
    lowest: float
    suggestion: float | None
    steepest: float | None


def range_test(
    system: System[Tree, PreparedT], settings: Tree, prepared: PreparedT, asked: Range
) -> Found:
    """Runs the test on the first updates of a training with these settings, in this process and a
    temporary folder. Other schedules are those of the training, of `asked.steps` at least.

    Raises:
        SettingsError: there is no such phase, or the rates do not grow.
        ValueError: fewer than two updates with a finite loss.
    """
    from settings.flat import replace
    from trainables.loop import Training
    from trainables.run import LocalRun

    _check(asked)
    changes = {
        "train.steps": max(settings.train.steps, asked.steps),
        "train.finite_check_every": 1,
        "train.tensorboard": False,
        "train.figures": False,
        "train.test": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        run = LocalRun(Path(folder))
        training = Training(system, replace(settings, changes), run, prepared)
        try:
            updates = _named(training, asked.phase)
            for update in updates:
                update.rate.by_step = asked.rate
            rows = until_diverged(_losses(training, updates[0], asked.steps), asked.rate)
        finally:
            training.close()
    return found_of(updates[0].phase.name, rows)


def _check(asked: Range) -> None:
    if asked.low >= asked.high:
        raise SettingsError(
            f"the rates grow from --low to --high, and {asked.low:g} is not below "
            f"{asked.high:g}. Make --low smaller, or --high larger."
        )
    if asked.steps < 2:
        raise SettingsError(f"--steps {asked.steps}: a range has two ends. Give 2 or more.")


def _named(training: Training, phase: str) -> list[PhaseUpdate]:
    """The updates of that phase, or of all."""
    chosen = [update for update in training.updates if phase in ("", update.phase.name)]
    if not chosen:
        names = ", ".join(each.name for each in training.phases)
        raise SettingsError(f"--phase {phase}: the phases of this system are {names}.")
    return chosen


def _losses(training: Training, update: PhaseUpdate, steps: int) -> Iterator[tuple[int, float]]:
    """The total of the phase's terms in each update that there was, by step; nan where one was not
    finite. A gradient scaler skips some, and a phase that is not heard yet has none.
    """
    from trainables.stepping.batches import Share, train_loader
    from trainables.stepping.not_finite import NonFiniteError

    train, composite = training.train, update.phase.composite
    share = Share(train.batch_size, train.accumulate)
    loading = train.loading(gpu=training.accelerator.device.type == "cuda")
    batches = iter(train_loader(training.loaders, share, train.seed, 0, steps, loading))
    for step in range(steps):
        try:
            training.one_step([next(batches) for _ in range(train.accumulate)])
        except NonFiniteError:
            yield step, math.nan
            return
        report, prefix = update.interval.report(training.step), f"train.{composite.prefix}"
        total = report[f"{prefix}.total"]
        if total is not None and any(report[f"{prefix}.{n}"] is not None for n in composite.terms):
            yield step, total


def until_diverged(
    losses: Iterable[tuple[int, float]], rate: Callable[[int], float]
) -> list[Row]:
    """The losses by step with their rates and moving average, up to the one that diverges."""
    rows: list[Row] = []
    total = 0.0
    for step, loss in losses:
        total = SMOOTHING * total + (1.0 - SMOOTHING) * loss
        smoothed = total / (1.0 - SMOOTHING ** (len(rows) + 1))
        rows.append(Row(step, rate(step), loss, smoothed))
        if has_diverged(rows):
            break
    return rows


def has_diverged(rows: Sequence[Row]) -> bool:
    """Whether the last loss is not finite, or the smoothed one is 4 times its best. A loss that is
    negative, of terms that may be, has diverged as far above its best.
    """
    last = rows[-1].smoothed
    if not math.isfinite(last):
        return True
    best = min(row.smoothed for row in rows)
    return last - best > (DIVERGED - 1.0) * abs(best)


def found_of(phase: str, rows: Sequence[Row]) -> Found:
    """What is read off the rows."""
    finite = [row for row in rows if math.isfinite(row.smoothed)]
    if len(finite) < 2:
        raise ValueError(
            f"phase {phase} has {len(finite)} updates with a finite loss, and a range takes two. "
            "If its terms are not heard from the start, switch their schedules off; otherwise "
            f"look at the data and the terms: `{command('train')}` names the one at fault."
        )
    diverged_at = rows[-1].rate if has_diverged(rows) else None
    at = min(range(len(finite)), key=lambda index: finite[index].smoothed)
    lowest = finite[at].rate
    fall, rise = (finite[end].smoothed - finite[at].smoothed for end in (0, -1))
    has_turned = diverged_at is not None or rise > TURNED * fall
    suggestion = min(lowest, diverged_at or math.inf) / MARGIN if has_turned else None
    return Found(phase, rows, diverged_at, lowest, suggestion, _steepest(finite, at))


def _steepest(rows: Sequence[Row], lowest: int) -> float | None:
    import numpy as np

    slopes = np.gradient([row.smoothed for row in rows], [math.log(row.rate) for row in rows])
    at = int(np.argmin(slopes[: lowest + 1]))
    return rows[at].rate if slopes[at] < 0.0 else None
