"""Simulation of a sweep: the decisions of a real one under a simulated clock, on a function, a
table or logged curves.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from search.decider import Decider
from search.failing import limits_of
from search.jobs import Ask, Done, Job
from search.log import FAILED, INTERRUPTED, Event, SweepState, TrialRecord
from search.objectives import Values
from search.plan import Plan
from search.samplers.ask import ask

Observe = Callable[[Job, int], Values]
"""The values that a job's trial measures at a step; a function of the two alone."""

Ends = Callable[[Job], "tuple[int, str] | None"]
"""The step at which the training of a job's trial ends by itself, and why; None where it does
not.
"""


@dataclass
class Simulation:
    """A sweep that was simulated.

    Attributes:
        events: the log, each with `time` on the simulated clock.
        state: the sweep as the log tells it.
        seconds: when the last job ended.
        reason: why it ended before every trial had; "" where it did not.
    """

    events: list[dict[str, Any]]
    state: SweepState
    seconds: float = 0.0
    reason: str = ""


def simulate(
    plan: Plan,
    observe: Observe,
    *,
    workers: int = 1,
    step_seconds: Callable[[Job], float] = lambda job: 1.0,
    start_seconds: float = 0.0,
    ends: Ends = lambda job: None,
    fails: Callable[[Job], bool] = lambda job: False,
    events: Iterable[Event] = (),
    draw: Ask = ask,
) -> Simulation:
    """Runs a plan to its end, or to its budget, on `workers` slots.

    Args:
        step_seconds: duration of a step of the job.
        start_seconds: duration of what every segment does before its first step.
        ends: which trainings end by themselves.
        fails: which jobs fail, after one step and before any report.
        events: a log to continue.
        draw: draws the settings of new trials.
    """
    log = [dict(event) for event in events]

    def append(event: str, **fields: object) -> None:
        log.append({"time": simulation.seconds, "event": event, **fields})

    decider = Decider(plan, append, log, draw)
    simulation = Simulation(log, decider.state)
    decider.record("resumed" if log else "started", limits=limits_of(plan))
    running: list[tuple[float, int, Job, int]] = []
    order = 0
    while True:
        while len(running) < workers and isinstance(job := decider.next(), Job):
            begin, is_told = _begin(decider.state.trials.get(job.trial), job)
            decider.hand_out(job)
            order += 1
            first = begin if is_told else _next_visit(plan, job, begin, ends(job))
            first = begin + 1 if fails(job) else first
            when = simulation.seconds + start_seconds + (first - begin) * step_seconds(job)
            heapq.heappush(running, (when, order, job, first))
        if not running:
            simulation.reason = job.reason if isinstance(job, Done) else ""
            if simulation.reason:
                decider.record("gave_up", reason=simulation.reason)
            else:
                decider.record("finished")
            return simulation
        simulation.seconds, place, job, step = heapq.heappop(running)
        if fails(job):
            begin = decider.state.trials[job.trial].step
            decider.ended(job, begin, {}, state=FAILED, reason="it fails")
            continue
        values = observe(job, step)
        reason = decider.reported(job, step, values)
        end = ends(job)
        if end is not None and step >= end[0]:  # it goes before a rule's verdict
            reason = end[1]
        if reason or step >= job.stop_step:
            decider.ended(job, step, values, reason=reason)
            continue
        following = _next_visit(plan, job, step, end)
        when = simulation.seconds + (following - step) * step_seconds(job)
        heapq.heappush(running, (when, place, job, following))


def _begin(trial: TrialRecord | None, job: Job) -> tuple[int, bool]:
    """The step of the checkpoint that a job continues from, and whether the job reports that step
    again: where a segment was cut short, the verdict on its last report may have been lost.
    """
    if job.start is not None:
        return job.start[1], False
    if trial is None:
        return 0, False
    return trial.step, trial.status == INTERRUPTED and trial.step > max(trial.spans)


def _next_visit(plan: Plan, job: Job, step: int, end: tuple[int, str] | None) -> int:
    """The step that the clock jumps to: the next rung, since nothing is decided between two, or
    the end of the training.
    """
    last = job.stop_step if end is None else min(job.stop_step, max(end[0], step))
    ahead = (level for level in plan.levels if step < level <= last)
    return next(ahead, last)
