"""Dotted keys by pattern (fnmatch: `data.*`)."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from settings.flat import flatten
from settings.schema import Settings, Value


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether a key fits one of the patterns."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def matching(tree: Settings, patterns: Iterable[str]) -> dict[str, Value]:
    """The values of a tree whose keys fit one of the patterns."""
    wanted = tuple(patterns)
    return {key: value for key, value in flatten(tree).items() if matches(key, wanted)}
