"""Decisions of a sweep, and the only writer of its log: Ray's driver and the simulator both use
it, so they decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from search.failing import least_charge, too_many_failed
from search.jobs import Ask, Done, Job, Wait, next_job
from search.log import COMPLETE, FAILED, INTERRUPTED, PAUSED, STOPPED, Event, SweepState
from search.objectives import Values
from search.plan import Plan
from search.rule import rule
from search.samplers.ask import ask
from settings.stop_reasons import PATIENCE, no_objective

LOSSES = 3
"""Number of nodes lost in a row without notice, while a trial on them makes no progress, from
which on a loss counts as a failure: such a trial is more likely the cause (it takes all memory of
its node) than the victim, and would bring down nodes for ever.
"""


class Decider:
    """Decides from the log, and logs every decision before anything acts on it.

    Args:
        append: stores an event (its name, its fields) where it outlives this process.
        events: the log so far.
        draw: draws the settings of new trials; the plan's sampler by default.
    """

    def __init__(
        self,
        plan: Plan,
        append: Callable[..., None],
        events: Iterable[Event] = (),
        draw: Ask = ask,
    ) -> None:
        self.plan, self._append, self._draw = plan, append, draw
        self.state = SweepState(events)

    def record(self, event: str, **fields: object) -> None:
        """Adds an event to the log, and then to the state that decisions are made from."""
        self._append(event, **fields)
        self.state.apply({"event": event, **fields})

    def next(self) -> Job | Wait | Done:
        """The next job for a free slot, which is not logged yet (`hand_out`)."""
        if self.state.count(INTERRUPTED):  # they would be running, had nobody stopped the sweep
            return next_job(self.plan, self.state, self._draw)
        reason = too_many_failed(self.plan, self.state)
        if reason and (live := self.state.live):
            return Wait(tuple(live))  # what one of them reports may end the row
        job = next_job(self.plan, self.state, self._draw)
        return Done(reason) if reason and isinstance(job, Job) else job

    def hand_out(self, job: Job, notes: Sequence[str] = ()) -> None:
        """Logs that a job begins."""
        self.record(
            "handed_out",
            trial=job.trial,
            segment=job.segment,
            point=job.point,
            outside=list(job.outside),
            sampled=dict(job.sampled),
            seed=job.seed,
            bracket=job.bracket,
            repeat_of=job.repeat_of,
            start="newest" if job.resume else None,
            **{"from": list(job.start) if job.start else None},
            stop_step=job.stop_step,
            notes=list(notes),
        )

    def reported(self, job: Job, step: int, values: Values) -> str:
        """Logs a report of a running job at a rung. Returns why the trial must stop now, "" if it
        may continue.
        """
        if step not in self.plan.rungs or job.repeat_of is not None:
            return ""
        trial = self.state.trials[job.trial]
        verdict = rule(self.plan, self.state).verdict(self.state, trial, step, values)
        spared = trial.point is not None
        self.record(
            "rung",
            trial=job.trial,
            segment=job.segment,
            step=step,
            value=_plain(self.plan.goal.value(values)),
            values=self._values(values),
            judged=verdict.judged and not (spared and self.plan.pausing),
            passed=verdict.passed or spared,
        )
        return "" if spared else verdict.stop

    def ended(
        self,
        job: Job,
        step: int,
        values: Values,
        *,
        state: str = "",
        reason: str = "",
        seconds: float = 0.0,
        node_gone: bool = False,
        hopeless: bool = False,
    ) -> None:
        """Logs the end of a job. A training that would be complete has failed where an objective
        has no finite value at its last report: the same seed would end there again.

        Args:
            state: the trial's new state, where something other than the training itself has ended
                it; "" derives it from the reason (`end_state`).
            node_gone: whether its node has disappeared without notice.
            hopeless: of a failure, whether it is no use to try again.
        """
        least = least_charge(self.plan)
        if not state:
            state = self.end_state(job, step, reason)
            missing = self.plan.goal.missing(values) if state == COMPLETE else []
            if missing:
                state, reason, hopeless = FAILED, no_objective(missing, step), True
                least = 0  # it is charged what it trained
        holds = state == COMPLETE and job.repeat_of is None
        failures = self.state.trials[job.trial].failures
        is_last = state == FAILED and (hopeless or failures >= self.plan.max_failures)
        self.record(
            "ended",
            trial=job.trial,
            segment=job.segment,
            state=state,
            step=step,
            value=_plain(self.plan.goal.value(values)),
            values=self._values(values),
            # A training that has stopped improving keeps its value at the rungs it does not reach.
            holds=[level for level in self.plan.levels if level >= step] if holds else [],
            reason=reason,
            seconds=seconds,
            **({"node_gone": True} if node_gone else {}),
            **({"charged": least} if is_last else {}),
            **({"hopeless": True} if hopeless else {}),
        )

    def losses(self, job: Job, step: int) -> int:
        """The number of nodes lost in a row without notice under a job's trial, one at this step
        included (`LOSSES`).
        """
        return self.state.trials[job.trial].losses_at(step)

    def end_state(self, job: Job, step: int, reason: str) -> str:
        """The state of a trial whose training has ended by itself or by a verdict; "" where it has
        ended early without a reason.
        """
        if reason:
            return COMPLETE if reason.startswith(PATIENCE) else STOPPED
        if step >= self.plan.steps:
            return COMPLETE
        return PAUSED if step >= job.stop_step else ""

    def _values(self, values: Values) -> dict[str, float | None]:
        return {column: _plain(values.get(column, math.nan)) for column in self.plan.goal.columns}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
