"""The plan of a sweep: everything that a decision needs beside the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_spaces.space import Point, Space
from settings.schema import SettingsError

SAMPLERS = ("tpe", "random")
SCHEDULERS = ("asha", "none")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep is to do. With the log it decides every job.

    Attributes:
        space: bound to the sweep's settings (`Space.bind`).
        points: run first, as trials 0, 1, ...; those beyond `trials` are left out.
        trials: how many in all, points included.
        metric, mode: the objective's column and its better direction.
        steps: length of a trial, the largest rung.
        report_every: steps between two reports; every rung is a multiple of it.
        eta: of the scheduler: about one trial in `eta` passes a rung.
        grace: steps of the first rung.
        max_failures: times that a trial may fail and try again.
    """

    space: Space
    points: tuple[Point, ...] = ()
    trials: int
    seed: int
    metric: str
    mode: Literal["min", "max"]
    steps: int
    report_every: int
    sampler: str = "tpe"
    scheduler: str = "asha"
    eta: int = 3
    grace: int = 0
    max_failures: int = 0

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, ("min", "max"))
        _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        for name, least in (
            ("trials", 1),
            ("steps", 1),
            ("report_every", 1),
            ("eta", 2),
            ("max_failures", 0),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} must be {least} or more, not {getattr(self, name)}.")
        if self.scheduler == "none":
            return
        if self.grace == 0:
            object.__setattr__(
                self, "grace", default_grace(self.steps, self.eta, self.report_every)
            )
        if self.grace < 1 or self.grace % self.report_every:
            raise SettingsError(
                f"grace must be a multiple of report_every ({self.report_every}), not "
                f"{self.grace}: a trial is only judged by what it has just reported."
            )

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which a trial may be stopped: grace * eta^k below the trial's length; none
        without a scheduler.
        """
        if self.scheduler == "none":
            return ()
        steps, rung = [], self.grace
        while rung < self.steps:
            steps.append(rung)
            rung *= self.eta
        return tuple(steps)

    @property
    def points_left_out(self) -> tuple[str, ...]:
        """Documented points for which the number of trials leaves no room."""
        return tuple(point.name for point in self.points[self.trials :])


def default_grace(steps: int, eta: int, report_every: int, rungs: int = 3) -> int:
    """The first rung such that about `rungs` decisions fit below `steps`, as a multiple of
    `report_every`.
    """
    return max(steps // eta**rungs // report_every, 1) * report_every


def _one_of(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise SettingsError(f"{name} must be one of {', '.join(legal)}, not {value!r}.")
