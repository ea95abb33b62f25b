"""A sweep directory as it is read: `sweep.json` and `log.jsonl`, formats 1 to 3. Nothing in it is
unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metrics.combined import Combined
from results.lock import is_held
from results.store import SweepError, read_events
from search.log import INTERRUPTED, RUNNING, SweepState, TrialRecord
from search.objectives import Constraint, Goal, Objective
from search_spaces.space import Point
from settings.paths import SweepPaths
from settings.schema import SettingsError, tupled
from settings.systems import as_stored, current_name

FORMAT = 3
"""1 had one objective and neither constraints nor repeats; it is read as such a sweep. 2 had most
options under names of their own, in place of `options`.
"""

RESUMABLE = 2
"""The oldest format that a resume goes on with."""


@dataclass(frozen=True)
class Sweep:
    """`sweep.json`, checked.

    Attributes:
        settings: all keys of the base configuration, which a trial has except for what it sets.
        domains: the searched keys, as {"kind": ...} written by the space.
        metrics: {"unit", "mode", "help"} by column name.
        objectives: the first gives a trial's value; several make a Pareto front.
        constraints: what a trial must keep to be a result.
        derived: the objectives that are made of other columns.
        options: what the sweep was told, by field of `SweepOptions`; defaults named.
        last_change: the step from which the loss of its trials no longer changes.
        reference_point: of the hypervolume, by objective, where somebody has named one.
    """

    path: Path
    system: str
    created: float
    settings: Mapping[str, Any]
    space: str
    domains: Mapping[str, Mapping[str, Any]]
    points: tuple[Point, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    derived: tuple[Combined, ...]
    metrics: Mapping[str, Mapping[str, Any]]
    terms: tuple[str, ...]
    options: Mapping[str, Any]
    last_change: int
    document: Mapping[str, Any] = field(repr=False)
    reference_point: Mapping[str, float] = field(default_factory=dict)

    @property
    def trials(self) -> int:
        """How many there will be at most, repeats not counted."""
        return int(self.options.get("trials") or 0)

    @property
    def budget(self) -> float | None:
        """In trainings of full length; None for none."""
        return self.options.get("budget")

    @property
    def repeats(self) -> int:
        """Fresh seeds for each of the best configurations; 0 for none."""
        return int(self.options.get("repeats") or 0)

    @property
    def gpus(self) -> float:
        """Of one trial, over all its workers."""
        return float(self.options.get("gpus") or 0.0) * float(self.options.get("workers") or 1)

    @property
    def objective(self) -> Objective:
        return self.objectives[0]

    @property
    def goal(self) -> Goal:
        """Objectives and constraints, by which decisions were made."""
        return Goal(self.objectives, self.constraints)

    def mode(self, metric: str) -> str | None:
        """The better direction of a column; None for a diagnostic and for an undeclared column."""
        for objective in self.objectives:
            if objective.metric == metric:
                return objective.mode
        return (self.metrics.get(metric) or {}).get("mode")


@dataclass(frozen=True)
class History:
    """The log of a sweep, read once.

    Attributes:
        trials: in the order of their numbers, repeats included. A trial with a segment that has
            not ended is running while the session that handed it out holds the lock, and
            interrupted otherwise.
        state: of the sweep: "finished", "running", "interrupted" or "ended for its failures".
        held: whether a live process holds the lock, as far as one look can tell
            (`results.lock.is_held`).
        open: trials with a segment that has not ended, whose state depends on the lock.
        ended_at: when each trial's last segment ended, in seconds since the epoch; in the order of
            the log, which clocks of several machines may not keep.
    """

    trials: tuple[TrialRecord, ...]
    state: str
    held: bool
    open: frozenset[int] = frozenset()
    ended_at: Mapping[int, float] = field(default_factory=dict)


def read_sweep(path: str | os.PathLike[str]) -> Sweep:
    """The sweep in a directory.

    Raises:
        SweepError: not a sweep directory, a newer format, or a `sweep.json` that lacks something.
    """
    directory = Path(path)
    file = SweepPaths(directory).document
    if not file.is_file():
        reason = "no such directory" if not directory.exists() else "it has no sweep.json"
        raise SweepError(
            f"{directory} is not a sweep directory: {reason}. "
            "Give the directory that a sweep printed."
        )
    try:
        document = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise SweepError(
            f"{file} cannot be read as JSON: {error}. Restore it from a copy."
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise SweepError(f"{file} has no whole number 'format'; it was not written by a sweep.")
    if document["format"] > FORMAT:
        raise SweepError(
            f"{file} has format {document['format']}, and this version reads up to {FORMAT}. "
            "Read it with the version that wrote it, or a newer one."
        )
    try:
        return _sweep(directory, _renamed(document))
    except (KeyError, TypeError, AttributeError, SettingsError) as error:
        raise SweepError(
            f"{file} breaks format {document['format']}: missing or malformed {error}."
        ) from error


def _renamed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the present name of its system, which the space repeats, and with the
    settings that the system has got since; they count as overrides, which a resume keeps.
    """
    settings = as_stored(document["system"], document["settings"])
    named = {**document, "system": current_name(document["system"]), "settings": settings}
    if "origins" in document:
        since = dict.fromkeys(settings.keys() - document["settings"].keys(), "override")
        named["origins"] = {**document["origins"], **since}
    space = document.get("space") or {}
    if "system" in space:
        named["space"] = {**space, "system": current_name(space["system"])}
    return named


def _sweep(directory: Path, document: Mapping[str, Any]) -> Sweep:
    declared = document.get("objectives") or [document["objective"]]
    space = document.get("space") or {}
    points = [
        Point(node["name"], _tupled_values(node["settings"]), tuple(node.get("outside") or ()))
        for node in document.get("points") or ()
    ]
    sweep = Sweep(
        path=directory,
        system=document["system"],
        created=float(document.get("created") or 0.0),
        settings=_tupled_values(document["settings"]),
        space=str(space.get("name", "")),
        domains=dict(space.get("domains") or {}),
        points=tuple(points),
        objectives=tuple(Objective(item["metric"], item["mode"]) for item in declared),
        constraints=tuple(Constraint.parse(text) for text in document.get("constraints") or ()),
        derived=tuple(Combined.from_json(node) for node in document.get("derived") or ()),
        metrics=dict(document.get("metrics") or {}),
        terms=tuple(document.get("terms") or ()),
        options=_options(document),
        last_change=int(_last_change(document) or 0),
        document=document,
    )
    named = (sweep.options or {}).get("reference_point")
    return sweep if named is None else with_reference_point(sweep, named)


def with_reference_point(sweep: Sweep, named: str | Mapping[str, float]) -> Sweep:
    """The sweep with the reference point that somebody names for its hypervolume.

    Raises:
        SettingsError: it does not fit the objectives.
    """
    return replace(sweep, reference_point=sweep.goal.reference_point(named))


def _options(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of any format, by field; those that format 2 did not store have their default
    when they are read.
    """
    if document["format"] > 2:
        return document["options"]
    rule = document.get("scheduler") or {}
    repeats = document.get("repeats") or {}
    options = {
        "scheduler": rule.get("name"),
        **{name: rule[name] for name in ("eta", "grace", "rung_steps", "shares") if name in rule},
        **({"repeats": repeats["draws"], "repeat_top": repeats["top"]} if repeats else {}),
        **(document.get("resources") or {}),
    }
    same = ("trials", "budget", "seed", "sampler", "storage", "max_failures", "max_concurrent")
    return {**{name: document[name] for name in same if name in document}, **options}


def _last_change(document: Mapping[str, Any]) -> Any:
    if document["format"] > 2:
        return document["last_change"]
    return (document.get("scheduler") or {}).get("settled")


def _tupled_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tupled(value) for key, value in values.items()}


def read_history(sweep: Sweep) -> History:
    """The history that the log has now; without a log there are no trials.

    Raises:
        SweepError: a line of the log is damaged, or is about a trial that was not handed out.
    """
    path = SweepPaths(sweep.path).log
    events = read_events(path) if path.exists() else []
    held = is_held(sweep.path)
    try:
        state = SweepState(events)
    except (KeyError, TypeError, ValueError) as error:
        raise SweepError(f"{path}: {error}") from error
    trials = tuple(state.trials[number] for number in sorted(state.trials))
    for trial in trials:
        if trial.status == RUNNING and not held:
            trial.status = INTERRUPTED
    ended_at = {
        event["trial"]: float(event.get("time") or 0.0)
        for event in events
        if event["event"] == "ended"
        and event.get("segment", 0) == state.trials[event["trial"]].segment
    }
    return History(
        trials=trials,
        state=_sweep_state(state, held),
        held=held,
        open=frozenset(t.number for t in trials if t.number not in ended_at),
        ended_at=ended_at,
    )


def _sweep_state(state: SweepState, held: bool) -> str:
    if state.finished:
        return "finished"
    if state.gave_up:
        return "ended for its failures"
    return "running" if held else "interrupted"
