"""Schedulers compared on curves that an earlier sweep has logged, before a GPU is spent.

The configurations are given: the k-th new trial of a simulated sweep takes the k-th curve. So only
the scheduler and the budget are compared, not the sampler, which would have drawn others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from search.log import COMPLETE
from search.objectives import Goal, Values
from search.plan import Plan
from search.rung_agreement import agreement
from search.seeds import derive
from search.simulator import Simulation, simulate
from search_spaces.domains import Integer
from search_spaces.space import Point, Space
from settings.schema import SettingsError
from settings.stop_reasons import HEALTH


@dataclass(frozen=True)
class Curve:
    """The reports of one trial of an earlier sweep.

    Attributes:
        trial: its number there.
        values: of each report, by step.
        step_seconds: duration of a step.
        ended: the step at which its training ended early by itself, and why; None where it did
            not.
        point: name of the documented point, which runs to its end; "" for a sampled trial.
    """

    trial: int
    values: Mapping[int, Values]
    step_seconds: float
    ended: tuple[int, str] | None = None
    point: str = ""

    def is_whole(self, steps: int, report_every: int) -> bool:
        """Whether it has every report up to the end."""
        last = self.ended[0] if self.ended else steps
        return all(
            step in self.values for step in (*range(report_every, last, report_every), last)
        )


@dataclass(frozen=True)
class Outcome:
    """A simulated sweep.

    Attributes:
        trials, complete: number of trials that were started, and of those that were completed.
        spent: steps trained, in trainings of full length.
        hours: duration on the simulated clock.
        regret: cost of the best complete trial minus that of the best of all curves at full
            length; infinite where none is complete.
    """

    trials: int
    complete: int
    spent: float
    hours: float
    regret: float


@dataclass(frozen=True)
class Workload:
    """The curves that can be replayed.

    Attributes:
        curves: documented points first.
        start_seconds: duration of what a segment did before its first step.
        left_out: number of trials that were stopped or paused: how they would have continued is
            unknown.
    """

    curves: tuple[Curve, ...]
    goal: Goal
    steps: int
    report_every: int
    last_change: int = 0
    start_seconds: float = 0.0
    left_out: int = 0

    @classmethod
    def of(
        cls, curves: Sequence[Curve], goal: Goal, steps: int, report_every: int, **more: float
    ) -> Workload:
        """The workload of a sweep's curves, as far as they are whole.

        Raises:
            SettingsError: none of them is.
        """
        whole = [curve for curve in curves if curve.is_whole(steps, report_every)]
        whole.sort(key=lambda curve: not curve.point)  # points run first
        if not whole:
            raise SettingsError(
                f"none of the {len(curves)} logged trials has reports up to step {steps}: there "
                "is nothing to compare schedulers on. Log a sweep whose trials run to their end "
                "(--scheduler none)."
            )
        left_out = len(curves) - len(whole)
        return cls(tuple(whole), goal, steps, report_every, left_out=left_out, **more)  # type: ignore[arg-type]

    def plan(self, scheduler: str, budget: float | None = None, **options: object) -> Plan:
        """The plan of a sweep over these curves; `options` are the plan's (eta, grace, ...).

        The space is a formality: a trial takes the next curve.
        """
        given: dict[str, object] = {"seed": 0, **options}
        return Plan(
            space=Space("curves", "curves", {"curve": Integer(0, 1)}),
            points=tuple(
                Point(curve.point, {"curve": index})
                for index, curve in enumerate(self.curves)
                if curve.point
            ),
            trials=len(self.curves),
            budget=budget,
            goal=self.goal,
            steps=self.steps,
            report_every=self.report_every,
            last_change=self.last_change,
            sampler="random",
            scheduler=scheduler,
            **given,  # type: ignore[arg-type]
        )

    def run(self, plan: Plan, workers: int, order: int = 0) -> Simulation:
        """Simulates a plan on `workers` slots.

        Args:
            order: 0 takes the curves as they were logged; any other number is a seed by which they
                are shuffled. Documented points stay first.
        """
        count = len(plan.points)
        drawn = list(self.curves[count:])
        if order:
            Random(derive(plan.seed, "order", order)).shuffle(drawn)
        curves = [*self.curves[:count], *drawn]
        return simulate(
            plan,
            lambda job, step: curves[job.sampled["curve"]].values.get(step, {}),
            workers=workers,
            step_seconds=lambda job: curves[job.sampled["curve"]].step_seconds,
            start_seconds=self.start_seconds,
            ends=lambda job: curves[job.sampled["curve"]].ended,
            draw=lambda plan, state, trial, bracket: {"curve": state.own_trials},
        )

    def outcome(self, simulation: Simulation) -> Outcome:
        """Cost and regret of a simulated sweep."""
        state = simulation.state
        complete = [
            state.trials[n] for n in state.with_status(COMPLETE) if not state.trials[n].infeasible
        ]
        best = self._best([trial.values for trial in complete])
        return Outcome(
            trials=state.own_trials,
            complete=len(complete),
            spent=sum(state.steps.values()) / self.steps,
            hours=simulation.seconds / 3600.0,
            regret=best - self.best,
        )

    def agreement(self, step: int) -> float:
        """Spearman's correlation of the ranks at a step with those at the end, over the curves
        that have both, documented points left out; NaN for fewer than three.
        """
        both = [
            (curve.values[step], curve.values[self.steps])
            for curve in self.curves
            if not curve.point and step in curve.values and self.steps in curve.values
        ]
        if len(both) < 3:
            return math.nan
        return agreement(self.goal, *zip(*both, strict=True))

    @property
    def best(self) -> float:
        """The lowest cost of a curve at its end, by the first objective."""
        healthy = [c for c in self.curves if not (c.ended and c.ended[1].startswith(HEALTH))]
        return self._best([c.values[c.ended[0] if c.ended else self.steps] for c in healthy])

    def _best(self, values: Sequence[Values]) -> float:
        if not values:
            return math.inf
        chosen = min(range(len(values)), key=self.goal.badness(values).__getitem__)
        return self.goal.objectives[0].cost(values[chosen])
