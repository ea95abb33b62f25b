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

PROBE_BYTES = 1 << 16
"""What must fit on a disk that is not called full: some checkpoint of a small model would not."""


@dataclass
class Running:
    """A segment that Ray is running."""

    job: Job
    began: float
    step: int = 0
    value: float = math.nan
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Driver:
    """The one writer of a sweep's log.

    Attributes:
        max_concurrent: segments at a time.
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
    tick: Callable[[], None] = lambda: None
    stopping: str = ""
    running: dict[str, Running] = field(default_factory=dict)
    state: SweepState = field(init=False)

    def __post_init__(self) -> None:
        self.state = SweepState()
        for event in self.log.read():
            self.state.apply(event)

    def record(self, event: str, **fields: Any) -> None:
        """Log first, then the state that decisions are made from, then the mirror."""
        self.log.append(event, **fields)
        self.state.apply({"event": event, **fields})
        self.mirror.follow({"event": event, **fields})

    def next(self, ray_id: str) -> Job | Wait | Done:
        """The next segment for a free slot, written to the log before it is handed out."""
        if self.stopping:
            return Done()
        if len(self.running) >= self.max_concurrent:
            return Wait(tuple(self.state.live))
        job = next_job(self.plan, self.state)
        if not isinstance(job, Job):
            return job
        self.record(
            "handed_out",
            trial=job.trial,
            segment=job.segment,
            point=job.point,
            outside=list(job.outside),
            sampled=dict(job.sampled),
            seed=job.seed,
            start="newest" if job.resume else None,
            start_step=job.start_step,
            stop_step=job.stop_step,
            notes=self.preflight(dict(job.sampled)),
        )
        self.running[ray_id] = Running(job, time.monotonic())
        return job

    def reported(self, ray_id: str, step: int, value: float, seconds: float) -> bool:
        """One report; whether the trial must stop now."""
        current = self.running.get(ray_id)
        if current is None or step <= current.step:
            return False
        current.step, current.value, current.seconds = step, value, seconds
        job = current.job
        if step in self.plan.rungs:
            current.reason = should_stop(self.plan, self.state, job.trial, step, value) or ""
            shown = value if math.isfinite(value) else None
            self.record("rung", trial=job.trial, segment=job.segment, step=step, value=shown)
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
            seconds=round(time.monotonic() - current.began, 4),
        )

    def _verdict(self, current: Running, failed: bool) -> tuple[str, str]:
        if failed:
            problem = self._storage_problem()
            if problem:
                self.stopping = self.stopping or problem
                return "interrupted", problem
            return "failed", self._error_line(current.job)
        if current.reason:
            return "stopped", current.reason
        if current.step >= current.job.stop_step:
            return "complete", ""
        return "interrupted", self.stopping or "it ended before its last step"

    def _error_line(self, job: Job) -> str:
        """The first line of the trial's own `error.txt`; a process that was killed has left
        none.
        """
        path = self.context.trial_directory(job.trial) / "error.txt"
        if not path.exists() or not path.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "The trial's process ended without an error of its own: it was killed, ran out of "
                "memory, or its "
                "node is gone.\n"
            )
        return path.read_text().splitlines()[0][:500]

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
