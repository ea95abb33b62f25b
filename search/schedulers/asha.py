"""Asynchronous successive halving in its stopping form (Li et al. 2020)."""

from __future__ import annotations

from search.log import SweepState, TrialRecord
from search.objectives import Values
from search.rankings import Recorded, ranking
from search.schedulers.base import Stopping, Verdict
from search.schedulers.waiting import recorded_before


class Asha(Stopping):
    """Lets a trial pass a rung if it is among the best floor(n / eta) of the n trials recorded
    there so far, itself included, and always where n < eta. Ties pass. A value that is not finite
    is the worst.
    """

    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        recorded = state.rungs.get(step, {})
        earlier = recorded_before(recorded, trial)
        count = len(earlier) + 1
        passing = count // self.plan.eta
        if passing == 0:
            return Verdict(judged=True, passed=True)
        if earlier is recorded and len(self.plan.goal.objectives) == 1:
            better = ranking(self.plan, state, Recorded, step).better_than(values)
        else:
            observed = state.observed_by(earlier, step)
            *others, key = self.plan.goal.badness([*observed, values])
            better = sum(other < key for other in others)
        if better < passing:
            return Verdict(judged=True, passed=True)
        stop = f"asha: place {better + 1} of {count} at step {step}, {passing} pass"
        return Verdict(judged=True, stop=stop)
