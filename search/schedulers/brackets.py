"""Brackets with a promotion quota: the default scheduler.

Plain asynchronous successive halving degrades under a good sampler: as new trials get better,
nearly each of them is in the top third of its rung, all are promoted, and every trial is trained
to the end. Here a rung promotes at most one in `eta` of the trials that it has judged. Brackets
(Hyperband, Li et al. 2018) differ in the first rung that judges, so that later brackets are immune
to low rungs that mislead.
"""

from __future__ import annotations

import itertools
import math

from search.log import SweepState, TrialRecord
from search.objectives import Values
from search.plan import Plan
from search.rankings import Judged, ranking
from search.rung_agreement import PAIRS, trusted_from
from search.schedulers.base import Continuation, Scheduler, Start, Verdict
from search.schedulers.waiting import last_promotion, recorded_before
from settings.schema import SettingsError

RECENT = 20
"""Trials that one is compared with where trials cannot pause, itself included: older ones were
drawn when the sampler knew less, and compared with them everyone would pass.
"""


class Brackets(Scheduler):
    """Bracket s judges at rungs s, s + 1, ...; the last bracket runs every trial to its end.

    A new trial goes to the highest bracket that has not used its share of the steps, or else to
    the lowest whose rungs are trusted. The first `PAIRS` trials of a sweep go to the highest
    bracket whose first rung all of them reach for the steps of one full training: so it shows
    early whether the rungs below predict anything (`search/rung_agreement.py`), for steps that
    this bracket would get later anyway.

    Where trials may pause (`Plan.pausing`), each stops at its next rung, and the best that waits
    there is promoted as soon as the quota has room, the highest rung first. Otherwise a running
    trial is stopped unless it is in the top 1 / eta of the last 20 of its bracket at the rung and
    the quota, rounded up, has room.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.shares = plan.shares or _default_shares(len(plan.levels))
        if len(self.shares) != len(plan.levels):
            raise SettingsError(
                f"shares names {len(self.shares)} brackets, and the rungs {plan.levels} make "
                f"{len(plan.levels)}: give one share each."
            )
        if not (abs(sum(self.shares) - 1.0) <= 1e-6 and min(self.shares) >= 0.0):  # nan is neither
            raise SettingsError(f"shares must be 0 or more and sum to 1, not {self.shares}.")
        cheap = (b for b, step in enumerate(plan.rungs) if PAIRS * step <= plan.steps)
        self.of_the_first = max((b for b in cheap if self.shares[b]), default=0)

    def start(self, state: SweepState) -> Start:
        spent = [state.steps.get(s, 0) for s in range(len(self.plan.levels))]
        trusted = trusted_from(self.plan, state)
        lowest = max(trusted, self.of_the_first) if len(state.trials) < PAIRS else trusted
        for bracket in range(len(spent) - 1, lowest, -1):
            steps = self.plan.levels[bracket]
            if spent[bracket] + steps <= self.shares[bracket] * (sum(spent) + steps):
                break
        else:
            bracket = lowest
        stop = self.plan.levels[bracket] if self.plan.pausing else self.plan.steps
        return Start(stop, bracket)

    def promotion(self, state: SweepState) -> Continuation | None:
        if not self.plan.pausing:
            return None
        for rung in range(len(self.plan.rungs) - 1, trusted_from(self.plan, state) - 1, -1):
            step = self.plan.rungs[rung]
            for bracket in range(rung + 1):
                if self._room(state, bracket, step) > 0:
                    waiting = ranking(self.plan, state, Judged, step, bracket)
                    for best in waiting.best(1):
                        return Continuation(best, self.plan.levels[rung + 1])
        return None

    def closing(self, state: SweepState) -> Continuation | None:
        return last_promotion(self.plan, state)

    def asked_level(self, state: SweepState, bracket: int) -> int:
        return max(bracket, trusted_from(self.plan, state))

    def _room(self, state: SweepState, bracket: int, step: int) -> int:
        key = (bracket, step)
        promoted = len(state.promoted.get(key, ()))
        return len(state.ladders.get(key, ())) // self.plan.eta - promoted

    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        if self.plan.rungs.index(step) < trial.bracket:
            return Verdict()
        if self.plan.pausing:
            return Verdict(judged=True)
        place = (trial.bracket, step)
        ladder = state.ladders.get(place, {})
        earlier = recorded_before(ladder, trial)
        recent = list(itertools.islice(reversed(earlier), RECENT - 1))[::-1]
        *other_keys, key = self.plan.goal.badness([*state.observed_by(recent, step), values])
        passing = math.ceil((len(recent) + 1) / self.plan.eta)
        better = sum(other < key for other in other_keys)
        promoted = state.promoted.get(place, set())
        passed = len(promoted if earlier is ladder else promoted & earlier.keys())
        quota = math.ceil((len(earlier) + 1) / self.plan.eta)
        if better < passing and passed < quota:
            return Verdict(judged=True, passed=True)
        stop = (
            f"brackets: place {better + 1} of the last {len(recent) + 1} at step {step}, "
            f"{passed} of {quota} have passed"
        )
        return Verdict(judged=True, stop=stop)


def _default_shares(levels: int) -> tuple[float, ...]:
    """A half for the first bracket, which judges earliest, and the rest evenly."""
    return (1.0,) if levels == 1 else (0.5, *[0.5 / (levels - 1)] * (levels - 1))
