"""The state of a sweep as a view over its log of decisions. Nothing else is remembered, so a
resumed sweep is one whose log has been read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
"""One line of the log: `event` and its fields. Unknown events and fields are left alone."""

RUNNING, COMPLETE, STOPPED = "running", "complete", "stopped"
FAILED, INTERRUPTED = "failed", "interrupted"


@dataclass
class TrialRecord:
    """One trial as the log tells it.

    Attributes:
        sampled: settings that differ from the sweep's.
        point: name of the documented point, None for a trial that was asked for.
        outside: keys for which the space cannot express the trial; not empty means the sampler is
            not told.
        segment: of the latest job.
        status: running | complete | stopped | failed | interrupted, of the latest job.
        failures: how many jobs of the trial failed.
        value: the objective at the last report, NaN where there is none.
        rungs: the objective by step of decision.
    """

    number: int
    sampled: dict[str, Any]
    point: str | None
    outside: tuple[str, ...]
    seed: int
    segment: int
    status: str = RUNNING
    failures: int = 0
    step: int = 0
    value: float = math.nan
    reason: str = ""
    rungs: dict[int, float] = field(default_factory=dict)


class SweepState:
    """Trials by number, and the values of every rung in the order in which they were first
    recorded.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.trials: dict[int, TrialRecord] = {}
        self.rung_records: dict[int, list[tuple[int, float]]] = {}
        for event in events:
            self.apply(event)

    @property
    def live(self) -> list[int]:
        """Numbers of the trials whose job has been handed out and has not ended."""
        return [number for number, trial in self.trials.items() if trial.status == RUNNING]

    def apply(self, event: Event) -> None:
        """Takes the next line of the log into account."""
        kind = event.get("event")
        if kind == "handed_out":
            self._hand_out(event)
        elif kind == "rung":
            self._record_rung(event)
        elif kind == "ended":
            self._end(event)
        elif kind == "resumed":
            # The session that ran them is gone, so whatever it had not ended was interrupted.
            for number in self.live:
                self.trials[number].status = INTERRUPTED

    def _hand_out(self, event: Event) -> None:
        number = event["trial"]
        known = self.trials.get(number)
        if known is None:
            self.trials[number] = TrialRecord(
                number=number,
                sampled={key: _from_json(value) for key, value in event["sampled"].items()},
                point=event.get("point"),
                outside=tuple(event.get("outside") or ()),
                seed=event["seed"],
                segment=event["segment"],
            )
        elif event["segment"] > known.segment:
            known.segment, known.status, known.reason = event["segment"], RUNNING, ""

    def _current(self, event: Event) -> TrialRecord | None:
        """The trial of a report or an end, None where it comes from an earlier segment."""
        trial = self.trials.get(event["trial"])
        if trial is None:
            raise ValueError(
                f"the log speaks of trial {event['trial']} ({event['event']}) before it was "
                "handed out: it is damaged or not in order."
            )
        return trial if event.get("segment", trial.segment) == trial.segment else None

    def _record_rung(self, event: Event) -> None:
        trial = self._current(event)
        if trial is None:
            return
        step, value = event["step"], _number(event.get("value"))
        if step not in trial.rungs:
            self.rung_records.setdefault(step, []).append((trial.number, value))
        trial.rungs[step] = value
        trial.step, trial.value = step, value

    def _end(self, event: Event) -> None:
        trial = self._current(event)
        if trial is None:
            return
        if event["state"] == FAILED and trial.status != FAILED:
            trial.failures += 1
        trial.status = event["state"]
        trial.reason = event.get("reason") or ""
        if event.get("step") is not None:
            trial.step = event["step"]
        if event["state"] in (COMPLETE, STOPPED) or event.get("value") is not None:
            trial.value = _number(event.get("value"))


def _number(value: Any) -> float:
    """The log writes null for what is not finite."""
    return math.nan if value is None else float(value)


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
