"""Repeats: the configurations that are trained again with fresh seeds before a winner is named.

The best of many draws is lucky as well as good (the winner's curse), so the draw that chose a
configuration does not count among its repeats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.log import COMPLETE, SweepState
from search.plan import Plan
from search_spaces.space import DOCUMENT


@dataclass(frozen=True)
class Repeat:
    """The next draw, from 0, of a trial's configuration."""

    trial: int
    draw: int


def chosen(plan: Plan, state: SweepState) -> list[int]:
    """The trials to repeat, by number: the `repeat_top` best complete ones, and those that the
    winner is compared with, which are the best documented point and the document's recommendation.
    """
    complete = [
        number
        for number in state.with_status(COMPLETE)
        if state.trials[number].repeat_of is None and math.isfinite(state.trials[number].value)
    ]
    keys = plan.goal.badness([state.trials[number].values for number in complete])
    best = [number for _, number in sorted(zip(keys, complete, strict=True))]
    points = [number for number in best if state.trials[number].point is not None]
    document = [number for number in points if state.trials[number].point == DOCUMENT]
    return sorted({*best[: plan.repeat_top], *points[:1], *document})


def next_repeat(plan: Plan, state: SweepState) -> Repeat | None:
    """The next draw to hand out: every configuration once, then every one again."""
    if not plan.repeats:
        return None
    drawn = dict.fromkeys(chosen(plan, state), 0)
    for trial in state.trials.values():
        if trial.repeat_of in drawn:
            drawn[trial.repeat_of] += 1
    fewest = min(drawn, key=lambda number: (drawn[number], number), default=None)
    if fewest is None or drawn[fewest] >= plan.repeats:
        return None
    return Repeat(fewest, drawn[fewest])
