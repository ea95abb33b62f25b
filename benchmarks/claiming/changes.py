"""What differs between two configurations: the choices, and the settings that exist only under
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search_spaces.domains import same_value
from search_spaces.space import spaces_of
from settings.schema import Value

Conditions = Mapping[str, Mapping[str, Sequence[Value]]]
"""Key -> other keys with the values under which it has an effect."""

_SWITCH = "enabled"


@dataclass(frozen=True)
class Change:
    """A setting that differs between an arm and its control.

    Attributes:
        under: the changed choice that it counts with, because it has an effect under one side of
            it alone; "" for a change of its own.
    """

    key: str
    control: Value
    arm: Value
    under: str = ""


def conditions_of(system: str, keys: Iterable[str]) -> Conditions:
    """What the settings of a system exist under: a node's switch (`loss.hole.enabled`), and the
    conditions of its search spaces. Where two spaces differ, what either allows; a key that one of
    them searches without a condition has none, and neither has a switch, which is a choice.
    """
    known = list(keys)
    spaces = list(spaces_of(system).values())
    free = {key for space in spaces for key, domain in space.domains.items() if not domain.when}
    found: dict[str, dict[str, list[Value]]] = {key: {} for key in known}
    for key in known:
        for switch in _switches(key, found):
            found[key][switch] = [True]
    for space in spaces:
        for key, domain in space.domains.items():
            if key in free or key.endswith(f".{_SWITCH}"):
                continue
            for other, allowed in domain.when.items():
                found[key].setdefault(other, []).extend(allowed)
    return found


def changes(
    control: Mapping[str, Value], arm: Mapping[str, Value], conditions: Conditions
) -> list[Change]:
    """Every key that differs, but for those that have an effect on neither side.

    A key counts with another changed key if it has an effect under at most one of the two values
    of that one: `hdr.cap.scale_init` where `hdr.cap.mode` becomes `learnable`.
    """
    differ = [key for key in control if not same_value(control[key], arm[key])]
    found = []
    for key in differ:
        if any(
            not _holds(control[other], allowed) and not _holds(arm[other], allowed)
            for other, allowed in conditions[key].items()
        ):
            continue
        under = [
            other
            for other, allowed in conditions[key].items()
            if other in differ
            and not (_holds(control[other], allowed) and _holds(arm[other], allowed))
        ]
        found.append(Change(key, control[key], arm[key], under[0] if under else ""))
    return found


def _holds(value: Value, allowed: Sequence[Value]) -> bool:
    return any(same_value(value, one) for one in allowed)


def _switches(key: str, keys: Iterable[str]) -> list[str]:
    """The switches of the nodes that a key lies in, its own aside."""
    known = keys if isinstance(keys, Mapping) else set(keys)
    nodes = key.split(".")[:-1]
    switches = (".".join((*nodes[:depth], _SWITCH)) for depth in range(1, len(nodes) + 1))
    return [switch for switch in switches if switch in known and switch != key]
