"""Avoiding a configuration that has been tried. In a discrete space a model suggests its favourite
again and again: 8 to 25 of 100 asks on the tables of `benchmarks.search_efficiency`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from random import Random

from search.log import SweepState
from search.optuna.distributions import from_unit
from search.plan import Plan
from search.seeds import derive
from search.state_cache import cached_for
from search_spaces.space import Space
from settings.schema import Value

_CHANGES = 512
"""Keys that are drawn anew before the space counts as exhausted, and a repeat is accepted."""

Sampled = Mapping[str, Value]


def without_repeat(
    plan: Plan, state: SweepState, trial: int, asked: dict[str, Value]
) -> dict[str, Value]:
    """`asked`, if no trial has that configuration; else the first untried one on a random walk
    from it, which draws one active key anew at each step.
    """
    space, tried = plan.space, _tried(plan, state)
    draw = Random(derive(plan.seed, "fresh", trial))
    candidate = asked
    for _ in range(_CHANGES):
        if _name(space, candidate) not in tried:
            return candidate
        candidate = _changed(space, candidate, draw)
    return asked


def _changed(space: Space, values: Sampled, draw: Random) -> dict[str, Value]:
    """`values` with one key drawn anew, and with those that become active by it."""
    changed = draw.choice([key for key in space.order() if key in values])
    sampled: dict[str, Value] = {}
    for key in space.order():
        if space.is_active(key, sampled, sampled):
            is_kept = key in values and key != changed
            sampled[key] = values[key] if is_kept else from_unit(space.domains[key], draw.random())
    return sampled


def _name(space: Space, values: Sampled) -> str:
    """A text that is equal for equal configurations; keys outside the space are left out."""
    return json.dumps([values.get(key) for key in space.order()])


def _tried(plan: Plan, state: SweepState) -> set[str]:
    """The names of all trials' configurations; only those that have come since the last ask are
    looked at.
    """
    tried = cached_for(plan, state, _Tried)
    for trial in islice(state.trials.values(), tried.count, None):
        first = trial.spans[min(trial.spans)].sampled  # a population changes its members
        tried.names.add(_name(plan.space, first))
    tried.count = len(state.trials)
    return tried.names


class _Tried:
    """The names of the first `count` trials' configurations, kept between two asks: naming ten
    thousand takes longer than an ask.
    """

    def __init__(self, plan: Plan) -> None:
        self.count, self.names = 0, set[str]()
