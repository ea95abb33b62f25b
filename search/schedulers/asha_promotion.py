"""Asynchronous successive halving in its promoting form (Li et al. 2020, algorithm 2)."""

from __future__ import annotations

from search.log import SweepState
from search.rankings import Measured, Waiting, ranking
from search.schedulers.base import Continuation
from search.schedulers.waiting import Promoting, best_waiting, last_promotion


class AshaPromotion(Promoting):
    """Every trial waits at each rung. It goes on while it is among the best floor(n / eta) of the
    n trials with a value there; highest rung first, the best first, the lower number among equals.

    Promoted trials keep their place among the best, and so do documented points and trials that
    have stopped improving, which are never promoted. A promotion is not taken back when better
    trials arrive, so more than one in eta may pass where trials get better with time: `brackets`
    has a quota.
    """

    def promotion(self, state: SweepState) -> Continuation | None:
        for rung in range(self.highest(state) - 1, -1, -1):
            best = self._next(state, self.plan.rungs[rung])
            if best is not None:
                return Continuation(best, self.plan.levels[rung + 1])
        return None

    def _next(self, state: SweepState, step: int) -> int | None:
        numbers = state.rungs.get(step, {})
        places = len(numbers) // self.plan.eta
        if len(self.plan.goal.objectives) > 1:  # a place among fronts hangs on all of them
            return best_waiting(self.plan, state, step, list(numbers), places)
        for best in ranking(self.plan, state, Waiting, step).best(1):
            measured = ranking(self.plan, state, Measured, step)
            return best if measured.better_than(measured.values(best), best) < places else None
        return None

    def closing(self, state: SweepState) -> Continuation | None:
        return last_promotion(self.plan, state)

    def highest(self, state: SweepState) -> int:
        """The index of the highest level to which trials are promoted now."""
        return len(self.plan.rungs)
