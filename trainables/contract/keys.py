"""The settings keys that change what is measured."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

from settings.flat import Tree, flatten, leaves, replace
from settings.schema import Leaf, Settings, SettingsError, Value, remembered


def declares(reads: Sequence[str], key: str) -> bool:
    """Whether one of the patterns names the key."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in reads)


def guilty(
    keys: Sequence[str],
    settings: Tree,
    measure: Callable[[Tree], object],
    before: object,
    compares: Callable[[Tree], bool] = lambda settings: True,
) -> list[str]:
    """The keys that change what `measure(settings)` returns, each at another legal value for
    which `compares(settings)` holds.

    They are changed together first, and in halves where that changes the measure. A key at which
    `measure` raises has not been looked at: a prediction of one network under the settings of
    another says nothing.
    """
    others = other_values(settings)
    tried = [key for key in keys if key in others]
    if not tried:
        return []
    try:
        together = replace(settings, {key: others[key] for key in tried})
        if measure(together) == before:
            return []
    except Exception:  # somebody's own code, under settings that it never saw
        if len(tried) == 1:
            return []
    else:
        if len(tried) == 1:
            return tried if compares(together) else []
    middle = len(tried) // 2
    halves = tried[:middle], tried[middle:]
    return [key for half in halves for key in guilty(half, settings, measure, before, compares)]


def changed(tree: Tree, key: str) -> Tree | None:
    """The tree with that key at another legal value; None where there is none."""
    others = other_values(tree)
    return replace(tree, {key: others[key]}) if key in others else None


@remembered
def other_values(tree: Settings) -> dict[str, Value]:
    """For every key that has one, another value that is legal while the other keys stay."""
    values = flatten(tree)
    others = {}
    for key, leaf in leaves(type(tree)).items():
        value = other_value(leaf, values[key])
        if value is None:
            continue
        try:
            replace(tree, {key: value})
        except SettingsError:  # a rule between keys
            continue
        others[key] = value
    return others


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
