"""Where a trial runs: what the loop is told about its surroundings, and whom it reports to.

Three implementations: `LocalRun` (a plain process), `TuneRun` (inside Ray Tune's own actor) and
`WorkerRun` (one rank of a Ray Train worker group). The loop sees the common part only; ray is
imported by the last two alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Report = Mapping[str, float | str | None]
"""Columns of one validation. All are numbers, None for no value, but for `stop_reason`."""

STOP_REASON = "stop_reason"
"""Column of the last report of a training that ended by itself before its last step: why."""

PATIENCE = "patience: "
"""How the reason begins where it had stopped improving: such a result counts as a complete one."""


class ReportSink(Protocol):
    """The file that a trial's reports go to."""

    def append(self, report: Report) -> None: ...

    def truncate_after(self, step: int, own: Report | None = None) -> int:
        """Drops reports of later steps, which a trial that resumes will make again; how many.
        `own` is the report of that step, written where it is missing.
        """
        ...


class SupersededError(RuntimeError):
    """Another driver has taken the sweep over; this process must not write to it any more."""


@dataclass
class LocalRun:
    """A trial in a plain process.

    Attributes:
        directory: of the trial; checkpoints and TensorBoard files go below it.
        reports: where each report is appended; None keeps them in `history` only.
        objective: (column, mode) that names the best checkpoint; None for none.
        resume: go on from the newest readable checkpoint, if there is one.
        stop_step: end of this segment; None for the whole training.
        segment: number of the segment, written with each report.
        still_owner: whether this process may still write to the sweep.
    """

    directory: Path
    reports: ReportSink | None = None
    objective: tuple[str, str] | None = None
    resume: bool = False
    stop_step: int | None = None
    segment: int = 0
    still_owner: Callable[[], bool] = lambda: True
    on_report: Callable[[Report], None] | None = None
    history: list[Report] = field(default_factory=list)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files."""
        return True

    def report(self, report: Report, save: Callable[[], None]) -> None:
        """One report: first the file, then the checkpoint, then whoever decides.

        In this order a crash between two of them loses nothing: what a checkpoint does not cover
        is trained and reported again. May leave by SystemExit where a scheduler has stopped the
        trial.
        """
        if self.is_main:
            if not self.still_owner():
                raise SupersededError(
                    f"{self.directory}: another process has taken this sweep over."
                )
            if self.reports is not None:
                self.reports.append({"segment": self.segment, **report})
            save()
        self.history.append(report)
        self.tell(report)

    def tell(self, report: Report) -> None:
        """Passes on what a decision needs."""
        if self.on_report is not None:
            self.on_report(report)

    def warn(self, message: str) -> None:
        sys.stdout.write(f"warning: {message}\n")
        sys.stdout.flush()


@dataclass
class TuneRun(LocalRun):
    """A trial inside Tune's actor: Tune hears the step, the objective, why the training ended by
    itself and when the segment began, nothing else.
    """

    began: float = field(default_factory=time.time)

    def tell(self, report: Report) -> None:
        from ray import tune

        tune.report({**decision_part(report, self.objective), "began": self.began})


@dataclass
class WorkerRun(LocalRun):
    """One rank of a Ray Train worker group; rank 0 writes."""

    rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def tell(self, report: Report) -> None:
        from ray import train

        train.report(decision_part(report, self.objective))


def decision_part(report: Report, objective: tuple[str, str] | None) -> dict[str, float | str]:
    """The step, the seconds and the objective as plain floats, NaN where the objective has no
    value; and why the training ends by itself, where it does.
    """
    part: dict[str, float | str] = {
        "step": number(report, "step") or 0.0,
        "seconds": number(report, "seconds") or 0.0,
    }
    if objective is not None:
        value = number(report, objective[0])
        part["value"] = float("nan") if value is None else value
    reason = report.get(STOP_REASON)
    if reason:
        part[STOP_REASON] = str(reason)
    return part


def number(report: Report, column: str) -> float | None:
    """The value of a column, None where it has none."""
    value = report.get(column)
    return None if value is None or isinstance(value, str) else float(value)


def owner_check(lock: Path, session: str) -> Callable[[], bool]:
    """A check that the sweep's lock still bears this session; a takeover by a resumed driver ends
    old writers.
    """

    def still_owner() -> bool:
        try:
            return json.loads(lock.read_text()).get("session") == session
        except (OSError, ValueError):
            return False

    return still_owner
