"""The driver of a sweep: passes decisions of `search/` to Ray, and writes what Ray reports to the
log.

Every decision is a function of the log and the seed, so a driver that died is replaced by one that
reads the same log. An event is on disk before anything acts on it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ray_jobs.engine import groups
from ray_jobs.engine.failures import cause_in
from ray_jobs.engine.nodes import NOTICE_SECONDS, STORAGE, Loss
from ray_jobs.engine.references_once import ReferencesOnce
from ray_jobs.engine.trial import SweepContext
from results.store import EventLog
from search.decider import LOSSES, Decider
from search.jobs import Done, Job, Wait
from search.log import FAILED, INTERRUPTED, Event, SweepState
from search.plan import Plan
from settings.paths import SweepPaths
from trainables.run import SupersededError, UnreadableLockError

PROBE_BYTES = 1 << 16
"""A disk without room for this counts as full: a checkpoint, even of a small model, is larger."""


_ACTED_ON_LATER = ("rung", "ended")
"""Events that are written without waiting for the disk. A report or an end may lead to a job,
which is on disk, with all lines before it, when it is handed out; or to a stop, before which the
driver waits for the disk. A trial that just goes on depends on no line: if a crash loses it, the
resumed trial reports the same again.
"""


class Follower(Protocol):
    """An object that is told of every event, such as a mirror."""

    def follow(self, event: Mapping[str, Any]) -> None: ...


@dataclass
class Running:
    """A segment that Ray is running, or has yet to find a place for.

    Attributes:
        step: of its last report; at first, where the segment begins. A resumed trial repeats
            reports that have been decided on, and those must not count twice.
        values: of its last report, what decisions read.
        seconds: of training at its last report, over all segments of the trial.
        segment_seconds: for how long it had run at its last report, by the monotonic clock of its
            process; None before the first. The wait for a place does not count.
        heard: when that came, by this process's monotonic clock.
        reason: why it is stopped, or has ended by itself; "" for neither.
        node_gone: whether its node, or the storage there, has gone without notice.
    """

    job: Job
    step: int = 0
    values: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    segment_seconds: float | None = None
    heard: float = 0.0
    reason: str = ""
    node_gone: bool = False

    @property
    def held_seconds(self) -> float:
        """For how long it has held its workers, by no clock but those of the two processes, each
        of which measures its own part: what it has told itself, and the time since then. What a
        report waits for this process is in neither, and of a segment that has never reported
        nothing is known.
        """
        if self.segment_seconds is None:
            return 0.0
        return self.segment_seconds + time.monotonic() - self.heard


@dataclass
class Driver:
    """The one writer of a sweep's log.

    Attributes:
        max_concurrent: segments at a time.
        still_owner: whether the sweep's lock still bears this session; from `owner_check`.
        lost_node: of a failed segment, and the seconds that it may take to find out: the node
            that the segment has lost, None where it has lost none.
        preflight: what speaks against a trial's values, in words; written with the segment that
            is handed out.
        tick: called at every turn of Tune's loop.
        stopping: why no new segment is handed out any more ("" while it goes on).
        references: which segment measures the references.
        gave_up: why the sweep was ended for its failures; "" where it was not.
        events: what the log holds, where it has been read already.
    """

    plan: Plan
    context: SweepContext
    log: EventLog
    mirror: Follower
    max_concurrent: int
    preflight: Callable[[dict[str, Any]], list[str]]
    still_owner: Callable[[], bool] = lambda: True
    lost_node: Callable[[Job, float], Loss | None] = lambda job, seconds: None
    tick: Callable[[], None] = lambda: None
    stopping: str = ""
    gave_up: str = ""
    events: InitVar[Sequence[Event] | None] = None
    running: dict[str, Running] = field(default_factory=dict)
    decider: Decider = field(init=False)
    references: ReferencesOnce = field(init=False)
    _left: list[Job] = field(default_factory=list)

    def __post_init__(self, events: Sequence[Event] | None) -> None:
        history = self.log.read() if events is None else events
        self.decider = Decider(self.plan, self._append, history)
        self.references = ReferencesOnce(self.context.paths)

    @property
    def state(self) -> SweepState:
        """The sweep's state by its log."""
        return self.decider.state

    def _append(self, event: str, **fields: Any) -> None:
        """Adds an event to the log, and then to the mirror.

        Raises:
            SupersededError: another process has taken the sweep over.
            OSError: the lock or the log cannot be used.
        """
        if not self.still_owner():
            raise SupersededError(
                f"{self.context.root}: another process has taken this sweep over."
            )
        if event in _ACTED_ON_LATER:
            self.log.write(event, **fields)
        else:
            self.log.append(event, **fields)
        self.mirror.follow({"event": event, **fields})

    def next(self, ray_id: str) -> Job | Wait | Done:
        """The next segment for a free slot, logged before it is handed out."""
        if self.stopping:
            return Done()
        if len(self.running) >= self.max_concurrent:
            return Wait(tuple(self.state.live))
        while isinstance(job := self.decider.next(), Job):
            if self.stopping:  # a signal may come between two draws that are refused
                return Done()
            try:
                notes = self.preflight(dict(job.sampled))
            except (ValueError, RuntimeError) as error:  # a draw that breaks a rule between keys
                self.decider.hand_out(job)
                self._refuse(job, error)
                continue
            self.decider.hand_out(job, notes)
            self._error_file(job).unlink(missing_ok=True)  # of the attempt before
            self.running[ray_id] = self._begun(job)
            return job
        if isinstance(job, Done) and job.reason:
            self.decider.record("gave_up", reason=job.reason)
            self.gave_up = self.stopping = job.reason
        return job

    def _begun(self, job: Job) -> Running:
        trial = self.state.trials[job.trial]
        step = max(trial.spans)
        return Running(job, step, values=dict(trial.rungs.get(step, {})))

    def rungs_of(self, job: Job) -> list[int]:
        """The rungs at which a resumed segment is judged: the log may lack what an earlier attempt
        has reported there.
        """
        begin = max(self.state.trials[job.trial].spans)
        return [rung for rung in self.plan.rungs if job.resume and begin < rung <= job.stop_step]

    def _refuse(self, job: Job, error: Exception) -> None:
        """Logs that a segment could not begin; the sweep continues with the next one."""
        self._write_error(job, " ".join(f"{type(error).__name__}: {error}".split()) + "\n")
        begun = self._begun(job)
        reason = self._error_line(job)
        self.decider.ended(
            job, begun.step, begun.values, state=FAILED, reason=reason, hopeless=True
        )

    def reported(
        self,
        ray_id: str,
        step: int,
        values: dict[str, float],
        seconds: float,
        segment_seconds: float,
        own_reason: str = "",
    ) -> bool:
        """One report; whether the trial must stop now.

        With `own_reason` the training has ended by itself (patience, ill health) and returns
        without being stopped. Its reason takes precedence over a rule's verdict on the same
        report, and holds for documented points as well.
        """
        current = self.running.get(ray_id)
        if current is None:
            return False
        current.segment_seconds, current.heard = segment_seconds, time.monotonic()
        if step <= current.step:
            return False
        current.step, current.values, current.seconds = step, values, seconds
        current.reason = self.decider.reported(current.job, step, values)
        if own_reason:
            current.reason = own_reason
            return False
        if current.reason:
            self.log.sync()
        return bool(current.reason)

    def ended(self, ray_id: str, *, failed: bool) -> None:
        """Takes the end of a segment: complete, stopped by the scheduler, failed, or cut short as
        the sweep is being stopped.
        """
        current = self.running.pop(ray_id, None)
        if current is None:
            return
        self._release(current.job)
        at_its_end = self._has_come_to_its_end(current)
        if self.references.ended(ray_id, at_its_end=at_its_end) and at_its_end:
            current.heard = time.monotonic()  # what it did since its last report was no training,
            failed = failed and self._error_file(current.job).exists()  # and killed it alone
        self._write_end(current, failed)

    def interrupt(self) -> None:
        """Logs at once how far every segment has come, when the sweep is being stopped: Ray's
        processes take seconds to end, and the sender of the signal may not wait for them.
        """
        while self.running:
            self.stopping = self.stopping or "the driver ended"
            _, current = self.running.popitem()
            self._left.append(current.job)
            self._write_end(current, failed=False)
        self.log.sync()

    def close(self) -> None:
        """Releases the worker groups that segments of a stopped sweep may have left."""
        for job in self._left:
            self._release(job)

    def _release(self, job: Job) -> None:
        if self.context.workers > 1:
            groups.release(groups.mark_of(self.context.session, job.trial, job.segment))

    def _write_end(self, current: Running, failed: bool) -> None:
        state, reason = self._verdict(current, failed)
        job = current.job
        self.decider.ended(
            job,
            current.step,
            current.values,
            state=state,
            reason=reason,
            seconds=round(current.held_seconds, 4),
            node_gone=current.node_gone,
        )
        trial = self.state.trials[job.trial]
        if trial.status == FAILED and not self._error_file(job).exists():
            self._write_error(job, f"{trial.reason}\n")

    def _verdict(self, current: Running, failed: bool) -> tuple[str, str]:
        """State and reason of the end; the state is "" where it follows from the reason or the
        step.
        """
        if failed:
            problem = self._storage_problem()
            if problem:
                self.stopping = self.stopping or problem
                return INTERRUPTED, problem
            was_killed = not self._error_file(current.job).exists()
            if self.stopping and was_killed:
                return INTERRUPTED, self.stopping  # its process was told to end as well
            lost = self.lost_node(current.job, NOTICE_SECONDS if was_killed else 0.0)
            if lost is None and not was_killed:
                of_storage = f"{UnreadableLockError.__name__}: "
                lost = STORAGE if self._error_line(current.job).startswith(of_storage) else None
            return self._lost(current, lost) if lost else (FAILED, self._error_line(current.job))
        if self._has_come_to_its_end(current):
            return "", current.reason
        if self.stopping:
            return INTERRUPTED, self.stopping
        steps = f"{current.step} of {current.job.stop_step}"
        return FAILED, f"it ended at step {steps} without an error"

    def _has_come_to_its_end(self, current: Running) -> bool:
        """Whether its last report was its last one: nothing of its training is missing."""
        return bool(self.decider.end_state(current.job, current.step, current.reason))

    def _lost(self, current: Running, loss: Loss) -> tuple[str, str]:
        """State and reason of a segment that has lost its node, or the storage there: it was
        preempted, unless its trial has lost too many in a row.
        """
        current.node_gone = not loss.announced
        losses = self.decider.losses(current.job, current.step)
        if loss.announced or losses < LOSSES:
            return INTERRUPTED, f"preempted: {loss.reason}"
        reason = f"{loss.reason}: {losses} in a row under this trial, which came no further"
        path = self._error_file(current.job)
        error_text = path.read_text() if path.exists() else ""
        advice = f"{loss.advice} --max-failures N lets it try again."
        self._write_error(current.job, f"{error_text}\n{advice}\n\n{reason}\n")
        return FAILED, reason

    def _error_line(self, job: Job) -> str:
        """The cause by the trial's `error.txt`, which is written here where its process was killed
        before it could.
        """
        path = self._error_file(job)
        if not path.exists() or not path.stat().st_size:
            self._write_error(
                job,
                "The trial's process ended without an error of its own: it was killed, ran out of "
                "memory, or its node is gone.\n",
            )
        return cause_in(path.read_text(errors="replace"))

    def _write_error(self, job: Job, text: str) -> None:
        path = self._error_file(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _error_file(self, job: Job) -> Path:
        return self.context.paths.trial(job.trial).error

    def _storage_problem(self) -> str:
        """Why the sweep's directory is not writable any more; "" where it is.

        It is not the fault of a trial that failed for this, and the next one would fail as well.
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
    """The sweep's log, ready to append; a torn last line is cut off, and `warn` is told."""
    log = EventLog(SweepPaths(directory).log)
    torn = log.open()
    if torn:
        warn(f"the last line of {log.path} was torn by a crash and is dropped: {torn[:60]!r}")
    return log
