"""Which checkpoints of its trials a sweep keeps: `--keep-checkpoints`, a function of the plan and
the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search import repeats
from search.log import COMPLETE, PAUSED, STOPPED, SweepState, TrialRecord
from search.objectives import Goal, Values
from search.options import ALL, RUNGS, Retention
from search.plan import POPULATIONS, Plan

Kept = tuple[int, ...] | None
"""Steps whose checkpoints a trial keeps beside its best and its newest one; None where it keeps
none at all.
"""


def kept_of(retention: Retention, plan: Plan, state: SweepState) -> Mapping[int, Kept]:
    """What each trial keeps that need not keep all; the others are left alone.

    A trial that waits at a rung keeps its newest checkpoint, from which it may go on, and its
    best. One that runs, was interrupted or may try again keeps all, and so does every member of a
    population until no member may copy another one.

    Of the trials that have ended, `rungs` keeps the checkpoints at rungs, the best and the newest.
    `best:N` keeps the best and the newest of the `spared`, and none of the others.
    """
    if retention.kind == ALL or _may_be_copied(plan, state):
        return {}
    over = [n for n, trial in state.trials.items() if trial.is_final(plan.max_failures)]
    if retention.kind == RUNGS:
        return dict.fromkeys([*state.with_status(PAUSED), *over], plan.rungs)
    best = spared(plan, state, retention.count)
    kept: dict[int, Kept] = {number: () if number in best else None for number in over}
    return {**dict.fromkeys(state.with_status(PAUSED), ()), **kept}


def _may_be_copied(plan: Plan, state: SweepState) -> bool:
    """Whether a member of a population may still go on from the checkpoint of another one."""
    if plan.scheduler not in POPULATIONS:
        return False
    ended = all(trial.is_final(plan.max_failures) for trial in state.trials.values())
    return state.own_trials < plan.trials or not ended


def spared(plan: Plan, state: SweepState, count: int) -> set[int]:
    """The trials that `best:N` spares: documented points, the `count` best, those that are or may
    be repeated, the one that `--trial best` names, and the repeats of all these, by which they are
    compared in the end.

    The order is that of the results: complete trials before those that were stopped, which come by
    the step that they have reached; never one that is ill.

    While the sweep runs, a trial is given up only when it is behind `count` others for good. With
    several objectives a place may change when a new front pushes others back, but whoever
    dominates a trial stays before it.
    """
    count = max(count, plan.repeat_top) if plan.repeats else count
    own = [trial for trial in state.trials.values() if trial.repeat_of is None]
    complete = [trial for trial in own if trial.status == COMPLETE]
    stopped = [trial for trial in own if trial.status == STOPPED and not trial.infeasible]
    best = {trial.number for trial in own if trial.point is not None}
    best |= _first(plan, complete, count, for_good=not state.finished)
    for step in sorted({trial.step for trial in stopped}, reverse=True):
        left = count - len(complete) - sum(trial.step > step for trial in stopped)
        if left <= 0:
            break
        group = [trial for trial in stopped if trial.step == step]
        best |= _first(plan, group, left, for_good=not state.finished)
    best |= _named(plan, state, complete)
    return best | {t.number for t in state.trials.values() if t.repeat_of in best}


def _first(
    plan: Plan, trials: Sequence[TrialRecord], count: int, *, for_good: bool
) -> set[int]:
    """The first `count` of trials that are compared with each other; with `for_good` all that may
    be among them at the end.
    """
    goal, values = plan.goal, [trial.values for trial in trials]
    if len(goal.objectives) == 1 or not for_good:
        return {trials[index].number for index in goal.best(values, count)}
    ahead = _ahead(goal, values)
    return {trial.number for trial, number in zip(trials, ahead, strict=True) if number < count}


def _ahead(goal: Goal, values: Sequence[Values]) -> list[int]:
    """[n] how many of the others are better than each, whatever comes: those that dominate it; for
    one that breaks a bound or has not been measured all that neither do, and those that break it
    less.
    """
    violation = np.array(goal.violations(values))
    costs = np.array([objective.costs(values) for objective in goal.objectives]).T
    sound = (violation == 0.0) & np.isfinite(costs).all(axis=1)
    places = np.arange(len(costs))
    numbers = []
    for place in range(len(costs)):
        if sound[place]:
            row = costs[place]
            ahead = sound & (costs <= row).all(axis=1) & (costs < row).any(axis=1)
        else:
            equal = (violation == violation[place]) & (places < place)
            ahead = sound | (violation < violation[place]) | equal
        numbers.append(int(ahead.sum()))
    return numbers


def _named(plan: Plan, state: SweepState, complete: Sequence[TrialRecord]) -> set[int]:
    """The trial of the lowest first cost that keeps all bounds, of the lower next costs among
    equals; where there are repeats, all from which their means choose it.
    """
    if plan.repeats:
        return set(repeats.chosen(plan, state))
    goal = plan.goal
    sound = [t for t in complete if goal.is_measured(t.values) and not goal.violation(t.values)]
    costs = [(*(o.cost(t.values) for o in goal.objectives), t.number) for t in sound]
    return {int(min(costs)[-1])} if costs else set()
