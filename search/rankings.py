"""Rankings of trials by the goal, updated as the log grows, so that a decision need not look at
every trial again. They save time and change no answer: a view ranks the trials exactly as if its
`values` were asked of all of them anew.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from typing import TypeVar

from search.log import PAUSED, SweepState, TrialRecord
from search.objectives import Goal, Values
from search.pareto import crowded_ranks
from search.plan import Plan
from search.state_cache import cached_for

Key = tuple[float, float]
"""Of `Goal.badness` for one objective: violation and cost."""


class Ranking:
    """Observations by number in the order of `Goal.badness`, the lower number among equals.

    Attributes:
        numbers: ascending.
        ill: those of them without a finite value in every column, ascending.
        position: with several objectives, the order among equals of a front, by number; empty for
            the lower number first.
    """

    def __init__(self, goal: Goal) -> None:
        self.numbers: list[int] = []
        self.ill: list[int] = []
        self.position: dict[int, int] = {}
        self._goal, self._has_one = goal, len(goal.objectives) == 1
        self._seen: dict[int, Values] = {}
        self._sorted: list[tuple[Key, int]] = []  # of several objectives those without a rank
        self._costs: dict[int, tuple[float, ...]] = {}  # of several objectives, where finite
        self._best: dict[int, list[int]] = {}  # by count, until the costs change

    def put(self, number: int, values: Values | None) -> None:
        """Sets the values of a trial, in place of its former ones; None removes it."""
        before = self._seen.get(number)
        if before is values:
            return
        if before is not None:
            self._take_out(number, before)
        elif values is not None:
            insort(self.numbers, number)
        if values is None:
            del self._seen[number], self.numbers[bisect_left(self.numbers, number)]
            return
        self._seen[number] = values
        if not self._goal.is_measured(values):
            insort(self.ill, number)
        key, costs = self._place(values)
        if key is not None:
            insort(self._sorted, (key, number))
        else:
            self._costs[number], self._best = costs, {}

    def _take_out(self, number: int, values: Values) -> None:
        if not self._goal.is_measured(values):
            del self.ill[bisect_left(self.ill, number)]
        key, _ = self._place(values)
        if key is not None:
            del self._sorted[bisect_left(self._sorted, (key, number))]
        else:
            self._best = {}
            del self._costs[number]

    def _place(self, values: Values) -> tuple[Key | None, tuple[float, ...]]:
        """The sort key, and the costs [objectives]; no key where a trial is ranked by its costs
        among the others.
        """
        violation = self._goal.violation(values) if self._goal.constraints else 0.0
        costs = tuple(objective.cost(values) for objective in self._goal.objectives)
        if self._has_one:
            return (violation, costs[0]), costs
        is_ranked = violation == 0.0 and math.inf not in costs
        return None if is_ranked else (violation, math.inf), costs

    def values(self, number: int) -> Values:
        """The values of a trial in the ranking."""
        return self._seen[number]

    def best(self, count: int) -> list[int]:
        """The numbers of the best `count`, best first."""
        if self._has_one:
            return [number for _, number in self._sorted[:count]]
        if count not in self._best:
            numbers = sorted(self._costs, key=self.position.__getitem__ if self.position else None)
            places = crowded_ranks([self._costs[number] for number in numbers], count)
            order = sorted(range(len(numbers)), key=places.__getitem__)
            self._best[count] = [numbers[index] for index in order[:count]]
        ranked = self._best[count]
        return ranked + [number for _, number in self._sorted[: count - len(ranked)]]

    def better_than(self, values: Values, number: int | None = None) -> int:
        """The number of trials that are better than the given values, by the one objective. With a
        `number`, equally good trials of a lower number count as better.
        """
        key, _ = self._place(values)
        if key is None or not self._has_one:
            raise ValueError("among several objectives there is no place without the others.")
        return bisect_left(self._sorted, (key, -math.inf if number is None else number))


class View(ABC):
    """A ranking of the trials of a state, by the values that the subclass takes of each."""

    def __init__(self, plan: Plan, *where: int) -> None:
        self.plan, self.where, self._read = plan, where, 0
        self.ranking = Ranking(plan.goal)

    @abstractmethod
    def values(self, state: SweepState, trial: TrialRecord) -> Values | None:
        """The values by which a trial is ranked, None to leave it out; a function of this trial's
        own lines in the log.
        """

    def follow(self, state: SweepState) -> Ranking:
        """Brings the ranking up to date with the log, and returns it."""
        if self._read < len(state.changes):
            for number in dict.fromkeys(state.changes[self._read :]):
                self.ranking.put(number, self.values(state, state.trials[number]))
            self._read = len(state.changes)
        return self.ranking


class Recorded(View):
    """Trials with a value at a step; infeasible ones rank last."""

    def values(self, state: SweepState, trial: TrialRecord) -> Values | None:
        return observed(trial, self.where[0])


class Measured(Recorded):
    """Trials with a finite value in every column at a step."""

    def values(self, state: SweepState, trial: TrialRecord) -> Values | None:
        values = super().values(state, trial)
        return values if values is not None and self.plan.goal.is_measured(values) else None


class Waiting(Measured):
    """Trials that are paused at a step, with a finite value in every column there."""

    def values(self, state: SweepState, trial: TrialRecord) -> Values | None:
        waits = trial.status == PAUSED and trial.step == self.where[0]
        return super().values(state, trial) if waits else None


class Judged(Waiting):
    """Paused trials that a bracket has judged at the step; among equals the first judged leads."""

    def follow(self, state: SweepState) -> Ranking:
        judged, position = self._judged(state), self.ranking.position
        fresh = itertools.islice(reversed(judged), len(judged) - len(position))
        for number in reversed(list(fresh)):
            position[number] = len(position)
        return super().follow(state)

    def values(self, state: SweepState, trial: TrialRecord) -> Values | None:
        return super().values(state, trial) if trial.number in self._judged(state) else None

    def _judged(self, state: SweepState) -> dict[int, None]:
        step, bracket = self.where
        return state.ladders.get((bracket, step), {})


_NOTHING: Values = {}


def observed(trial: TrialRecord, step: int) -> Values | None:
    """The values of a trial at a step, {} for an infeasible one; None where it has none there."""
    values = trial.rungs.get(step)
    return _NOTHING if values is not None and trial.infeasible else values


AnyView = TypeVar("AnyView", bound=View)


class _Views(dict[tuple[type[View], tuple[int, ...]], View]):
    def __init__(self, plan: Plan) -> None:
        super().__init__()


def ranking(plan: Plan, state: SweepState, kind: type[AnyView], *where: int) -> Ranking:
    """The ranking of a kind of view at a place, up to date with the log."""
    views = cached_for(plan, state, _Views)
    if (kind, where) not in views:
        views[kind, where] = kind(plan, *where)
    return views[kind, where].follow(state)
