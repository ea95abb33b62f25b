"""The plan of a sweep: everything that a decision needs in addition to the log."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from search.options import SAMPLERS, SCHEDULERS, SearchOptions
from search_spaces.domains import Choice
from settings.schema import SettingsError

if TYPE_CHECKING:
    from search.objectives import Goal, Mode
    from search.warm import Warm
    from search_spaces.space import Point, Space

JOURNAL = "journal"
"""The storage of a sweep's Optuna mirror by default: a file in the sweep's directory."""

POPULATIONS = ("pbt", "pb2")
"""Schedulers of populations, whose members train to the end and are compared every interval."""


@dataclass(frozen=True, kw_only=True)
class Plan(SearchOptions):
    """The plan of a sweep. Plan and log determine every job.

    Attributes:
        space: bound to the sweep's settings (`Space.bind`).
        points: documented configurations, which run first as trials 0, 1, ...; those beyond
            `trials` are left out.
        goal: objectives and constraints.
        steps: length of a trial, the largest rung.
        report_every: steps between two reports; every rung is a multiple of it.
        last_change: the step from which the loss no longer changes (warm-ups, stages); no rung
            lies before it.
        pausing: whether a trial may pause at a rung and continue later from its checkpoint; where
            starting a trial is expensive it may not, and is only stopped.
        warm: trials of earlier sweeps, from which the sampler learns as from the log.
    """

    trials: int = field()
    sampler: str = "tpe"
    scheduler: str = "brackets"
    space: Space
    points: tuple[Point, ...] = ()
    goal: Goal
    steps: int
    report_every: int
    last_change: int = 0
    pausing: bool = True
    warm: tuple[Warm, ...] = ()

    def __post_init__(self) -> None:
        _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        for name, value, least in (
            ("--trials", self.trials, 1),
            ("train.steps", self.steps, 1),
            ("train.report_every", self.report_every, 1),
            ("--eta", self.eta, 2),
            ("--seed", self.seed, 0),
            ("--max-failures", self.max_failures, 0),
            ("--max-failed-in-a-row", self.max_failed_in_a_row, 0),
            ("--repeats", self.repeats, 0),
            ("--repeat-top", self.repeat_top, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingsError(
                    f"{name} must be a whole number from {least} on, not {value!r}."
                )
        if self.budget is not None and not self.budget > 0:
            raise SettingsError(f"--budget must be above 0 trainings, not {self.budget}.")
        if not 0.0 < self.max_failed_share <= 1.0:
            raise SettingsError(
                f"--max-failed-share must be above 0 and at most 1, not {self.max_failed_share}."
            )
        self._check_sampler()
        self._check_rungs()

    def _check_sampler(self) -> None:
        if self.sampler != "cmaes":
            return
        if len(self.goal.objectives) > 1:
            raise SettingsError(
                f"sampler cmaes takes one objective, not {len(self.goal.objectives)}: it adapts "
                "one distribution towards one best. Take nsga2, tpe or gp, or one objective and "
                "constraints on the others."
            )
        if all(isinstance(domain, Choice) for domain in self.space.domains.values()):
            raise SettingsError(
                f"sampler cmaes adapts a covariance of numbers, and space {self.space.name!r} has "
                "choices only. Take tpe, gp or nsga2."
            )

    def _check_rungs(self) -> None:
        if self.scheduler == "none":
            return
        if self.rung_steps and list(self.rung_steps) != sorted(set(self.rung_steps)):
            raise SettingsError(f"--rungs must ascend, not {self.rung_steps}.")
        for rung in self.rung_steps or (self.grace,) * bool(self.grace):
            if rung < 1 or rung % self.report_every:
                raise SettingsError(
                    f"a rung must be a multiple of train.report_every ({self.report_every}), not "
                    f"{rung}: a trial is only judged by what it has just reported."
                )
            if rung < self.last_change and (self.rung_steps or self.scheduler not in POPULATIONS):
                first = self.first_rung(self.last_change)
                way = f"Begin at {first} or later" if first < self.steps else "End it earlier"
                raise SettingsError(
                    f"rung {rung} lies before step {self.last_change}, where the last warm-up or "
                    "stage of the loss ends: what a trial reports there says nothing about its "
                    f"end. {way}, or take --scheduler none."
                )
            if rung >= self.steps and self.rung_steps:
                raise SettingsError(f"rung {rung} is not below train.steps ({self.steps}).")

    @property
    def metric(self) -> str:
        """The first objective's column."""
        return self.goal.objectives[0].metric

    @property
    def mode(self) -> Mode:
        """The first objective's better direction."""
        return self.goal.objectives[0].mode

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """Steps below the full length at which trials are compared; none without a scheduler.

        The given ones; or every `grace` steps for a population; or grace * eta^k; or else
        steps / eta^k for k = 3, 2, 1, each at the next report.
        """
        if self.scheduler == "none" or self.rung_steps:
            return self.rung_steps if self.scheduler != "none" else ()
        if self.scheduler in POPULATIONS:
            interval = self.grace or default_interval(self.steps, self.report_every)
            return tuple(
                step for step in range(interval, self.steps, interval) if step >= self.last_change
            )
        if self.grace:
            powers = (self.grace * self.eta**k for k in itertools.count())
            return tuple(itertools.takewhile(lambda rung: rung < self.steps, powers))
        even = (self.first_rung(math.ceil(self.steps / self.eta**k)) for k in (3, 2, 1))
        return tuple(dict.fromkeys(rung for rung in even if self.last_change <= rung < self.steps))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """The rungs and the full length."""
        return (*self.rungs, self.steps)

    def first_rung(self, step: int) -> int:
        """The first report at or after a step."""
        return max(math.ceil(step / self.report_every), 1) * self.report_every

    @property
    def points_left_out(self) -> tuple[str, ...]:
        """The documented points beyond the number of trials, which are not run."""
        return tuple(point.name for point in self.points[self.trials :])


def default_interval(steps: int, report_every: int, intervals: int = 10) -> int:
    """A tenth of a training, as a multiple of `report_every`."""
    return max(round(steps / intervals / report_every), 1) * report_every


def _one_of(name: str, value: str, legal: Collection[str]) -> None:
    if value not in legal:
        raise SettingsError(f"{name} must be one of {', '.join(legal)}, not {value!r}.")
