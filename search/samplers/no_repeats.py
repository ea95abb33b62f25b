"""No configuration twice. In a space of choices and steps a model asks for its favourite again and
again: 8 to 25 of 100 asks on the tables of `benchmarks.search_efficiency`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from random import Random

from search.log import SweepState
from search.optuna_distributions import from_unit
from search.plan import Plan
from search.seeds import derive
from search.state_cache import cached_for
from search_spaces.space import Space
from settings.schema import Value

_CHANGES = 512
"""Keys that are drawn anew before an ask is answered as it stands: the space is used up."""

Sampled = Mapping[str, Value]


def without_repeat(
    plan: Plan, state: SweepState, trial: int, asked: dict[str, Value]
) -> dict[str, Value]:
    """`asked`, or the first configuration that no trial has, on a walk from it which draws one
    active key anew at each step.
    """
    space, tried = plan.space, _tried(plan, state)
    draw = Random(derive(plan.seed, "fresh", trial))
    found = asked
    for _ in range(_CHANGES):
        if _name(space, found) not in tried:
            return found
        found = _changed(space, found, draw)
    return asked


def _changed(space: Space, values: Sampled, draw: Random) -> dict[str, Value]:
    """`values` with one key drawn anew, and with those that become active by it."""
    changed = draw.choice([key for key in space.order() if key in values])
    found: dict[str, Value] = {}
    for key in space.order():
        if space.is_active(key, found, found):
            kept = key in values and key != changed
            found[key] = values[key] if kept else from_unit(space.domains[key], draw.random())
    return found


def _name(space: Space, values: Sampled) -> str:
    """Equal for equal configurations; a preset's own changes beside the space are left out."""
    return json.dumps([values.get(key) for key in space.order()])


def _tried(plan: Plan, state: SweepState) -> set[str]:
    """The names of all trials' configurations; an ask looks at those that have come since."""
    known = cached_for(plan, state, _Names)
    for trial in islice(state.trials.values(), known.count, None):
        first = trial.spans[min(trial.spans)].sampled  # a population changes its members
        known.names.add(_name(plan.space, first))
    known.count = len(state.trials)
    return known.names


class _Names:
    """Of the first `count` trials: naming ten thousand takes longer than an ask."""

    def __init__(self, plan: Plan) -> None:
        self.count, self.names = 0, set[str]()
