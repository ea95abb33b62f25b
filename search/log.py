"""The state of a sweep as a view over its log of decisions. Nothing else is remembered, so a
resumed sweep is one whose log has been read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from settings.schema import tupled
from settings.stop_reasons import HEALTH

Event = Mapping[str, Any]
"""One line of the log: `event` and its fields. Unknown events and fields are left alone."""

_OF_A_TRIAL = ("handed_out", "rung", "ended")

RUNNING, PAUSED, COMPLETE, STOPPED = "running", "paused", "complete", "stopped"
FAILED, INTERRUPTED = "failed", "interrupted"
SOUND = (COMPLETE, STOPPED, PAUSED)
"""Of trials whose last segment has ended well."""


@dataclass(frozen=True)
class Span:
    """A stretch of training under one configuration.

    Attributes:
        sampled: settings that differ from the sweep's.
        start: the checkpoint of another trial, (trial, step), that it began from; None for the
            trial's own.
    """

    sampled: Mapping[str, Any]
    start: tuple[int, int] | None = None


@dataclass
class TrialRecord:
    """One trial as the log tells it.

    Attributes:
        sampled: settings that differ from the sweep's, of the latest segment.
        point: name of the documented point, None for a trial that was asked for.
        outside: keys whose values the space cannot express; the sampler learns nothing from a
            trial that has any.
        bracket: the index of the first rung at which the trial is judged.
        repeat_of: the trial that this one repeats with a fresh seed; None for no repeat.
        segment, stop_step: of the latest job.
        start: the checkpoint of another trial, (trial, step), that the latest segment continued
            from; None for its own.
        status: running | paused | complete | stopped | failed | interrupted, of the latest job.
        failures: how many jobs of the trial failed.
        is_hopeless: whether it would fail again however often it is tried.
        values: the columns that decisions read, at the last report; one that is absent was not
            finite.
        rungs: such values at every rung that the trial has reached, by step.
        spans: by the step at which it began, each stretch of training; a segment that was cut
            short and begun again is one.
        seconds: duration of all segments that have ended.
        begun_before: number of the next new trial when the latest segment ended.
        losses, lost_step: number of nodes that have disappeared without notice under the trial
            since it last made progress, and the furthest step at which one did.
    """

    number: int
    sampled: dict[str, Any]
    point: str | None
    outside: tuple[str, ...]
    seed: int
    segment: int
    bracket: int = 0
    repeat_of: int | None = None
    stop_step: int = 0
    start: tuple[int, int] | None = None
    status: str = RUNNING
    failures: int = 0
    is_hopeless: bool = False
    step: int = 0
    value: float = math.nan
    values: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    rungs: dict[int, dict[str, float]] = field(default_factory=dict)
    spans: dict[int, Span] = field(default_factory=dict)
    seconds: float = 0.0
    begun_before: int = 0
    losses: int = 0
    lost_step: int = -1

    def losses_at(self, step: int) -> int:
        """The number of losses in a row if another node is lost at this step."""
        return self.losses + 1 if step <= self.lost_step else 1

    @property
    def is_asked_for(self) -> bool:
        """Whether the sampler drew it: neither a documented point nor a repeat."""
        return self.point is None and self.repeat_of is None

    def is_final(self, max_failures: int) -> bool:
        """Whether it will not run again. A paused trial may, and so may one that has failed no
        more than `max_failures` times (`Plan.max_failures`).
        """
        return self.status in (COMPLETE, STOPPED) or self.has_failed(max_failures)

    def has_failed(self, max_failures: int) -> bool:
        """Whether it failed and will not be run again."""
        return self.status == FAILED and (self.is_hopeless or self.failures > max_failures)

    @property
    def infeasible(self) -> bool:
        """Whether a health check has stopped it: not a result, however good its values were."""
        return self.status == STOPPED and self.reason.startswith(HEALTH)


class SweepState:
    """The state of a sweep: its trials by number, and the trials that each rung has recorded.

    Attributes:
        rungs: by step, the trials with a value at a rung, in the order of their first report.
        ladders: by (bracket, step), the trials that were judged there.
        promoted: by (bracket, step), those of them that were promoted or passed.
        steps: training steps handed out, by bracket; those that an ended segment did not use are
            taken off again, down to the least that a failed trial is charged, and repeats are not
            counted.
        failed_in_a_row: number of trials that have failed for good since the last report.
        failed_before, sound_before: the trials that had failed, and how many had not, when the
            sweep was resumed with other limits on failures, which count from there on; one that is
            tried again after that counts again.
        finished: whether the last session has ended the sweep.
        gave_up: why the last session has ended it for its failures; "" where it has not.
        own_trials: number of trials that are no repeats.
        asked_for: the trials that the sampler drew, in the order of the log.
        next_number: the number of the next new trial.
        changes: the trial of every event, in the order of the log; a ranking reads from where it
            was last up to date (`search.rankings`).
        replaced: how often a trial has reported a rung again with other values.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.trials: dict[int, TrialRecord] = {}
        self.rungs: dict[int, dict[int, None]] = {}
        self.ladders: dict[tuple[int, int], dict[int, None]] = {}
        self.promoted: dict[tuple[int, int], set[int]] = {}
        self.steps: dict[int, int] = {}
        self.failed_in_a_row = 0
        self.failed_before: set[int] = set()
        self.sound_before = 0
        self._limits: list[float] | None = None
        self.finished = False
        self.gave_up = ""
        self.own_trials = 0
        self.asked_for: list[int] = []
        self.next_number = 0
        self.changes: list[int] = []
        self.replaced = 0
        self._by_status: dict[str, dict[int, None]] = {}
        for event in events:
            self.apply(event)

    @property
    def live(self) -> list[int]:
        """Numbers of the trials whose job has been handed out and has not ended."""
        return self.with_status(RUNNING)

    def with_status(self, *statuses: str) -> list[int]:
        """Numbers of the trials in one of the given states, in ascending order."""
        return sorted(n for status in statuses for n in self._by_status.get(status, ()))

    def count(self, status: str) -> int:
        """The number of trials in a state."""
        return len(self._by_status.get(status, ()))

    def observed(self, number: int, step: int) -> dict[str, float]:
        """The values of a trial at a rung; {} for an infeasible one."""
        return self.observed_by([number], step)[0]

    def observed_by(self, numbers: Iterable[int], step: int) -> list[dict[str, float]]:
        """The values of several trials at a rung; {} for an infeasible one."""
        trials = self.trials
        return [
            {} if (t := trials[number]).status == STOPPED and t.infeasible else t.rungs[step]
            for number in numbers
        ]

    def apply(self, event: Event) -> None:
        """Takes the next line of the log into account."""
        kind = event.get("event")
        if kind in ("started", "resumed"):
            self._set_limits(event.get("limits"))
        if kind in _OF_A_TRIAL:
            if kind == "handed_out":
                self._hand_out(event)
            elif kind == "rung":
                self._record_rung(event)
            else:
                self._end(event)
            self.changes.append(event["trial"])
        elif kind == "resumed":
            self.finished, self.gave_up = False, ""
            # The session that ran them is gone, so whatever it had not ended was interrupted.
            for number in self.live:
                self.changes.append(number)
                self._give_back(self.trials[number], self.trials[number].step)
                self._set_status(self.trials[number], INTERRUPTED)
        elif kind == "finished":
            self.finished = True
        elif kind == "gave_up":
            self.gave_up = event["reason"]

    def _set_limits(self, limits: list[float] | None) -> None:
        """Counts failures anew under other limits; a log of an earlier version has fewer of
        them.
        """
        if limits is None:
            return
        known = limits if self._limits is None else self._limits
        if any(now != before for now, before in zip(limits, known)):  # noqa: B905 - see above
            self.failed_in_a_row = 0
            self.failed_before = set(self.with_status(FAILED))
            self.sound_before = sum(map(self.count, SOUND))
        self._limits = limits

    def _set_status(self, trial: TrialRecord, status: str) -> None:
        self._by_status.get(trial.status, {}).pop(trial.number, None)
        trial.status = status
        self._by_status.setdefault(status, {})[trial.number] = None

    def _hand_out(self, event: Event) -> None:
        number = event["trial"]
        trial = self.trials.get(number)
        if trial is not None and event["segment"] <= trial.segment:
            return
        sampled = {key: tupled(value) for key, value in event["sampled"].items()}
        if trial is None:
            trial = self.trials[number] = TrialRecord(
                number=number,
                sampled=sampled,
                point=event.get("point"),
                outside=tuple(event.get("outside") or ()),
                seed=event["seed"],
                segment=event["segment"],
                bracket=event.get("bracket", 0),
                repeat_of=event.get("repeat_of"),
            )
            self.own_trials += trial.repeat_of is None
            self.next_number = max(self.next_number, number + 1)
            if trial.is_asked_for:
                self.asked_for.append(number)
        elif trial.status == PAUSED:
            self.promoted.setdefault((trial.bracket, trial.step), set()).add(number)
        self.failed_before.discard(number)
        fresh = trial.status == PAUSED or not trial.spans
        trial.segment, trial.reason, trial.sampled = event["segment"], "", sampled
        trial.start = tuple(event["from"]) if event.get("from") else None
        trial.stop_step = event.get("stop_step", 0)
        if trial.start:
            trial.step = trial.start[1]
        if fresh:
            trial.spans[trial.step] = Span(sampled, trial.start)
        self._charge(trial, trial.stop_step - trial.step)
        self._set_status(trial, RUNNING)

    def _charge(self, trial: TrialRecord, steps: int) -> None:
        if trial.repeat_of is not None:
            return  # a repeat confirms what the search has found; it is no part of its budget
        self.steps[trial.bracket] = self.steps.get(trial.bracket, 0) + steps

    def _give_back(self, trial: TrialRecord, step: int) -> None:
        self._charge(trial, -max(trial.stop_step - step, 0))

    def _current(self, event: Event) -> TrialRecord | None:
        """The trial of a report or an end; None where it comes from an earlier segment."""
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
        step, values = event["step"], _finite(event.get("values") or {})
        self._put(trial, step, values)
        if event.get("judged"):
            self.ladders.setdefault((trial.bracket, step), {})[trial.number] = None
            if event.get("passed"):
                self.promoted.setdefault((trial.bracket, step), set()).add(trial.number)
        trial.step, trial.values, trial.value = step, values, _number(event.get("value"))
        self.failed_in_a_row = 0

    def _put(self, trial: TrialRecord, step: int, values: dict[str, float]) -> None:
        self.replaced += trial.rungs.get(step, values) != values
        trial.rungs[step] = values
        self.rungs.setdefault(step, {})[trial.number] = None

    def _end(self, event: Event) -> None:
        trial = self._current(event)
        if trial is None:
            return
        if event["state"] == FAILED and trial.status != FAILED:
            trial.failures += 1
        trial.is_hopeless = trial.is_hopeless or bool(event.get("hopeless"))
        self._count_in_a_row(event, has_reported=(event.get("step") or 0) > trial.step)
        trial.reason = event.get("reason") or ""
        trial.seconds += event.get("seconds") or 0.0
        trial.begun_before = self.next_number
        self._count_loss(trial, event)
        if event.get("step") is not None:
            trial.step = event["step"]
        if event["state"] in (COMPLETE, STOPPED, PAUSED) or event.get("value") is not None:
            trial.value = _number(event.get("value"))
            trial.values = _finite(event.get("values") or {})
        for rung in event.get("holds") or ():
            self._put(trial, rung, trial.values)
        if trial.status == RUNNING:
            self._give_back(trial, max(trial.step, event.get("charged") or 0))
        self._set_status(trial, event["state"])

    def _count_in_a_row(self, event: Event, has_reported: bool) -> None:
        """A failure that will be tried again counts as nothing yet."""
        state = event["state"]
        if has_reported or state not in (FAILED, INTERRUPTED):
            self.failed_in_a_row = 0
        if state == FAILED and "charged" in event:
            self.failed_in_a_row += 1

    @staticmethod
    def _count_loss(trial: TrialRecord, event: Event) -> None:
        """Counts nodes lost in a row. Only the trial's own end or failure ends the row: an
        announced preemption or a stop of the sweep says nothing about the trial.
        """
        if event.get("node_gone"):
            trial.losses = trial.losses_at(event["step"])
            trial.lost_step = max(trial.lost_step, event["step"])
        elif event["state"] != INTERRUPTED:
            trial.losses, trial.lost_step = 0, -1


def _number(value: float | None) -> float:
    """NaN for null, which the log has in place of a value that is not finite."""
    return math.nan if value is None else float(value)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if value is not None}
