"""What runs next. A job is a segment of a trial; the next one is a function of the plan and the
log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.log import COMPLETE, FAILED, INTERRUPTED, STOPPED, SweepState, TrialRecord
from search.plan import Plan
from search.sampler import ask
from search.seeds import derive


@dataclass(frozen=True)
class Job:
    """One segment of a trial.

    Attributes:
        segment: 0 for a new trial, one more at each continuation.
        sampled: settings that differ from the sweep's.
        outside: see `TrialRecord`.
        resume: continue from the newest checkpoint, or from the start where there is none.
    """

    trial: int
    segment: int
    sampled: Mapping[str, Any]
    point: str | None
    outside: tuple[str, ...]
    seed: int
    stop_step: int
    resume: bool


@dataclass(frozen=True)
class Wait:
    """Nothing to hand out until one of these trials ends."""

    live: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """Every trial of the plan has its final state."""


def next_job(plan: Plan, state: SweepState) -> Job | Wait | Done:
    """The next job: interrupted trials first, then failed ones that may try again, then new ones.

    Within each group the lowest number comes first; new trials are the documented points and then
    what the sampler asks for. The caller logs the job as handed out before it asks again.
    """
    for continued in (_interrupted, _to_retry):
        for number in sorted(state.trials):
            if continued(plan, state.trials[number]):
                return _continue(plan, state.trials[number])
    number = max(state.trials, default=-1) + 1
    if number < plan.trials:
        return _new(plan, state, number)
    live = state.live
    return Wait(tuple(live)) if live else Done()


def is_final(plan: Plan, trial: TrialRecord) -> bool:
    """Whether a trial will not run again."""
    return trial.status in (COMPLETE, STOPPED) or (
        trial.status == FAILED and not _to_retry(plan, trial)
    )


def _interrupted(plan: Plan, trial: TrialRecord) -> bool:
    return trial.status == INTERRUPTED


def _to_retry(plan: Plan, trial: TrialRecord) -> bool:
    return trial.status == FAILED and trial.failures <= plan.max_failures


def _continue(plan: Plan, trial: TrialRecord) -> Job:
    return Job(
        trial=trial.number,
        segment=trial.segment + 1,
        sampled=trial.sampled,
        point=trial.point,
        outside=trial.outside,
        seed=trial.seed,
        stop_step=plan.steps,
        resume=True,
    )


def _new(plan: Plan, state: SweepState, number: int) -> Job:
    point = plan.points[number] if number < len(plan.points) else None
    return Job(
        trial=number,
        segment=0,
        sampled=dict(point.sampled) if point else ask(plan, state, number),
        point=point.name if point else None,
        outside=point.outside if point else (),
        seed=derive(plan.seed, "trial", number),
        stop_step=plan.steps,
        resume=False,
    )
