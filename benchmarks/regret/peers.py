"""The searches that ours is compared with, on a simulated clock: Optuna's and Ray Tune's own
classes, asked and told in the order in which Tune would.
"""

from __future__ import annotations

import heapq
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.regret.problems import Problem, draw
from search.optuna.distributions import decode, distribution
from search.seeds import derive

SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of the budget at which regret is read."""

ETA = 3
"""Reduction factor of ASHA."""

Curve = list[tuple[float, float]]
"""(share of the budget spent, regret of the incumbent), one a share."""


class Searcher(ABC):
    """Who proposes settings. Trials are numbered in the order of asking."""

    @abstractmethod
    def suggest(self, trial: int) -> dict[str, Any]: ...

    def reported(self, trial: int, iteration: int, value: float) -> None:  # noqa: B027
        """A report after which the trial goes on."""

    def completed(self, trial: int, iteration: int, value: float) -> None:  # noqa: B027
        """A trial's last report."""


class Rule(ABC):
    """Who stops trials."""

    @abstractmethod
    def goes_on(self, trial: int, step: int, value: float) -> bool:
        """Whether a trial that has not reached its full length goes on from `step`."""


class Random(Searcher):
    def __init__(self, problem: Problem, seed: int) -> None:
        self._domains = problem.domains
        self._random = np.random.default_rng(seed)

    def suggest(self, trial: int) -> dict[str, Any]:
        return draw(self._domains, self._random)


class Optuna(Searcher):
    """Optuna's default sampler (TPE, multivariate, constant liar), told of completed trials."""

    def __init__(self, problem: Problem, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._problem = problem
        self._distributions = {key: distribution(d) for key, d in problem.domains.items()}
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self._asked: dict[int, Any] = {}

    def suggest(self, trial: int) -> dict[str, Any]:
        self._asked[trial] = self._study.ask(self._distributions)
        return _decoded(self._problem, self._asked[trial].params)

    def completed(self, trial: int, iteration: int, value: float) -> None:
        self._study.tell(self._asked.pop(trial), value)


class RayOptuna(Searcher):
    """`OptunaSearch` of Ray Tune. A trial that ASHA stops is told complete, with its last value:
    Tune's controller does so.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._problem = problem
        space = {key: distribution(domain) for key, domain in problem.domains.items()}
        self._search = OptunaSearch(space, metric="value", mode="min", seed=seed)

    def suggest(self, trial: int) -> dict[str, Any]:
        suggested = self._search.suggest(str(trial))
        if suggested is None:
            raise RuntimeError(f"OptunaSearch suggests nothing for trial {trial}.")
        return _decoded(self._problem, suggested)

    def reported(self, trial: int, iteration: int, value: float) -> None:
        self._search.on_trial_result(str(trial), _result(iteration, value))

    def completed(self, trial: int, iteration: int, value: float) -> None:
        self._search.on_trial_complete(str(trial), _result(iteration, value))


def _decoded(problem: Problem, held: Mapping[str, Any]) -> dict[str, Any]:
    return {key: decode(domain, held[key]) for key, domain in problem.domains.items()}


def _result(iteration: int, value: float) -> dict[str, Any]:
    return {"value": value, "training_iteration": iteration}


class FullLength(Rule):
    def __init__(self, problem: Problem) -> None:
        pass

    def goes_on(self, trial: int, step: int, value: float) -> bool:
        return True


class Asha(Rule):
    """`AsyncHyperBandScheduler` of Ray Tune with one bracket, from the problem's first rung on."""

    def __init__(self, problem: Problem) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        self._trials: dict[int, Any] = {}
        self._scheduler = AsyncHyperBandScheduler(
            time_attr="step",
            metric="value",
            mode="min",
            grace_period=problem.rungs[0],
            max_t=problem.rungs[-1],
            reduction_factor=ETA,
        )

    def goes_on(self, trial: int, step: int, value: float) -> bool:
        # The scheduler reads nothing of the controller, and of a trial its id.
        controller: Any = None
        if trial not in self._trials:
            self._trials[trial] = SimpleNamespace(trial_id=str(trial))
            self._scheduler.on_trial_add(controller, self._trials[trial])
        result = {"step": step, "value": value}
        decision = self._scheduler.on_trial_result(controller, self._trials[trial], result)
        return decision == self._scheduler.CONTINUE


@dataclass(frozen=True)
class Peer:
    label: str
    searcher: Callable[[Problem, int], Searcher]
    rule: Callable[[Problem], Rule]


PEERS: Mapping[str, Peer] = {
    "random": Peer("random, full length", Random, FullLength),
    "tpe": Peer("TPE of Optuna, full length", Optuna, FullLength),
    "optuna_search": Peer("OptunaSearch of Ray, full length", RayOptuna, FullLength),
    "asha_random": Peer("ASHA of Ray + random", Random, Asha),
    "asha_tpe": Peer("ASHA and OptunaSearch of Ray", RayOptuna, Asha),
}


def run(peer: str, problem: Problem, workers: int, budget: int, seed: int) -> Curve:
    """Regret of a peer's incumbent at each of `SHARES` of the budget.

    Args:
        budget: in trials of full length, shared by `workers` that work at the same time: the
            search ends when its clock reaches budget * full length / workers steps.
    """
    return regret_curve(problem, reports(peer, problem, workers, budget, seed), workers, budget)


@dataclass(frozen=True)
class Report:
    """Attributes:
    time: on the simulated clock; a step costs each worker one unit.
    """

    time: int
    trial: int
    sampled: Mapping[str, Any]
    step: int
    value: float


def reports(peer: str, problem: Problem, workers: int, budget: int, seed: int) -> list[Report]:
    """What a peer's trials report, in the order of time; among equal times the lower trial comes
    first. A worker that is free starts a new trial at once; a report due after the end is lost.
    """
    if peer not in PEERS:
        raise ValueError(f"a peer is one of {', '.join(PEERS)}, not {peer!r}.")
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}.")
    end = end_of(problem, workers, budget)
    if end < problem.rungs[0]:
        raise ValueError(
            f"a budget must last until the first reports at step {problem.rungs[0]}, but {budget} "
            f"full trainings give each of {workers} workers {end:g} steps. Raise the budget."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental parts of Optuna, once an ask
        return _simulate(
            PEERS[peer].searcher(problem, derive(seed, "sampler")),
            PEERS[peer].rule(problem),
            problem,
            workers,
            end,
            seed,
        )


def end_of(problem: Problem, workers: int, budget: int) -> float:
    """Time at which the budget is spent."""
    return budget * problem.rungs[-1] / workers


def _simulate(
    searcher: Searcher, rule: Rule, problem: Problem, workers: int, end: float, seed: int
) -> list[Report]:
    sampled: list[dict[str, Any]] = []
    due: list[tuple[int, int, int]] = []  # time, trial, rung

    def start(now: int) -> None:
        sampled.append(searcher.suggest(len(sampled)))
        heapq.heappush(due, (now + problem.rungs[0], len(sampled) - 1, 0))

    for _ in range(workers):
        start(0)
    seen: list[Report] = []
    while due and due[0][0] <= end:
        now, trial, rung = heapq.heappop(due)
        step = problem.rungs[rung]
        value = problem.value(sampled[trial], step, derive(seed, "trial", trial))
        seen.append(Report(now, trial, sampled[trial], step, value))
        if rung + 1 < len(problem.rungs) and rule.goes_on(trial, step, value):
            searcher.reported(trial, rung + 1, value)
            heapq.heappush(due, (now + problem.rungs[rung + 1] - step, trial, rung + 1))
        else:
            searcher.completed(trial, rung + 1, value)
            if now < end:
                start(now)
    return seen


def regret_curve(problem: Problem, found: Iterable[Report], workers: int, budget: int) -> Curve:
    """Regret of the incumbent at each of `SHARES`: the best value at the highest rung that any
    trial has reached. Before the first report it is infinite.
    """
    end = end_of(problem, workers, budget)
    ordered = sorted(found, key=lambda report: report.time)
    curve: Curve = []
    incumbent: Report | None = None
    position = 0
    for share in SHARES:
        while position < len(ordered) and ordered[position].time <= share * end:
            report = ordered[position]
            if incumbent is None or (-report.step, report.value) < (
                -incumbent.step,
                incumbent.value,
            ):
                incumbent = report
            position += 1
        curve.append((share, problem.regret(incumbent.sampled) if incumbent else math.inf))
    return curve
