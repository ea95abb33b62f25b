"""Agreement of the ranks at different rungs. A rung whose ranks do not predict those of longer
trainings must neither promote trials nor be learnt from.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from search.log import STOPPED, SweepState
from search.objectives import Goal, Values
from search.plan import Plan
from search.state_cache import cached_for

PAIRS = 8
"""Trials with a value at both of two levels that a comparison of their ranks needs."""

MOST_PAIRS = 100
"""Trials that are compared, the last ones: enough for a correlation, and of bounded cost."""

LEAST = 0.4
"""The correlation (Spearman's) below which a rung is ignored."""


class _Memory:
    """Cache of earlier answers.

    Attributes:
        passed: by level, the trials that it has recorded and not judged, in their order; and how
            many of its trials have been looked at.
        agreed: by level, the last answer and what it was computed from.
        answer: the last answer of `trusted_from`, and what it was computed from.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.passed: dict[int, tuple[list[int], int]] = {}
        self.agreed: dict[int, tuple[tuple[Any, ...], bool]] = {}
        self.answer: tuple[tuple[int, ...], int] | None = None


def trusted_from(plan: Plan, state: SweepState) -> int:
    """The index of the lowest level that agrees with the longest one it can be compared with.

    A rung is compared by the trials that it did not select: those of later brackets, which pass it
    unjudged, and documented points. (Promoted trials are all good at the rung, so they cannot show
    how well it predicts.) With fewer than `PAIRS` of them a rung is trusted. Every further trial
    can change the answer, in either direction.
    """
    memory = cached_for(plan, state, _Memory)
    # Nobody passes the lowest level late, so its own count changes no pair.
    counts = [len(state.rungs.get(level, ())) for level in plan.levels[1:]]
    made_from = (state.count(STOPPED), state.replaced, *counts)
    if memory.answer is None or memory.answer[0] != made_from:
        highest = len(plan.levels) - 1
        agreeing = (index for index in range(highest) if _agrees(memory, state, index))
        memory.answer = (made_from, next(agreeing, highest))
    return memory.answer[1]


def _agrees(memory: _Memory, state: SweepState, index: int) -> bool:
    plan = memory.plan
    low = plan.levels[index]
    for later in range(len(plan.levels) - 1, index, -1):
        passed = (
            number
            for number in reversed(_passed(memory, state, later))
            if low in state.trials[number].rungs
        )
        both = list(itertools.islice(passed, MOST_PAIRS))
        if len(both) >= PAIRS:
            made_from = (later, state.count(STOPPED), state.replaced, both)
            cached = memory.agreed.get(index)
            if cached is None or cached[0] != made_from:
                answer = _correlates(plan, state, both, low, plan.levels[later])
                cached = memory.agreed[index] = (made_from, answer)
            return cached[1]
    return True


def _correlates(plan: Plan, state: SweepState, both: list[int], low: int, high: int) -> bool:
    early, late = ([state.observed(n, step) for n in both] for step in (low, high))
    return agreement(plan.goal, early, late) >= LEAST


def _passed(memory: _Memory, state: SweepState, later: int) -> list[int]:
    """The trials with a value at a level that no earlier rung has judged, in their order."""
    recorded = state.rungs.get(memory.plan.levels[later], {})
    passed, looked_at = memory.passed.get(later, ([], 0))
    fresh = list(itertools.islice(reversed(recorded), len(recorded) - looked_at))
    passed += [n for n in reversed(fresh) if state.trials[n].bracket >= later]
    memory.passed[later] = (passed, len(recorded))
    return passed


def agreement(goal: Goal, early: Sequence[Values], late: Sequence[Values]) -> float:
    """Spearman's correlation of the ranks of the same trials at two steps."""
    return rank_correlation(*([cost for _, cost in goal.badness(side)] for side in (early, late)))


def rank_correlation(early: list[float], late: list[float]) -> float:
    """Spearman's correlation, ties at their mean rank; 1 where all values of a side are equal."""
    ranks = [_ranks(np.asarray(side, dtype=float)) for side in (early, late)]
    if any(np.ptp(side) == 0.0 for side in ranks):
        return 1.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]
