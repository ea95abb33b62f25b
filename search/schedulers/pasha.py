"""Progressive asynchronous successive halving (PASHA, Bohdal et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.log import SweepState
from search.plan import Plan
from search.schedulers.asha_promotion import AshaPromotion
from search.state_cache import cached_for

PERCENTILE = 90.0
"""The paper's N: of the distances between trials that overtake each other."""


class _LastAnswer:
    """The last answer and what it was made from: several questions come between two reports."""

    def __init__(self, plan: Plan) -> None:
        self.made_from: tuple[int, ...] = ()
        self.answer = False


class Pasha(AshaPromotion):
    """Promotes as `asha_promotion` does, but at first only up to the second level. The next level
    is opened when the two highest open ones rank the trials at the highest differently; so a sweep
    whose early rungs rank well never pays for the late ones.

    Two trials whose values differ by epsilon or less have no order. Epsilon is the paper's: the
    90th percentile of the distance, at the highest level that both have reached, between any two
    trials that overtook each other twice (c before c', then c' before c, then c again); 0 while
    there are none. The paper looks at every epoch; here the log holds the values at the rungs, so
    only trials that have seen three levels (documented points from the first on) can tell.

    Several objectives, or constraints, are compared by places, with epsilon 0.
    """

    def highest(self, state: SweepState) -> int:
        """The index of the highest open level. A level to which a trial was promoted stays open,
        whatever its ranking says later.
        """
        levels, last = self.plan.levels, len(self.plan.rungs)
        top = max((k for k in range(1, last + 1) if self._is_open(state, k)), default=1)
        if top < last and self._disagree_now(state, levels[top - 1], levels[top]):
            top += 1
        return min(top, last)

    def _disagree_now(self, state: SweepState, below: int, above: int) -> bool:
        """The answer of `_disagree`, computed again only where a trial above the first level has
        reported.
        """
        counts = [len(state.rungs.get(step, ())) for step in self.plan.levels[1:]]
        made_from = (above, state.replaced, *counts)
        cached = cached_for(self.plan, state, _LastAnswer)
        if cached.made_from != made_from:
            cached.answer, cached.made_from = self._disagree(state, below, above), made_from
        return cached.answer

    def _is_open(self, state: SweepState, level: int) -> bool:
        """Whether a trial was promoted to the level, and not beyond it as the sweep's last."""
        below, step = self.plan.levels[level - 1], self.plan.levels[level]
        beyond = state.promoted.get((0, step), ())
        return any(
            state.trials[number].stop_step == step or number in beyond
            for number in state.promoted.get((0, below), ())
        )

    def _disagree(self, state: SweepState, below: int, above: int) -> bool:
        """Whether two levels rank the asked-for trials of the upper one differently."""
        numbers = sorted(n for n in state.rungs.get(above, ()) if state.trials[n].point is None)
        lower, upper = self._costs(state, numbers, below), self._costs(state, numbers, above)
        as_above = [lower[index] for index in np.lexsort((lower, upper))]
        moved = [abs(a - b) for a, b in zip(as_above, sorted(lower), strict=True) if a != b]
        return bool(moved) and max(moved) > self._epsilon(state)

    def _epsilon(self, state: SweepState) -> float:
        if not self._is_plain:
            return 0.0
        levels = self.plan.levels
        numbers = sorted({n for step in levels[2:] for n in state.rungs.get(step, ())})
        costs = np.full((len(numbers), len(levels)), np.nan)
        for column, step in enumerate(levels):
            there = [i for i, n in enumerate(numbers) if step in state.trials[n].rungs]
            costs[there, column] = self._costs(state, [numbers[i] for i in there], step)
        distances = overtaking_distances(np.where(np.isfinite(costs), costs, np.nan))
        return float(np.percentile(distances, PERCENTILE)) if len(distances) else 0.0

    @property
    def _is_plain(self) -> bool:
        return len(self.plan.goal.objectives) == 1 and not self.plan.goal.constraints

    def _costs(self, state: SweepState, numbers: Sequence[int], step: int) -> list[float]:
        """The numbers that are ranked: the one objective's cost, or the place. Values count as
        they were recorded, also those of a trial that became infeasible later.
        """
        goal, observed = self.plan.goal, [state.trials[n].rungs[step] for n in numbers]
        if self._is_plain:
            return [goal.objectives[0].cost(values) for values in observed]
        keys = goal.badness(observed)
        places = {key: float(place) for place, key in enumerate(sorted(set(keys)))}
        return [places[key] for key in keys]


def overtaking_distances(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances between the rows that changed order twice or more, at the last level that both
    have.

    costs: [n, levels], NaN where there is no value.
    """
    count = len(costs)
    order, changes = np.zeros((count, count)), np.zeros((count, count))
    distance = np.full((count, count), math.nan)
    for level in costs.T:
        difference = level[:, None] - level[None, :]
        sign = np.sign(np.nan_to_num(difference))
        changes += (sign * order) < 0
        order = np.where(sign != 0, sign, order)
        distance = np.where(np.isnan(difference), distance, np.abs(difference))
    upper = np.triu(np.ones((count, count), dtype=bool), 1)
    distances: NDArray[np.float64] = distance[upper & (changes >= 2)]
    return distances
