"""A search space: domains over dotted keys, the presets that are its documented points, and the
order of drawing.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.domains import Domain, domain_from_json, domain_from_yaml, same_value
from settings.files import read_pairs
from settings.flat import nearest_names, unknown_key
from settings.schema import SettingsError, Value, listed, tupled
from settings.systems import SYSTEMS, current_name

DOCUMENT = "document"
"""The point that holds the source document's own final recommendation."""

Flat = Mapping[str, Value]
"""Values by dotted key."""


@dataclass(frozen=True)
class Point:
    """A documented configuration, placed in a space.

    Attributes:
        name: of the preset.
        sampled: what a trial of it sets: the preset's own changes and the value of every active
            key.
        outside: the keys for which the space cannot express the point. Such a point is run and
            marked, and the sampler is not told of it.
    """

    name: str
    sampled: Flat
    outside: tuple[str, ...] = ()


def leading(points: Sequence[Point]) -> Point | None:
    """The document's point, or else the first documented one; None without any."""
    return next((point for point in points if point.name == DOCUMENT), next(iter(points), None))


@dataclass(frozen=True)
class Space:
    """Which keys a sweep searches.

    Attributes:
        points: what is run first: presets by name, or settings files by path.
        fixed: values the space itself sets, above a preset and below an override (the anchor's
            weight).
        metrics: the objectives where the command line names none; the system's first metric where
            the space names none, either. Not in `to_json`: a sweep's document has its objectives.
        arms: what its file says of its points as arms of a comparison; the sweep does not read it,
            and it is not in `to_json`.
    """

    name: str
    system: str
    domains: Mapping[str, Domain]
    points: tuple[str, ...] = ()
    fixed: Flat = field(default_factory=dict)
    metrics: tuple[str, ...] = field(default=(), compare=False)
    arms: Mapping[str, Any] = field(default_factory=dict, compare=False)
    _order: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.domains:
            raise SettingsError(f"space {self.name!r} searches nothing: it needs one key or more.")
        object.__setattr__(self, "_order", self._topological())

    def order(self) -> tuple[str, ...]:
        """The keys, each after those that its condition names; otherwise as they are declared."""
        return self._order

    def _topological(self) -> tuple[str, ...]:
        waiting, ordered = dict.fromkeys(self.domains), []
        while waiting:
            ready = [k for k in waiting if not any(p in waiting for p in self._parents(k))]
            if not ready:
                raise SettingsError(
                    f"space {self.name!r}: conditions form a cycle through {', '.join(waiting)}."
                )
            ordered.append(ready[0])
            del waiting[ready[0]]
        return tuple(ordered)

    def _parents(self, key: str) -> list[str]:
        return [other for other in self.domains[key].when if other in self.domains]

    def is_active(self, key: str, values: Flat, active: Collection[str]) -> bool:
        """Whether every condition of `key` holds, given the values so far and which keys are
        active.

        A condition on a key that is itself searched but inactive does not hold.
        """
        for other, allowed in self.domains[key].when.items():
            if other in self.domains and other not in active:
                return False
            if other not in values:
                raise SettingsError(
                    f"{key} depends on {other}, which has no value here: bind the space first."
                )
            for value in allowed:  # asked for every key of every trial: any() is twice as slow
                if same_value(values[other], value):
                    break
            else:
                return False
        return True

    def active(self, values: Flat, among: Collection[str] | None = None) -> tuple[str, ...]:
        """The keys (`among` these, all of the space by default) that have an effect in a
        configuration, in the order of drawing. `among` holds every key that has a value.
        """
        active: dict[str, None] = {}  # a set that keeps its order
        for key in self.order():
            if among is not None and key not in among:
                continue
            if not self.domains[key].when or self.is_active(key, values, active):
                active[key] = None
        return tuple(active)

    def bind(self, settings: Flat) -> Space:
        """The space over given settings: conditions on keys that are not searched are decided
        once, and what can never be active is left out.
        """
        kept: dict[str, Domain] = {}
        for key in self.order():
            domain = self.domains[key]
            outer = {
                other: allowed
                for other, allowed in domain.when.items()
                if other not in self.domains
            }
            holds = all(
                any(same_value(settings[other], value) for value in allowed)
                for other, allowed in outer.items()
            )
            if holds and all(parent in kept for parent in self._parents(key)):
                inner = {
                    other: allowed for other, allowed in domain.when.items() if other not in outer
                }
                kept[key] = dataclasses.replace(domain, when=inner)
        if not kept:
            raise SettingsError(
                f"space {self.name!r}: no key is active under these settings. Its conditions: "
                + "; ".join(
                    f"{key} when {dict(domain.when)}" for key, domain in self.domains.items()
                )
            )
        in_order = {key: kept[key] for key in self.domains if key in kept}
        return dataclasses.replace(self, domains=in_order)

    def place(self, name: str, preset: Flat, settings: Flat) -> Point:
        """A preset as a point of this (bound) space.

        Args:
            preset: the values that a trial takes of it, in their settings' types.
            settings: the sweep's settings, on which every trial builds.
        """
        changes: dict[str, Value] = {}
        for key, value in preset.items():
            if key not in settings:
                raise unknown_key(key, settings)
            if key in self.domains or not same_value(value, settings[key]):
                changes[key] = value
        merged = {**settings, **changes}
        active = self.active(merged)
        outside = [key for key in changes if key not in self.domains]
        outside += [key for key in active if not self.domains[key].contains(merged[key])]
        sampled = {**changes, **{key: merged[key] for key in active}}
        return Point(name=name, sampled=sampled, outside=tuple(sorted(outside)))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "system": self.system,
            "domains": {key: domain.to_json() for key, domain in self.domains.items()},
            "points": list(self.points),
            "fixed": {key: listed(value) for key, value in self.fixed.items()},
        }


def space_from_json(node: Mapping[str, Any]) -> Space:
    """The space that `to_json` wrote."""
    domains = {key: domain_from_json(domain) for key, domain in node["domains"].items()}
    fixed = {key: tupled(value) for key, value in node.get("fixed", {}).items()}
    system, points = current_name(node["system"]), tuple(node.get("points", ()))
    return Space(node["name"], system, domains, points, fixed)


def spaces_of(system: str) -> Mapping[str, Space]:
    """The spaces of one of our systems, `search_spaces.<system>:SPACES`, the default first; none
    for a system outside the repository.
    """
    if system not in SYSTEMS:
        return {}
    spaces: Mapping[str, Space] = importlib.import_module(f"search_spaces.{system}").SPACES
    return spaces


def load_space(system: str, name: str | None = None) -> Space:
    """A system's space by name (its first by default), or one from a YAML file."""
    system = current_name(system)
    if name is not None and name.endswith((".yaml", ".yml")):
        return _read_space(system, Path(name))
    spaces = spaces_of(system)
    if not spaces:
        raise SettingsError(
            f"system {system!r} has no search space of its own; write one as YAML and give its "
            f"path. Systems with spaces: {', '.join(sorted(SYSTEMS))}."
        )
    chosen = next(iter(spaces)) if name is None else name
    if chosen not in spaces:
        nearest = nearest_names(chosen, spaces) or list(spaces)
        raise SettingsError(
            f"{system} has no space {chosen!r}. Nearest: {', '.join(nearest)}. "
            f"Spaces: {', '.join(spaces)}; or the path of a .yaml file."
        )
    return spaces[chosen]


def _read_space(system: str, path: Path) -> Space:
    """A space file: one domain per dotted key, beside the reserved keys `about`, `points`,
    `metrics`, `fixed` and `arms`.
    """
    body = _read_mapping(path)
    reserved = ("about", "points", "metrics", "fixed", "arms")
    about = {name: body.pop(name, None) for name in reserved}
    points = _texts(path, about, "points", "presets (by name) or settings files (by path)")
    metrics = _texts(path, about, "metrics", "columns that judge a trial")
    fixed, arms = about["fixed"] or {}, about["arms"] or {}
    if not isinstance(fixed, Mapping):
        raise SettingsError(f"{path}: fixed is a mapping from a key to its value, not {fixed!r}.")
    if not isinstance(arms, Mapping):
        raise SettingsError(f"{path}: arms is a mapping (benchmarks/README.md), not {arms!r}.")
    try:
        domains = {key: domain_from_yaml(key, node) for key, node in body.items()}
        values = {str(key): tupled(value) for key, value in fixed.items()}
        placed = tuple(_point_source(path, point) for point in points)
        return Space(path.stem, system, domains, placed, values, tuple(metrics), arms)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _texts(path: Path, body: Mapping[str, Any], key: str, what: str) -> list[str]:
    found = body[key] or []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise SettingsError(f"{path}: {key} is a list of {what}, not {found!r}.")
    return found


def _point_source(path: Path, point: str) -> str:
    """A preset's name, or the path of a settings file, which a space names relative to itself."""
    return str(path.parent / point) if point.endswith((".yaml", ".yml")) else point


def _read_mapping(path: Path) -> dict[str, Any]:
    """The entries of a space file, by the rules of settings files: `no` is text, `1e-4` a
    number.
    """
    body: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value, line in read_pairs(path):
        name = str(key)
        if name in body:
            raise SettingsError(
                f"{path}:{line}: {name} is given twice (first in line {lines[name]}). Remove one "
                "of them."
            )
        body[name], lines[name] = value, line
    return body
