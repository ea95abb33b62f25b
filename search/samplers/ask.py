"""Asking a sampler for a new trial's settings: a function of the plan, the log and the seed."""

from __future__ import annotations

import importlib
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from operator import attrgetter
from random import Random
from typing import Any, NamedTuple

from search.log import FAILED, INTERRUPTED, SweepState, TrialRecord
from search.objectives import Values
from search.options import SAMPLERS
from search.plan import Plan
from search.rankings import Ranking, View, ranking
from search.rule import rule
from search.samplers.no_repeats import without_repeat
from settings.schema import Value

_LEARN = ("tpe", "cmaes", "gp", "nsga2")

FEWEST = 10
"""Trials that a level needs before the sampler learns from it; with more than eight keys, two more
than there are keys.
"""

BEST, OTHERS = 25, 300
"""Trials that the sampler is told of a level that has more: the best ones, and a sample of the
others. TPE's good quarter never needs more of the best, and its density of the rest no more than a
sample (`python -m benchmarks.multi_fidelity`).
"""

MOST_ILL = 9
"""Ill trials that a sampler is told of for each one with a value at the level, the newest ones:
TPE takes the best tenth for good, and it must not be made of ill ones.
"""

_ILL: Values = {}

_WARM_NUMBERS = -1_000_000_000
"""The number of the first row of earlier sweeps, which come before the sweep's own."""


class Row(NamedTuple):
    """A trial as a sampler is told of it.

    Attributes:
        values: at one level; {} for an ill trial (`Told`); None where they are unknown.
    """

    number: int
    sampled: Mapping[str, Any]
    values: Values | None = None


def ask(plan: Plan, state: SweepState, trial: int, bracket: int = 0) -> dict[str, Any]:
    """The values of every active key for trial number `trial`, which rung number `bracket` is the
    first to judge.

    The sampler is seeded by the master seed and the trial's number, and its history is the log:
    the answer depends on nothing else. `random` and `qmc` need no history, so their answers do
    not even depend on the order of events; the others never suggest a configuration twice, as
    long as the space has another.
    """
    module, attribute = SAMPLERS[plan.sampler].split(":")
    asked: dict[str, Any] = getattr(importlib.import_module(module), attribute)(
        plan, state, trial, bracket
    )
    return without_repeat(plan, state, trial, asked) if plan.sampler in _LEARN else asked


def level_of(plan: Plan, state: SweepState, bracket: int, draw: Random) -> int:
    """The level (a step) whose values an ask learns from: values at different steps do not
    compare.

    Half of the asks take the highest level that has enough trials, which is the most faithful; the
    others any level that has enough, since on the few trials of the highest alone a model would
    overfit.
    """
    needed = fewest(plan)
    enough = [
        index for index, step in enumerate(plan.levels) if _with_value(plan, state, step) >= needed
    ]
    if not enough:
        return plan.steps
    highest = max(enough)
    lowest = min(rule(plan, state).asked_level(state, bracket), highest)
    allowed = [index for index in enough if index >= lowest]
    index = highest if draw.random() < 0.5 else draw.choice(allowed)
    return plan.levels[index]


def _with_value(plan: Plan, state: SweepState, step: int) -> int:
    """The number of trials with a value at a step, ill ones not counted."""
    there: Collection[int] = state.rungs.get(step, {})
    ill = sum(number in there for number in ranking(plan, state, Told, step).ill)
    return len(there) - ill + sum(bool(w.values.get(step)) for w in plan.warm)


def fewest(plan: Plan) -> int:
    """The number of trials with a value that a model needs to be better than chance."""
    return max(FEWEST, len(plan.space.domains) + 2)


def rows_at(
    plan: Plan, state: SweepState, step: int, draw: Random, best: int = BEST, others: int = OTHERS
) -> list[Row]:
    """The rows that a sampler is told, by number: trials with a value at `step` (where there are
    many, the best and a sample of the others), ill ones, and those that have no value yet.
    """
    told = ranking(plan, state, Told, step)
    chosen = _numbers(told)
    if len(chosen) > best + others:
        first = told.best(best)  # of those chosen, for there is a tenth with a value
        taken = sorted(bisect_left(chosen, number) for number in first)
        before = [index - earlier for earlier, index in enumerate(taken)]  # others before each
        picked = draw.sample(range(len(chosen) - best), others)
        chosen = first + [chosen[place + bisect_right(before, place)] for place in picked]
    measured = [_row(plan, state, told, number) for number in chosen]
    numbers = set(chosen)
    unknown = [row for row in unknown_at(plan, state) if row.number not in numbers]
    return sorted([*measured, *unknown], key=_number)


def known_at(plan: Plan, state: SweepState, step: int) -> list[Row]:
    """The rows with a value at a level, by number; an ill trial has the value {} at every level.
    Earlier sweeps' trials come first; repeats and trials outside the space are left out.
    """
    told = ranking(plan, state, Told, step)
    return [_row(plan, state, told, number) for number in _numbers(told)]


class Told(View):
    """Trials from which a sampler learns: those with a value at a step, also of earlier sweeps,
    and ill ones. A trial is ill if a health check has stopped it, or if it has failed for good: a
    sampler that forgets failures goes back to where they are.
    """

    def __init__(self, plan: Plan, step: int) -> None:
        super().__init__(plan, step)
        for index, warm in enumerate(plan.warm):
            if step in warm.values:
                self.ranking.put(_WARM_NUMBERS + index, warm.values[step])

    def values(self, state: SweepState, trial: TrialRecord) -> Values | None:
        if trial.outside or trial.repeat_of is not None:
            return None
        is_ill = trial.infeasible or trial.has_failed(self.plan.max_failures)
        return _ILL if is_ill else trial.rungs.get(self.where[0])


def _numbers(told: Ranking) -> list[int]:
    """The trials of a ranking of `Told` that a sampler hears of: of the ill ones `MOST_ILL` for
    each that has a value. As long as none has, there is nothing that they are worse than.
    """
    most = MOST_ILL * (len(told.numbers) - len(told.ill))
    if len(told.ill) <= most:
        return told.numbers
    unheard = set(told.ill[: len(told.ill) - most])
    return [number for number in told.numbers if number not in unheard]


def _row(plan: Plan, state: SweepState, told: Ranking, number: int) -> Row:
    is_own = number >= 0
    source = state.trials[number] if is_own else plan.warm[number - _WARM_NUMBERS]
    return Row(number, source.sampled, told.values(number))


def unknown_at(plan: Plan, state: SweepState) -> list[Row]:
    """The rows of trials without any value yet: running, or to be run again."""
    rows = []
    for number in sorted([*state.live, *state.with_status(INTERRUPTED, FAILED)]):
        trial = state.trials[number]
        if trial.rungs or trial.outside or trial.repeat_of is not None:
            continue
        if not trial.has_failed(plan.max_failures):
            rows.append(Row(number, trial.sampled))
    return rows


_number = attrgetter("number")


def active_of(plan: Plan, drawn: Mapping[str, Value]) -> dict[str, Value]:
    """The values of the active keys among those drawn for every key, in the space's order."""
    values: dict[str, Value] = {}
    for key in plan.space.order():
        if plan.space.is_active(key, values, values):
            values[key] = drawn[key]
    return values
