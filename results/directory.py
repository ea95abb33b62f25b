"""A sweep directory as it is read: `sweep.json` and `log.jsonl`, format 1. Nothing in it is
unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.lock import is_held
from results.store import SweepError, read_events

FORMAT = 1
FINAL_STATES = ("complete", "stopped", "failed", "interrupted")


@dataclass(frozen=True)
class Objective:
    """What a sweep is judged by: a report column and its better direction, "min" or "max"."""

    metric: str
    mode: str


@dataclass(frozen=True)
class Point:
    """A documented configuration: a preset's name, the values it sets, and those keys that leave
    the space.
    """

    name: str
    settings: Mapping[str, Any]
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """`sweep.json`, checked.

    Attributes:
        settings: every key of the base configuration; what a trial does not set is as here.
        domains: the searched keys, as {"kind": ...} written by the space.
        metrics: {"unit", "mode", "help"} by column name.
        objectives: the first gives a trial's value; several make a Pareto front.
        gpus: of one trial, over all its workers.
    """

    path: Path
    system: str
    created: float
    settings: Mapping[str, Any]
    space: str
    domains: Mapping[str, Mapping[str, Any]]
    points: tuple[Point, ...]
    objectives: tuple[Objective, ...]
    metrics: Mapping[str, Mapping[str, Any]]
    terms: tuple[str, ...]
    trials: int
    gpus: float
    document: Mapping[str, Any] = field(repr=False)

    @property
    def objective(self) -> Objective:
        return self.objectives[0]

    def point(self, name: str) -> Point | None:
        """The documented point of that name."""
        return next((point for point in self.points if point.name == name), None)

    def mode(self, metric: str) -> str | None:
        """The better direction of a column; None for a diagnostic and for what nobody declared."""
        for objective in self.objectives:
            if objective.metric == metric:
                return objective.mode
        return (self.metrics.get(metric) or {}).get("mode")


@dataclass
class Trial:
    """What the log says of one trial.

    Attributes:
        state: one of `FINAL_STATES`, or "running".
        sampled: the values of the searched keys; a key whose condition does not hold is absent.
        step, value: of its last `ended`; its reports know better where there are any.
        seconds: of all segments that have ended.
        open_segment: the segment that was handed out and has not ended; None otherwise.
    """

    trial: int
    state: str = "running"
    stop_reason: str = ""
    point: str = ""
    outside: tuple[str, ...] = ()
    sampled: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    segment: int = 0
    step: int = 0
    value: float = float("nan")
    seconds: float = 0.0
    open_segment: int | None = None
    session: int = 0


@dataclass(frozen=True)
class History:
    """The log of a sweep, read once.

    Attributes:
        state: of the sweep: "finished", "running" or "interrupted".
        held: whether a live process holds the lock.
    """

    trials: tuple[Trial, ...]
    state: str
    held: bool

    @property
    def has_open(self) -> bool:
        """Whether a trial's state hangs on the lock."""
        return any(trial.open_segment is not None for trial in self.trials)


def read_sweep(path: str | os.PathLike[str]) -> Sweep:
    """The sweep in a directory.

    Raises:
        SweepError: not a sweep directory, a newer format, or a `sweep.json` that lacks something.
    """
    directory = Path(path)
    file = directory / "sweep.json"
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
        return _sweep(directory, document)
    except (KeyError, TypeError, AttributeError) as error:
        raise SweepError(
            f"{file} breaks format {FORMAT}: missing or malformed {error}."
        ) from error


def _sweep(directory: Path, document: Mapping[str, Any]) -> Sweep:
    declared = document.get("objectives") or [document["objective"]]
    space = document.get("space") or {}
    resources = document.get("resources") or {}
    points = [
        Point(point["name"], dict(point["settings"]), tuple(point.get("outside") or ()))
        for point in document.get("points") or ()
    ]
    return Sweep(
        path=directory,
        system=document["system"],
        created=float(document.get("created") or 0.0),
        settings=dict(document["settings"]),
        space=str(space.get("name", "")),
        domains=dict(space.get("domains") or {}),
        points=tuple(points),
        objectives=tuple(Objective(item["metric"], item["mode"]) for item in declared),
        metrics=dict(document.get("metrics") or {}),
        terms=tuple(document.get("terms") or ()),
        trials=int(document.get("trials") or 0),
        gpus=float(resources.get("gpus") or 0.0) * float(resources.get("workers") or 1),
        document=document,
    )


def read_history(sweep: Sweep) -> History:
    """What the log says now. A sweep whose log does not exist yet has no trials."""
    path = sweep.path / "log.jsonl"
    events = read_events(path) if path.exists() else []
    held = is_held(sweep.path)
    return History(trials=replay(events, held), state=_sweep_state(events, held), held=held)


def replay(events: Sequence[Mapping[str, Any]], held: bool) -> tuple[Trial, ...]:
    """The trials by number, after all events; events of an unknown name are passed over.

    A segment that was handed out and never ended is "running" if the session that handed it out
    still holds the lock, and "interrupted" otherwise: a later session does not run what an earlier
    one had begun.
    """
    trials: dict[int, Trial] = {}
    session = 0
    for event in events:
        name = event["event"]
        if name in ("started", "resumed"):
            session += 1
        elif name == "handed_out":
            trial = trials.setdefault(event["trial"], Trial(event["trial"]))
            _hand_out(trial, event, session)
        elif name == "ended":
            trial = trials.setdefault(event["trial"], Trial(event["trial"]))
            _end(trial, event)
    for trial in trials.values():
        if trial.open_segment is not None and not (held and trial.session == session):
            trial.state = "interrupted"
    return tuple(trials[number] for number in sorted(trials))


def _hand_out(trial: Trial, event: Mapping[str, Any], session: int) -> None:
    trial.state, trial.stop_reason = "running", ""
    trial.segment = trial.open_segment = event.get("segment", 0)
    trial.session = session
    trial.point = event.get("point") or ""
    trial.outside = tuple(event.get("outside") or ())
    trial.sampled = dict(event.get("sampled") or {})
    trial.seed = event.get("seed") or 0


def _end(trial: Trial, event: Mapping[str, Any]) -> None:
    trial.seconds += event.get("seconds") or 0.0
    if event.get("segment", 0) != trial.segment:
        return  # the end of an older segment came late; the newer one decides
    trial.open_segment = None
    trial.state = event["state"]
    trial.stop_reason = event.get("reason") or ""
    trial.step = event.get("step") or 0
    value = event.get("value")
    trial.value = float("nan") if value is None else float(value)


def _sweep_state(events: Sequence[Mapping[str, Any]], held: bool) -> str:
    marks = [
        event["event"] for event in events if event["event"] in ("started", "resumed", "finished")
    ]
    if marks and marks[-1] == "finished":
        return "finished"
    return "running" if held else "interrupted"
