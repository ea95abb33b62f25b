"""Forecast of what a plan costs (trials at each rung, and steps), by simulation with random
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from search.jobs import Job
from search.log import SweepState, TrialRecord
from search.objectives import Goal, Objective, Values
from search.plan import POPULATIONS, Plan
from search.seeds import derive
from search.simulator import simulate

LARGEST = 500
"""Trials that are simulated at most; larger plans are extrapolated in proportion."""

_COLUMN = "value"
_POINTS, _REPEATS = "documented points", "repeats"


@dataclass(frozen=True)
class Row:
    """The forecast for one bracket, for the documented points or for the repeats.

    Attributes:
        reached: the number of trials that reach each of the levels.
        steps: the training steps of all of them.
    """

    name: str
    reached: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Forecast:
    """The forecast for a sweep.

    Attributes:
        levels: the steps of the rungs, and the full length.
        rows: by bracket, then documented points, then repeats; those with a trial.
        elapsed_steps: the duration of the sweep, in steps of one trial.
    """

    levels: tuple[int, ...]
    rows: tuple[Row, ...]
    elapsed_steps: int

    @property
    def steps(self) -> int:
        """The training steps of the whole sweep."""
        return sum(row.steps for row in self.rows)

    @property
    def trainings(self) -> float:
        """The training steps of the whole sweep, in trainings of full length."""
        return self.steps / self.levels[-1]

    @property
    def complete(self) -> int:
        """The number of trials that reach full length."""
        return sum(row.reached[-1] for row in self.rows)

    def table(self) -> list[list[str]]:
        """Cells of a table: headers, the rows, and their sums where there are several."""
        head = ["", *(f"step {level}" for level in self.levels), "steps", "trainings"]
        rows = list(self.rows)
        if len(rows) > 1:
            sums = tuple(sum(column) for column in zip(*(r.reached for r in rows), strict=True))
            rows.append(Row("all", sums, self.steps))
        full = self.levels[-1]
        return [head] + [
            [row.name, *map(str, row.reached), str(row.steps), f"{row.steps / full:.1f}"]
            for row in rows
        ]


def forecast(plan: Plan, workers: int) -> Forecast:
    """Simulates a sweep of the plan in which nothing fails and no training ends by itself.

    A trial's value is its quality plus half as much noise at every rung, both uniform, so the
    correlation of two rungs is 0.8. The number of trials that pass a rung hardly depends on it,
    but how far `pasha` goes does. A sampler that learns makes later trials better than earlier
    ones, and `asha` lets more of them pass than forecast here.
    """
    plain = replace(
        plan,
        trials=min(plan.trials, max(LARGEST, 2 * len(plan.points))),
        goal=Goal((Objective(_COLUMN, "min"),)),
        sampler="random",
        # Every member of a population trains to its end, from whoever's checkpoint.
        scheduler="none" if plan.scheduler in POPULATIONS else plan.scheduler,
        warm=(),
    )
    seed = derive(plan.seed, "forecast", 0)

    def observe(job: Job, step: int) -> Values:
        quality = Random(f"{seed} {job.trial}").random()
        return {_COLUMN: quality + 0.5 * Random(f"{seed} {job.trial} {step}").random()}

    simulation = simulate(plain, observe, workers=workers, draw=_draw_nothing)
    state = simulation.state
    names = [_bracket_name(plan, bracket) for bracket in range(len(plan.levels))]
    kinds: dict[str, list[TrialRecord]] = {name: [] for name in (*names, _POINTS, _REPEATS)}
    for trial in state.trials.values():
        kinds[_kind(plan, trial)].append(trial)
    rows = [_row(plan, name, trials) for name, trials in kinds.items() if trials]
    simulated = Forecast(plan.levels, tuple(rows), round(simulation.seconds))
    return _scaled(simulated, plan, plain.trials)


def _scaled(simulated: Forecast, plan: Plan, trials: int) -> Forecast:
    """The forecast of `trials` trials scaled to all of the plan's, or to as many as its budget
    allows; points and repeats are not scaled.
    """
    steps = {row.name: row.steps for row in simulated.rows}
    of_points, of_repeats = steps.get(_POINTS, 0), steps.get(_REPEATS, 0)
    points = len(plan.points)
    factor = (plan.trials - points) / (trials - points) if plan.trials > trials else 1.0
    if plan.budget is not None:
        asked = simulated.steps - of_points - of_repeats
        left = plan.budget * plan.steps - of_points
        factor = min(factor, max(left / asked, 1.0) if asked else 1.0)
    if factor == 1.0:
        return simulated
    rows = [
        row
        if row.name in (_POINTS, _REPEATS)
        else Row(
            row.name, tuple(round(n * factor) for n in row.reached), round(row.steps * factor)
        )
        for row in simulated.rows
    ]
    return Forecast(simulated.levels, tuple(rows), round(simulated.elapsed_steps * factor))


def _draw_nothing(plan: Plan, state: SweepState, trial: int, bracket: int) -> Mapping[str, Any]:
    return {}


def _bracket_name(plan: Plan, bracket: int) -> str:
    if plan.scheduler != "brackets" or not plan.rungs:
        return "trials"
    if bracket == len(plan.rungs):
        return f"bracket {bracket}: to the end"
    return f"bracket {bracket}: from step {plan.levels[bracket]}"


def _kind(plan: Plan, trial: TrialRecord) -> str:
    if trial.repeat_of is not None:
        return _REPEATS
    return _POINTS if trial.point else _bracket_name(plan, trial.bracket)


def _row(plan: Plan, name: str, trials: list[TrialRecord]) -> Row:
    reached = [sum(trial.step >= level for trial in trials) for level in plan.levels]
    return Row(name, tuple(reached), sum(trial.step for trial in trials))
