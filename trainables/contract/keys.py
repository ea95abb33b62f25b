"""Which settings keys change what is measured."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

from settings.flat import flatten, leaves, replace
from settings.schema import Leaf, SettingsError, Value


def declares(reads: Sequence[str], key: str) -> bool:
    """Whether one of the patterns names the key."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in reads)


def guilty(
    keys: Sequence[str],
    settings: Any,
    measure: Callable[[Any], object],
    before: object,
    compares: Callable[[Any], bool] = lambda settings: True,
) -> list[str]:
    """The keys that change what `measure(settings)` returns, each at another legal value for
    which `compares(settings)` holds.

    One at which it raises has not been looked at: a prediction of one network under the settings
    of another says nothing.
    """
    together, tried = settings, dict[str, Any]()
    for key in keys:
        alone, after = changed(settings, key), changed(together, key)
        if alone is not None:
            tried[key] = alone
        together = together if after is None else after
    if _differs(measure, together, before) is False:
        return []
    differ = {key: alone for key, alone in tried.items() if _differs(measure, alone, before)}
    return [key for key, alone in differ.items() if compares(alone)]


def _differs(measure: Callable[[Any], object], settings: Any, before: object) -> bool | None:
    """None where the measure raises."""
    try:
        return measure(settings) != before
    except Exception:
        return None


def changed(tree: Any, key: str) -> Any:
    """The tree with that key at another legal value; None where there is none."""
    value = other_value(leaves(type(tree))[key], flatten(tree)[key])
    try:
        return None if value is None else replace(tree, {key: value})
    except SettingsError:
        return None


def other_value(leaf: Leaf, value: Any) -> Value | None:
    """Another legal value of a leaf; None where it has only one."""
    if leaf.is_tuple:
        return value[:-1] or None
    if leaf.choices is not None:
        return next((choice for choice in leaf.choices if choice != value), None)
    if leaf.type is bool:
        return not value
    if leaf.type is str:
        return None
    candidates = [value + 2, value - 2] if leaf.type is int else [value * 1.5, value / 2, 0.5]
    low = -float("inf") if leaf.low is None else leaf.low
    high = float("inf") if leaf.high is None else leaf.high
    return next((x for x in candidates if low <= x <= high and x != value), None)
