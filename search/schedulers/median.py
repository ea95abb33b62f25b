"""The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2)."""

from __future__ import annotations

import math

from search.log import SweepState, TrialRecord
from search.objectives import Values
from search.plan import Plan
from search.rankings import View, observed, ranking
from search.schedulers.base import Stopping, Verdict
from search.schedulers.waiting import recorded_before

FEWEST = 3
"""Trials that a rung needs before it stops any: the median of fewer is one trial's luck."""


class Median(Stopping):
    """Stops a trial at a rung if its best value so far is worse than the median of the trials that
    were there before it, each of them averaged over its rungs up to this one.

    Worse than the median means that more than half of the averages are better, which needs an
    order only: it serves several objectives and constraints as well. The paper averages over every
    report; the log holds those at the rungs.
    """

    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        recorded = state.rungs.get(step, {})
        earlier = recorded_before(recorded, trial)
        if len(earlier) < FEWEST:
            return Verdict(judged=True, passed=True)
        reports = [*(there for rung, there in trial.rungs.items() if rung < step), values]
        keys = self.plan.goal.badness(reports)
        best = reports[keys.index(min(keys))]
        if earlier is recorded and len(self.plan.goal.objectives) == 1:
            better = ranking(self.plan, state, Averaged, step).better_than(best)
        else:
            averages = [average(self.plan, state.trials[number], step) for number in earlier]
            *others, place = self.plan.goal.badness([*averages, best])
            better = sum(other < place for other in others)
        if 2 * better <= len(earlier):
            return Verdict(judged=True, passed=True)
        stop = f"median: {better} of {len(earlier)} were better on average up to step {step}"
        return Verdict(judged=True, stop=stop)


class Averaged(View):
    """Trials with a value at a step, ranked by their average over the rungs up to it."""

    def values(self, state: SweepState, trial: TrialRecord) -> Values | None:
        (step,) = self.where
        return average(self.plan, trial, step) if step in trial.rungs else None


def average(plan: Plan, trial: TrialRecord, step: int) -> Values:
    """A trial's mean over its rungs up to `step`, by column, without columns that were not finite
    everywhere.
    """
    reports = [observed(trial, rung) or {} for rung in trial.rungs if rung <= step]
    sums = {
        column: sum(values.get(column, math.nan) for values in reports)
        for column in plan.goal.columns
    }
    return {column: total / len(reports) for column, total in sums.items() if math.isfinite(total)}
