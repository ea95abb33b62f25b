"""Successive halving in waves (Karnin et al. 2013; Jamieson and Talwalkar 2016, algorithm 1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from search.log import COMPLETE, SweepState
from search.plan import Plan
from search.schedulers.base import Continuation
from search.schedulers.waiting import Promoting, best_waiting, last_promotion
from search.state_cache import cached_for


class _Through:
    """The number of leading waves that were done when last asked: most are, late in a sweep."""

    def __init__(self, plan: Plan) -> None:
        self.waves = 0


class Halving(Promoting):
    """A wave of trials goes to the first rung; when all are there or have ended for good, the best
    floor(n / eta), at least one, go on to the next, and so on.

    The sampler's trials are split, in their order, into as many waves of at least eta^rungs trials
    as possible, of sizes that differ by one at most; a wave of eta^rungs takes one trial to the
    end. While a wave waits for its last trial, free slots begin the next one. A trial that fails
    or is infeasible still counts in the size of its wave, and so in the number of places.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        asked = max(plan.trials - len(plan.points), 0)
        waves = max(asked // plan.eta ** len(plan.rungs), 1)
        self.bounds = [asked * wave // waves for wave in range(waves + 1)]

    def promotion(self, state: SweepState) -> Continuation | None:
        asked, done = state.asked_for, self._waves_through(state)
        for first, end in itertools.pairwise(self.bounds[done:]):
            if len(asked) < end:
                break
            continuation = self._of_wave(state, asked[first:end])
            if continuation is not None:
                return continuation
        return None

    def _waves_through(self, state: SweepState) -> int:
        """The number of leading waves that are done, for good."""
        done = cached_for(self.plan, state, _Through)
        while done.waves + 1 < len(self.bounds):
            first, end = self.bounds[done.waves : done.waves + 2]
            wave = state.asked_for[first:end]
            if len(wave) < end - first or not self._is_through(state, wave):
                break
            done.waves += 1
        return done.waves

    def _is_through(self, state: SweepState, wave: Sequence[int]) -> bool:
        if not self.plan.rungs:
            return False
        through = state.promoted.get((0, self.plan.rungs[-1]), set())
        return len(through.intersection(wave)) >= self._places(wave, len(self.plan.rungs) - 1)

    def closing(self, state: SweepState) -> Continuation | None:
        return last_promotion(self.plan, state)

    def _of_wave(self, state: SweepState, wave: Sequence[int]) -> Continuation | None:
        """The next promotion in a wave whose trials have all begun; None where it has to wait."""
        if self._is_through(state, wave):
            return None
        entrants = list(wave)
        for rung, step in enumerate(self.plan.rungs):
            there = [number for number in entrants if step in state.trials[number].rungs]
            missing = set(entrants).difference(there)
            failures = self.plan.max_failures
            if not all(state.trials[number].is_final(failures) for number in missing):
                return None
            places = self._places(wave, rung)
            promoted = state.promoted.get((0, step), set()).intersection(wave)
            if len(promoted) < places:
                best = best_waiting(self.plan, state, step, there, places)
                if best is not None:
                    return Continuation(best, self.plan.levels[rung + 1])
            # One that has stopped improving competes on with the value that it keeps.
            entrants = [
                number
                for number in there
                if number in promoted or state.trials[number].status == COMPLETE
            ]
        return None

    def _places(self, wave: Sequence[int], rung: int) -> int:
        return max(len(wave) // self.plan.eta ** (rung + 1), 1)
