"""The next job of a sweep, a function of the plan and the log. A job is a segment of a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from search import repeats
from search.log import FAILED, INTERRUPTED, SweepState, TrialRecord
from search.plan import Plan
from search.rule import rule
from search.samplers.ask import ask
from search.schedulers.base import Continuation, Start
from search.seeds import derive

Ask = Callable[[Plan, SweepState, int, int], Mapping[str, Any]]
"""Draws the settings of a new trial: (plan, state, number, bracket) -> values by key."""


@dataclass(frozen=True)
class Job:
    """One segment of a trial.

    Attributes:
        segment: 0 for a new trial, one more at each continuation.
        sampled: settings that differ from the sweep's.
        outside, bracket, repeat_of: see `TrialRecord`.
        stop_step: the step at which the segment ends.
        resume: continue from the newest checkpoint, or from the start where there is none.
        start: the checkpoint (trial, step) of another trial to begin from instead.
    """

    trial: int
    segment: int
    sampled: Mapping[str, Any]
    point: str | None
    outside: tuple[str, ...]
    seed: int
    stop_step: int
    resume: bool
    bracket: int = 0
    repeat_of: int | None = None
    start: tuple[int, int] | None = None


@dataclass(frozen=True)
class Wait:
    """Nothing to hand out until one of these trials ends."""

    live: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """Nothing more is handed out: every trial of the plan has its final state, or there is a
    reason to end the sweep before.
    """

    reason: str = ""


def next_job(plan: Plan, state: SweepState, draw: Ask = ask) -> Job | Wait | Done:
    """The next job: interrupted trials first, then failed ones that may try again, those that the
    scheduler promotes, new ones, and at the end the repeats of the best.

    Within each group the lowest number comes first; new trials are the documented points and then
    what the sampler asks for. The caller logs the job as handed out before it asks again.
    """
    for number in state.with_status(INTERRUPTED):
        return _go_on(state.trials[number])
    for number in state.with_status(FAILED):
        if not state.trials[number].has_failed(plan.max_failures):
            return _go_on(state.trials[number])
    job = _promoted_or_new(plan, state, draw)
    if job is not None:
        return job
    live = state.live
    if all(state.trials[number].repeat_of is not None for number in live):
        job = _repeat(plan, state)
        if job is not None:
            return job
    return Wait(tuple(live)) if live else Done()


def _promoted_or_new(plan: Plan, state: SweepState, draw: Ask) -> Job | None:
    """A promotion or a new trial within the budget; once nothing runs, what the scheduler closes
    the sweep with, whatever it costs.
    """
    spent = plan.budget is not None and sum(state.steps.values()) >= plan.budget * plan.steps
    promotion = None if spent else rule(plan, state).promotion(state)
    started = state.own_trials
    if promotion is None and not spent and started < plan.trials:
        return _new(plan, state, started, draw)
    if promotion is None and not state.live:
        promotion = rule(plan, state).closing(state)
    return _promote(state.trials[promotion.trial], promotion) if promotion else None


def _go_on(trial: TrialRecord) -> Job:
    """The job that runs an interrupted segment again, from the newest checkpoint."""
    return _segment(trial, trial.stop_step, trial.sampled, trial.start)


def _promote(trial: TrialRecord, promotion: Continuation) -> Job:
    sampled = trial.sampled if promotion.sampled is None else promotion.sampled
    return _segment(trial, promotion.stop_step, sampled, promotion.start)


def _segment(
    trial: TrialRecord,
    stop_step: int,
    sampled: Mapping[str, Any],
    start: tuple[int, int] | None,
) -> Job:
    return Job(
        trial=trial.number,
        segment=trial.segment + 1,
        sampled=sampled,
        point=trial.point,
        outside=trial.outside,
        seed=trial.seed,
        stop_step=stop_step,
        resume=True,
        bracket=trial.bracket,
        repeat_of=trial.repeat_of,
        start=start,
    )


def _new(plan: Plan, state: SweepState, started: int, draw: Ask) -> Job:
    number = state.next_number
    point = plan.points[started] if started < len(plan.points) else None
    if point is not None:
        start = Start(plan.steps, len(plan.rungs))
    else:
        start = rule(plan, state).start(state)
    return Job(
        trial=number,
        segment=0,
        sampled=dict(point.sampled) if point else draw(plan, state, number, start.bracket),
        point=point.name if point else None,
        outside=point.outside if point else (),
        seed=derive(plan.seed, "trial", 0 if plan.paired else number),
        stop_step=start.stop_step,
        resume=False,
        bracket=start.bracket,
    )


def _repeat(plan: Plan, state: SweepState) -> Job | None:
    repeat = repeats.next_repeat(plan, state)
    if repeat is None:
        return None
    original, draw = state.trials[repeat.trial], repeat.draw
    return Job(
        trial=state.next_number,
        segment=0,
        sampled=original.sampled,
        point=None,
        outside=original.outside,
        seed=derive(plan.seed, "repeat", 0 if plan.paired else original.number, draw),
        stop_step=plan.steps,
        resume=False,
        bracket=len(plan.rungs),
        repeat_of=original.number,
    )
