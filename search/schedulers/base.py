"""What a scheduler decides: how far a new trial runs, who is given more steps, who is stopped.

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
    """How a new trial begins: the step at which its first segment ends, and the index of the
    first rung that judges it.
    """

    stop_step: int
    bracket: int = 0


@dataclass(frozen=True)
class Continuation:
    """More steps for a trial that waits.

    Attributes:
        start: the checkpoint (trial, step) of another trial to go on from; None for its own.
        sampled: its settings from here on; None to keep them.
    """

    trial: int
    stop_step: int
    start: tuple[int, int] | None = None
    sampled: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """What a rung says of a running trial.

    Attributes:
        judged: whether the rung counts it.
        stop: why it ends here, "" where it may go on (to the end of its segment).
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
        """How the next new trial, not a documented point, begins."""

    @abstractmethod
    def promotion(self, state: SweepState) -> Continuation | None:
        """Who is given more steps now."""

    def closing(self, state: SweepState) -> Continuation | None:
        """Who is given more steps although the sweep is at its end: nothing runs, and nothing new
        will be started.
        """
        return None

    @abstractmethod
    def verdict(self, state: SweepState, trial: TrialRecord, step: int, values: Values) -> Verdict:
        """What the rung at `step` says of a trial that has just reported `values` there; asked
        before the report is part of the state.
        """

    def asked_level(self, state: SweepState, bracket: int) -> int:
        """The index of the lowest level from which the sampler may learn for a new trial."""
        return bracket


class Stopping(Scheduler):
    """Every trial runs to its end unless a verdict stops it."""

    def start(self, state: SweepState) -> Start:
        return Start(self.plan.steps)

    def promotion(self, state: SweepState) -> Continuation | None:
        return None
