"""Warm start: the trials of earlier sweeps as rows that a sampler learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.objectives import Goal
from search_spaces.domains import same_value
from search_spaces.space import Space
from settings.flat import nearest_names
from settings.match import matches
from settings.schema import SettingsError, Value, listed, tupled
from settings.words import counted

COMPARABLE = ("data.*", "metric.*", "train.steps")
"""Keys that decide what a value means: data, the metrics' own settings, the length of a
training. Values from sweeps that differ in one of them do not compare.
"""

WITHOUT_EFFECT = (
    "train.seed",
    "train.report_every",
    "train.keep_every",
    "train.checkpoint_every",
    "train.finite_check_every",
    "train.tensorboard",
    "train.figures",
    "train.examine_every",
)
"""Keys of which a difference is not worth a line: they do not change what is learnt."""

_MISSING = object()


@dataclass(frozen=True)
class Warm:
    """A configuration of this sweep's space and what an earlier sweep has measured of it.

    Attributes:
        sampled: the value of every active key.
        values: by step, the columns that decisions read; {} for a training that was stopped for
            its health, or failed.
        origin: the sweep and the trial, for people.
    """

    sampled: Mapping[str, Value]
    values: Mapping[int, Mapping[str, float]]
    origin: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "sampled": {key: listed(value) for key, value in self.sampled.items()},
            "values": {str(step): dict(values) for step, values in self.values.items()},
        }

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> Warm:
        """What `to_json` wrote."""
        return cls(
            sampled={key: tupled(value) for key, value in node["sampled"].items()},
            values={int(step): dict(values) for step, values in node["values"].items()},
            origin=node.get("origin", ""),
        )


@dataclass(frozen=True)
class Measured:
    """A trial of an earlier sweep: its own settings, and its values by step and column."""

    number: int
    sampled: Mapping[str, Value]
    values: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Earlier:
    """An earlier sweep as plain data.

    Attributes:
        modes: better direction by column of its objectives.
        columns: of its objectives and constraints.
        settings: of the sweep; a trial has them except for what it sets itself.
    """

    name: str
    system: str
    modes: Mapping[str, str]
    columns: Sequence[str]
    settings: Mapping[str, Value]
    trials: Sequence[Measured]


def warm_from(
    earlier: Earlier, space: Space, goal: Goal, settings: Mapping[str, Value]
) -> tuple[tuple[Warm, ...], list[str]]:
    """The rows of an earlier sweep that are valid in this one, and a line on everything that is
    not.

    A row is used where every key that this sweep searches has a value inside its domain there, and
    every key that only the earlier one searched has the value that this sweep sets. A key that the
    system no longer has cannot be judged: it is named with its nearest names, and its rows are
    used only where all have one value of it. Nothing is renamed, rounded or moved into a range.
    Keys that both sweeps set, and set differently, make a line: the values stay true, of a
    slightly different training.

    Args:
        space: bound to `settings`.
        settings: of this sweep, by dotted key.

    Raises:
        SettingsError: another system, another objective, or values that do not compare
            (`COMPARABLE`).
    """
    _check_comparable(earlier, space, goal, settings)
    notes = [f"{earlier.name}: {note}" for note in _fixed_notes(earlier, space, settings)]
    varied = _vanished_and_varied(earlier, settings)
    rows: list[Warm] = []
    refused: Counter[str] = Counter()
    for trial in earlier.trials:
        there = {**earlier.settings, **trial.sampled}
        active, why = _place(there, space, settings)
        for key in () if why else trial.sampled:
            if key in varied:
                why = f"{key} no longer exists"
            elif _is_fixed_otherwise(key, there, space, settings):
                why = f"{key} is not {settings[key]!r}, and it is not searched here"
        if why:
            refused[why] += 1
            continue
        rows.append(Warm(active, trial.values, f"{earlier.name} trial {trial.number}"))
    notes += [
        f"{earlier.name}: {n} of {counted(len(earlier.trials), 'trial')} left out: {why}"
        for why, n in refused.items()
    ]
    return tuple(rows), [*notes, f"{earlier.name}: {counted(len(rows), 'trial')} taken over"]


def _check_comparable(
    earlier: Earlier, space: Space, goal: Goal, settings: Mapping[str, Value]
) -> None:
    if earlier.system != space.system:
        raise SettingsError(
            f"--warm-start {earlier.name}: a sweep of {earlier.system!r} says nothing about "
            f"{space.system!r}. Leave it out."
        )
    missing = [column for column in goal.columns if column not in earlier.columns]
    turned = [o.metric for o in goal.objectives if earlier.modes.get(o.metric, o.mode) != o.mode]
    if missing or turned:
        raise SettingsError(
            f"--warm-start {earlier.name}: it was judged by {', '.join(earlier.columns)}, and "
            f"this sweep by {', '.join(goal.columns)}"
            + (f" (the other way round: {', '.join(turned)})" if turned else "")
            + ". Leave it out, or choose the objective that it had."
        )
    other = [
        f"{key} {there!r} there, {settings[key]!r} here"
        for key, there in earlier.settings.items()
        if key in settings
        and matches(key, COMPARABLE)
        and key not in space.domains
        and not same_value(there, settings[key])
    ]
    if other:
        raise SettingsError(
            f"--warm-start {earlier.name}: its values do not compare with this sweep's: "
            f"{'; '.join(other)}. Leave it out, or set the same."
        )


def _fixed_notes(earlier: Earlier, space: Space, settings: Mapping[str, Value]) -> list[str]:
    """A line on each key that neither searches and both set differently, or that one lacks."""
    searched = {key for trial in earlier.trials for key in trial.sampled}
    notes = []
    for key in sorted(set(earlier.settings) | searched):
        if key not in settings:
            nearest = nearest_names(key, settings)
            hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
            notes.append(f"{key} no longer exists.{hint}")
        elif key in space.domains or key in searched or matches(key, WITHOUT_EFFECT):
            continue
        elif not same_value(earlier.settings[key], settings[key]):
            notes.append(f"{key} was {earlier.settings[key]!r}, here it is {settings[key]!r}")
    unknown = sorted(
        key for key in settings if key not in earlier.settings and key not in space.domains
    )
    return [*notes, *(f"{key} did not exist there" for key in unknown)]


def _vanished_and_varied(earlier: Earlier, settings: Mapping[str, Value]) -> set[str]:
    """Keys that the system no longer has and that did not have one value in all trials."""
    gone = {key for trial in earlier.trials for key in trial.sampled if key not in settings}
    return {
        key
        for key in gone
        if not _all_same(
            trial.sampled.get(key, earlier.settings.get(key, _MISSING)) for trial in earlier.trials
        )
    }


def _place(
    there: Mapping[str, Value], space: Space, settings: Mapping[str, Value]
) -> tuple[dict[str, Value], str]:
    """The active values of an earlier configuration in this space, and why it lies outside it (""
    if it does not).
    """
    values = {**settings, **{key: there[key] for key in space.domains if key in there}}
    active: dict[str, Value] = {}
    for key in space.order():
        if not space.is_active(key, values, active):
            continue
        if key not in there:
            return active, f"{key} is searched here and did not exist there"
        if not space.domains[key].contains(there[key]):
            return active, f"{key} lies outside this sweep's range"
        active[key] = there[key]
    return active, ""


def _is_fixed_otherwise(
    key: str, there: Mapping[str, Value], space: Space, settings: Mapping[str, Value]
) -> bool:
    """Whether a key that only the earlier sweep searched has another value in this one."""
    is_fixed = key in settings and key not in space.domains
    return is_fixed and not same_value(there[key], settings[key])


def _all_same(values: Iterable[Any]) -> bool:
    first, *others = values
    return all(value is not _MISSING and same_value(first, value) for value in others)
