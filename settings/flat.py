"""The one namespace: a settings tree as a flat dict of dotted keys, and back.

The same string is the YAML key, the command-line override, the key of a search space, of a trial's
configuration, of the results column (`config/<key>`) and of a checkpoint's `settings.json`.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from settings.command import command
from settings.schema import (
    Leaf,
    Settings,
    SettingsError,
    Value,
    child_nodes,
    conform,
    own_leaves,
    remembered,
)

Tree = TypeVar("Tree", bound=Settings)


def leaves(node: type[Settings]) -> Mapping[str, Leaf]:
    """Every leaf below a node by its dotted key, in the order of declaration."""
    return _leaves(node, "")


@remembered
def _leaves(node: type[Settings], prefix: str) -> Mapping[str, Leaf]:
    below = {prefix + name: leaf for name, leaf in own_leaves(node).items()}
    for name, child in child_nodes(node).items():
        below.update(_leaves(child, f"{prefix}{name}."))
    return types.MappingProxyType(below)


def flatten(tree: Settings) -> dict[str, Value]:
    """All values of a tree by dotted key."""
    flat: dict[str, Value] = {name: getattr(tree, name) for name in own_leaves(type(tree))}
    for name in child_nodes(type(tree)):
        flat.update(
            {f"{name}.{key}": value for key, value in flatten(getattr(tree, name)).items()}
        )
    return flat


def replace(tree: Tree, changes: Mapping[str, Any]) -> Tree:
    """A tree with some values changed, checked as a whole after all changes.

    Raises:
        SettingsError: an unknown key (the nearest three are named), a wrong type, a value out of
            range, or a rule between fields that the new values break.
    """
    known = leaves(type(tree))
    typed = {}
    for key, value in changes.items():
        if key not in known:
            raise unknown_key(key, known)
        typed[key] = conform(key, known[key], value)
    return _rebuild(tree, typed)


def _rebuild(tree: Tree, changes: Mapping[str, Value]) -> Tree:
    fields: dict[str, Any] = {}
    for name in own_leaves(type(tree)):
        fields[name] = changes.get(name, getattr(tree, name))
    for name in child_nodes(type(tree)):
        below = {
            key.removeprefix(f"{name}."): value
            for key, value in changes.items()
            if key.startswith(f"{name}.")
        }
        child = getattr(tree, name)
        fields[name] = _rebuild(child, below) if below else child
    return type(tree)(**fields)


def unknown_key(key: str, known: Iterable[str]) -> SettingsError:
    """The error for a key that does not exist, naming the nearest three that do."""
    nearest = nearest_names(key, known)
    return SettingsError(
        f"there is no setting {key!r}. Nearest: {', '.join(nearest) or 'none'}. "
        f"`{command('train')} SYSTEM --show` lists every key."
    )


def nearest_names(
    name: str, known: Iterable[str], count: int = 3, alike: float = 0.4
) -> list[str]:
    """The known names nearest to a mistyped one; also those that merely end in the same last
    part.

    Args:
        alike: least share of a name's letters that is common to both (`difflib`).
    """
    candidates = list(known)
    close = difflib.get_close_matches(name, candidates, n=count, cutoff=alike)
    last = name.rsplit(".", 1)[-1]
    same_end = [other for other in candidates if other.rsplit(".", 1)[-1] == last]
    return list(dict.fromkeys(close + same_end))[:count]
