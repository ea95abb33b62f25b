"""The surroundings of a trial: what the loop is told about them, and whom it reports to.

Three implementations: `LocalRun` (a plain process), `TuneRun` (inside Ray Tune's own actor) and
`WorkerRun` (one rank of a Ray Train worker group). The loop sees the common part only; ray is
imported by the last two alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from metrics.combined import Combined, combined_columns
from metrics.health_signs import number
from settings.stop_reasons import STOP_REASON
from settings.warning import warn

Report = Mapping[str, float | str | None]
"""Columns of one validation. All are numbers, None for no value, but for `stop_reason`."""

RETRY_SECONDS = (0.1, 0.4, 1.0, 2.0, 4.0)
"""Pauses between looks at a lock that cannot be read. A network file system may lose the file for
a moment (ESTALE); a process that finds out whether it is stale moves it away and back.
"""


class ReportSink(Protocol):
    """The file that a trial's reports go to."""

    def append(self, report: Report) -> None: ...

    def truncate_after(self, step: int, own: Report | None = None) -> int:
        """Drops the reports of later steps, which a resumed trial will make again, and returns how
        many. `own` is the report of that step, written where it is missing.
        """
        ...


class SupersededError(RuntimeError):
    """Another driver has taken the sweep over; this process must not write to it any more."""


class UnreadableLockError(OSError):
    """The sweep's lock could not be read for some seconds: its storage is away."""


@dataclass
class Budget:
    """The time that a command may take. A training ends, resumable, at a report after which
    another interval between reports would not fit: the longest so far of this process, with its
    validation and a checkpoint. One interval is always made.

    Attributes:
        ends: when it is used up, by `time.time()`; inf for no limit. The clocks of several
            machines are taken to agree.
        is_over: whether another interval would not fit, as of the last look.
    """

    ends: float = math.inf
    is_over: bool = False
    _since: float = 0.0
    _longest: float = 0.0
    _saving: float = 0.0

    @classmethod
    def of(cls, seconds: float | None, began: float) -> Budget:
        """The budget of a command that began then; None for no limit."""
        return cls() if seconds is None else cls(began + seconds)

    def begin(self) -> None:
        """An interval begins."""
        self._since = time.time()

    def look(self, world: int) -> None:
        """An interval has ended but for its checkpoint, and another one begins if it fits; the
        first of `world` ranks decides for all.
        """
        if math.isinf(self.ends):
            return
        since = self._since
        self.begin()
        self.note(self._since - since)
        if world > 1:
            from accelerate.utils import broadcast_object_list

            (self.is_over,) = broadcast_object_list([self.is_over])

    def note(self, seconds: float) -> None:
        """Takes in how long an interval was."""
        self._longest = max(self._longest, seconds)
        self.is_over = time.time() + self._longest + self._saving > self.ends

    def saved(self, seconds: float) -> None:
        """Takes in how long a checkpoint took."""
        self._saving = max(self._saving, seconds)


@dataclass
class LocalRun:
    """A trial in a plain process.

    Attributes:
        directory: of the trial; checkpoints and TensorBoard files go below it.
        reports: where each report is appended; None keeps them in `history` only.
        objective: (column, mode) that names the best checkpoint; None for none.
        columns: what a decision needs of a report: objectives, constraints.
        resume: go on from the newest readable checkpoint, if there is one.
        stop_step: end of this segment; None for the whole training.
        segment: number of the segment, written with each report.
        still_owner: whether this process may still write to the sweep; from `owner_check`.
        derived: columns that are made of others, added to every report before anybody sees it.
        start: the checkpoint of another trial that this segment begins from.
        lends_checkpoints: whether other trials may begin from this one's checkpoints, so that
            those at which its last segments ended are kept.
        rungs: steps at which the trial may be stopped or compared, each with a checkpoint.
        keeps_rungs: whether the checkpoints at rungs are kept.
        budget: the time that the training may take.
    """

    directory: Path
    reports: ReportSink | None = None
    objective: tuple[str, str] | None = None
    columns: tuple[str, ...] = ()
    resume: bool = False
    stop_step: int | None = None
    segment: int = 0
    still_owner: Callable[[], bool] = lambda: True
    on_report: Callable[[Report], None] | None = None
    history: list[Report] = field(default_factory=list)
    derived: tuple[Combined, ...] = ()
    start: Path | None = None
    lends_checkpoints: bool = False
    rungs: tuple[int, ...] = ()
    keeps_rungs: bool = False
    budget: Budget = field(default_factory=Budget)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files."""
        return True

    @property
    def read(self) -> frozenset[str]:
        """The columns that a decision needs, and those that they are made of."""
        objective = self.objective[:1] if self.objective else ()
        made_of = (column for combined in self.derived for column in combined.of)
        return frozenset((*self.columns, *objective, *made_of))

    def derive(self, report: Report) -> dict[str, float | None]:
        """The derived columns of a report that is not handed in yet.

        They are added before `report`, because patience and the best checkpoint may wait for one
        of them.
        """
        return combined_columns(self.derived, report)

    def report(self, report: Report, save: Callable[[], None]) -> None:
        """Hands in one report: first to the file, then to the checkpoint, where `save` makes one,
        then to whoever decides.

        In this order a crash between two of them loses nothing: what no checkpoint covers is
        trained and reported again. It may leave by SystemExit where a scheduler has stopped the
        trial.
        """
        if self.is_main:
            if not self.still_owner():
                raise SupersededError(
                    f"{self.directory}: another process has taken this sweep over."
                )
            if self.reports is not None:
                self.reports.append({"segment": self.segment, **report})
            began = time.time()
            save()
            self.budget.saved(time.time() - began)
        self.history.append(report)
        self.tell(report)

    def tell(self, report: Report) -> None:
        """Passes on what a decision needs."""
        if self.on_report is not None:
            self.on_report(report)

    def tell_again(self, report: Report) -> None:
        """Passes on the report of the checkpoint that the trial goes on from, which the decider
        may not have heard before the interruption.
        """
        self.tell(report)

    def warn(self, message: str) -> None:
        warn(message)


@dataclass
class TuneRun(LocalRun):
    """A trial inside Tune's actor. Tune hears the step, the columns that a decision needs, why the
    training ended by itself and for how long the segment has run, nothing else.

    Attributes:
        began: when the segment began, by this process's monotonic clock: no other process could
            make anything of it, so that Tune hears the time since then.
        earlier: what the segment had reported before it was cut short and a decision hangs on.
    """

    began: float = field(default_factory=time.monotonic)
    earlier: Callable[[], Iterable[Report]] = tuple

    def tell(self, report: Report) -> None:
        from ray import tune

        part = decision_part(report, self.columns)
        tune.report({**part, "segment_seconds": time.monotonic() - self.began})

    def tell_again(self, report: Report) -> None:
        for before in self.earlier():
            if (number(before, "step") or 0.0) < (number(report, "step") or 0.0):
                self.tell(before)
        self.tell(report)


@dataclass
class WorkerRun(LocalRun):
    """One rank of a Ray Train worker group; rank 0 writes."""

    rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def tell(self, report: Report) -> None:
        from ray import train

        train.report(decision_part(report, self.columns))


def decision_part(report: Report, columns: Sequence[str] = ()) -> dict[str, Any]:
    """The part of a report that a decision needs: step and seconds as plain floats, `values` of
    those columns that have one, and the reason where the training ends by itself.
    """
    part: dict[str, Any] = {
        "step": number(report, "step") or 0.0,
        "seconds": number(report, "seconds") or 0.0,
    }
    values = {column: number(report, column) for column in columns}
    if columns:
        part["values"] = {column: v for column, v in values.items() if v is not None}
    reason = report.get(STOP_REASON)
    if reason:
        part[STOP_REASON] = str(reason)
    return part


def owner_check(lock: Path, session: str) -> Callable[[], bool]:
    """Checks that the sweep's lock still bears this session: where a resumed driver takes the
    sweep over, old writers end.

    A lock that cannot be read is no other's lock: it is looked at again for some seconds. After
    them the check raises UnreadableLockError with what the file system says, or SupersededError
    where the lock is gone.
    """

    mine = json.dumps(session).encode()

    def bears_session() -> bool:
        content = lock.read_bytes()
        return mine in content or json.loads(content)["session"] == session

    def still_owner() -> bool:
        try:
            return bears_session()
        except (OSError, ValueError, LookupError) as error:
            problem: Exception = error
        for pause in RETRY_SECONDS:
            time.sleep(pause)
            try:
                return bears_session()
            except (OSError, ValueError, LookupError) as error:
                problem = error
        raise _unreadable(lock, problem)  # alone: it is the cause that is told (`root_cause`)

    return still_owner


def _unreadable(lock: Path, problem: Exception) -> Exception:
    if isinstance(problem, FileNotFoundError):
        return SupersededError(
            f"{lock} is gone: somebody has removed it, or another process took the sweep over and "
            "has ended. --resume goes on with the sweep."
        )
    return UnreadableLockError(
        f"{lock} could not be read for {sum(RETRY_SECONDS):g} s, so this process may not write "
        f"any more: {problem}. --resume goes on with the sweep once its storage answers."
    )
