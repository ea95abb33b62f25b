"""Carries decisions from `search/` to Ray and what Ray says back into the log.

Everything that is decided is a function of the log and the seed, so a driver that died is
replaced by one that reads the same log. An event is on disk before anything acts on it.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_jobs.engine import groups
from ray_jobs.engine.trial import SweepContext
from results.store import EventLog
from search.jobs import Done, Job, Wait, next_job
from search.log import SweepState
from search.mirror import Mirror
from search.plan import Plan
from search.stopping import should_stop
from trainables.run import PATIENCE, SupersededError

PROBE_BYTES = 1 << 16
"""What must fit on a disk that is not called full: some checkpoint of a small model would not."""


@dataclass
class Running:
    """A segment that Ray is running, or has yet to find a place for.

    Attributes:
        began: when it had its place, by its own node's clock; waiting for one is nobody's time.
        reason: why it is stopped, or has ended by itself; "" for neither.
    """

    job: Job
    began: float | None = None
    step: int = 0
    value: float = math.nan
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Driver:
    """The one writer of a sweep's log.

    Attributes:
        max_concurrent: segments at a time.
        still_owner: whether the sweep's lock still bears this session.
        preflight: what speaks against a trial's values, in words; written with the segment that
            is handed out.
        tick: called at every turn of Tune's loop.
        stopping: why no new segment is handed out any more ("" while it goes on).
    """

    plan: Plan
    context: SweepContext
    log: EventLog
    mirror: Mirror
    max_concurrent: int
    preflight: Callable[[dict[str, Any]], list[str]]
    still_owner: Callable[[], bool] = lambda: True
    tick: Callable[[], None] = lambda: None
    stopping: str = ""
    running: dict[str, Running] = field(default_factory=dict)
    state: SweepState = field(init=False)

    def __post_init__(self) -> None:
        self.state = SweepState()
        for event in self.log.read():
            self.state.apply(event)

    def record(self, event: str, **fields: Any) -> None:
        """Log first, then the state that decisions are made from, then the mirror.

        Raises:
            SupersededError: another process has taken the sweep over.
        """
        if not self.still_owner():
            raise SupersededError(
                f"{self.context.root}: another process has taken this sweep over."
            )
        self.log.append(event, **fields)
        self.state.apply({"event": event, **fields})
        self.mirror.follow({"event": event, **fields})

    def next(self, ray_id: str) -> Job | Wait | Done:
        """The next segment for a free slot, written to the log before it is handed out."""
        if self.stopping:
            return Done()
        if len(self.running) >= self.max_concurrent:
            return Wait(tuple(self.state.live))
        while isinstance(job := next_job(self.plan, self.state), Job):
            try:
                notes = self.preflight(dict(job.sampled))
            except (ValueError, RuntimeError) as error:  # a draw that breaks a rule between keys
                self._hand_out(job, [])
                self._refuse(job, error)
                continue
            self._hand_out(job, notes)
            self.running[ray_id] = Running(job)
            return job
        return job

    def _hand_out(self, job: Job, notes: list[str]) -> None:
        self.record(
            "handed_out",
            trial=job.trial,
            segment=job.segment,
            point=job.point,
            outside=list(job.outside),
            sampled=dict(job.sampled),
            seed=job.seed,
            start="newest" if job.resume else None,
            stop_step=job.stop_step,
            notes=notes,
        )

    def _refuse(self, job: Job, error: Exception) -> None:
        """Ends a segment that could not begin; the sweep goes on with the next one."""
        path = self._error_file(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{type(error).__name__}: {error}\n")
        self.record(
            "ended",
            trial=job.trial,
            segment=job.segment,
            state="failed",
            step=0,
            value=None,
            reason=self._error_line(job),
            seconds=0.0,
        )

    def reported(
        self,
        ray_id: str,
        step: int,
        value: float,
        seconds: float,
        began: float,
        own_reason: str = "",
    ) -> bool:
        """One report; whether the trial must stop now.

        With `own_reason` the training has ended by itself (patience, overfitting) and returns
        without being stopped. What it says goes before a rule's verdict on the same report, and
        holds for documented points as well.
        """
        current = self.running.get(ray_id)
        if current is None:
            return False
        if current.began is None:
            current.began = began
        if step <= current.step:
            return False
        current.step, current.value, current.seconds = step, value, seconds
        job = current.job
        if step in self.plan.rungs:
            current.reason = should_stop(self.plan, self.state, job.trial, step, value) or ""
            shown = value if math.isfinite(value) else None
            self.record("rung", trial=job.trial, segment=job.segment, step=step, value=shown)
        if own_reason:
            current.reason = own_reason
            return False
        return bool(current.reason)

    def ended(self, ray_id: str, *, failed: bool) -> None:
        """A segment is over: at its end, stopped by a rule, failed, or because the sweep is being
        stopped.
        """
        current = self.running.pop(ray_id, None)
        if current is None:
            return
        job = current.job
        if self.context.workers > 1:
            groups.release(groups.mark_of(self.context.session, job.trial, job.segment))
        state, reason = self._verdict(current, failed)
        self.record(
            "ended",
            trial=job.trial,
            segment=job.segment,
            state=state,
            step=current.step,
            value=current.value if math.isfinite(current.value) else None,
            reason=reason,
            seconds=0.0 if current.began is None else round(time.time() - current.began, 4),
        )

    def _verdict(self, current: Running, failed: bool) -> tuple[str, str]:
        if failed:
            problem = self._storage_problem()
            if problem:
                self.stopping = self.stopping or problem
                return "interrupted", problem
            if self.stopping and not self._error_file(current.job).exists():
                return "interrupted", self.stopping  # its process was told to end as well
            return "failed", self._error_line(current.job)
        if current.reason:
            # A training that ran out of patience has learnt what it can: a full result.
            patient = current.reason.startswith(PATIENCE)
            return "complete" if patient else "stopped", current.reason
        if current.step >= current.job.stop_step:
            return "complete", ""
        if self.stopping:
            return "interrupted", self.stopping
        return (
            "failed",
            f"it ended at step {current.step} of {current.job.stop_step} without an error",
        )

    def _error_line(self, job: Job) -> str:
        """The first line of the trial's own `error.txt`; a process that was killed has left
        none.
        """
        path = self._error_file(job)
        if not path.exists() or not path.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "The trial's process ended without an error of its own: it was killed, ran out of "
                "memory, or its node is gone.\n"
            )
        return path.read_text().splitlines()[0][:500]

    def _error_file(self, job: Job) -> Path:
        return self.context.trial_directory(job.trial) / "error.txt"

    def _storage_problem(self) -> str:
        """Why nothing can be written to the sweep any more, "" where it can.

        A trial that failed for this has done nothing wrong, and the next one would fail as well.
        """
        probe = self.context.root / ".probe"
        try:
            with probe.open("wb") as file:
                file.write(b"\0" * PROBE_BYTES)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return f"{self.context.root}: {error.strerror}"
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        return ""


def open_log(directory: Path, warn: Callable[[str], None]) -> EventLog:
    """The sweep's log, ready to append; a torn last line is cut off and said."""
    log = EventLog(directory / "log.jsonl")
    torn = log.open()
    if torn:
        warn(f"the last line of {log.path} was torn by a crash and is dropped: {torn[:60]!r}")
    return log
