"""Schedulers: how far a new trial runs, which trial gets more steps, and which is stopped.

Every decision is a function of the plan and the log (`SweepState`): a scheduler keeps no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.log import SweepState, TrialRecord
from search.objectives import Values
from search.plan import Plan


@dataclass(frozen=True)
class Start:
    """The beginning of a new trial.

    Attributes:
        stop_step: the step at which its first segment ends.
        bracket: the index of the first rung that judges it.
    """

    stop_step: int
    bracket: int = 0


@dataclass(frozen=True)
class Continuation:
    """More steps for a paused trial.

    Attributes:
        start: the checkpoint (trial, step) of another trial to continue from; None for its own.
        sampled: its settings from here on; None for unchanged ones.
    """

    trial: int
    stop_step: int
    start: tuple[int, int] | None = None
    sampled: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict of a rung on a running trial.

    Attributes:
        judged: whether the rung counts the trial.
        stop: why the trial ends here; "" where it may continue to the end of its segment.
        passed: whether it goes beyond the rung by this verdict.
    """

    judged: bool = False
    stop: str = ""
    passed: bool = False


class Scheduler(ABC):
    """A rule over the rungs of a plan.

    Documented points run to their end whatever they report: a sweep promises the comparison with
    them, and a comparison at different lengths says nothing. Their values count at the rungs like
    any other.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @abstractmethod
    def start(self, state: SweepState) -> Start:
        """The beginning of the next new trial that is no documented point."""

    @abstractmethod
    def promotion(self, state: SweepState) -> Continuation | None:
        """The trial that gets more steps now; None where none does."""

    def closing(self, state: SweepState) -> Continuation | None:
        """The trial that gets more steps at the end of a sweep, when nothing runs and nothing new
        will be started; None where none does.
        """
        return None

    @abstractmethod
    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        """The verdict of the rung at `step` on a trial that has just reported `values` there;
        asked before the report is part of the state.
        """

    def asked_level(self, state: SweepState, bracket: int) -> int:
        """The index of the lowest level from which the sampler may learn for a new trial."""
        return bracket


class Stopping(Scheduler):
    """Runs every trial to its end unless a verdict stops it."""

    def start(self, state: SweepState) -> Start:
        return Start(self.plan.steps)

    def promotion(self, state: SweepState) -> Continuation | None:
        return None
