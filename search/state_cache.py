"""Caches of what decisions compute from a sweep's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from search.log import SweepState
from search.plan import Plan

T = TypeVar("T")

_memories: WeakKeyDictionary[SweepState, dict[Callable[[Plan], Any], tuple[Plan, Any]]] = (
    WeakKeyDictionary()
)


def cached_for(plan: Plan, state: SweepState, make: Callable[[Plan], T]) -> T:
    """The result of `make(plan)` for this state: made once, anew for another plan, and dropped
    with the state. It may save time and must change no answer.
    """
    memories = _memories.setdefault(state, {})
    cached = memories.get(make)
    if cached is None or cached[0] is not plan:
        cached = memories[make] = (plan, make(plan))
    value: T = cached[1]
    return value
