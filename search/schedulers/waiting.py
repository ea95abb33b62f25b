"""Common parts of the schedulers that pause trials at rungs."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence

from search.log import PAUSED, SweepState, TrialRecord
from search.objectives import Values
from search.plan import Plan
from search.schedulers.base import Continuation, Scheduler, Start, Verdict
from settings.schema import SettingsError


class Promoting(Scheduler):
    """Pauses every trial at each rung until it is promoted."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        if not plan.pausing:
            raise SettingsError(
                f"scheduler {plan.scheduler} lets a trial wait at a rung and go on from its "
                "checkpoint, and the trials of this sweep may not wait. Use asha, which stops "
                "trials, or brackets, which then stops them too."
            )

    def start(self, state: SweepState) -> Start:
        return Start(self.plan.levels[0])

    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        return Verdict(judged=True)


def waiting_at(state: SweepState, step: int, numbers: Iterable[int]) -> list[int]:
    """The trials among `numbers` that are paused at a rung."""
    trials = state.trials
    return [n for n in numbers if (t := trials[n]).status == PAUSED and t.step == step]


def best_waiting(
    plan: Plan, state: SweepState, step: int, numbers: Sequence[int], places: int
) -> int | None:
    """The best trial among `numbers` that is paused at the rung `step`, if fewer than `places` of
    them are better; the lower number among equals. A trial without a finite value is never chosen
    and takes no place.

    Args:
        numbers: trials with a value at the rung.
    """
    waiting = set(waiting_at(state, step, numbers))
    if places < 1 or not waiting:
        return None
    observed = dict(zip(numbers, state.observed_by(numbers, step), strict=True))
    order = list(zip(plan.goal.badness(list(observed.values()), places), observed, strict=True))
    heap = [place for place in order if place[1] in waiting]
    heapq.heapify(heap)
    while heap:
        best = heapq.heappop(heap)
        if plan.goal.is_measured(observed[best[1]]):
            better = (place[1] for place in order if place < best)
            taken = sum(plan.goal.is_measured(observed[number]) for number in better)
            return best[1] if taken < places else None
    return None


def last_promotion(plan: Plan, state: SweepState) -> Continuation | None:
    """The promotion of the best trial that is paused at the highest rung to full length, where the
    sampler's trials have none there yet: a sweep ends with its answer trained to the end.

    Quotas alone do not ensure it: of 16 trials with eta 3 they promote 5, then 1, then none.
    """
    for number in state.rungs.get(plan.steps, ()):
        values = state.observed(number, plan.steps)
        if state.trials[number].point is None and plan.goal.is_measured(values):
            return None
    for step in reversed(plan.rungs):
        waiting = waiting_at(state, step, state.rungs.get(step, ()))
        best = best_waiting(plan, state, step, waiting, places=1)
        if best is not None:
            return Continuation(best, plan.steps)
    return None


def recorded_before(numbers: dict[int, None], trial: TrialRecord) -> dict[int, None]:
    """The trials that a rung recorded before this one, in their order. So a trial that reports a
    rung again after a crash gets the verdict that it had the first time.
    """
    if trial.number not in numbers:
        return numbers
    return dict.fromkeys(itertools.takewhile(lambda number: number != trial.number, numbers))
