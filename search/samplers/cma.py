"""CMA-ES (Hansen 2016) replayed from the log; with choices in the space, CatCMA (Hamano et al.
2024), which adapts a categorical distribution beside the Gaussian.

Optuna's own CMA-ES keeps its state, pickled, in the trials that it asked for, and draws choices at
random, so the `cmaes` package is driven directly. Its state follows from what it was told: the
trials with a value at the level, by number, one population after the other. Trials ask and end in
any order, so some of a population were drawn from an earlier distribution, which costs a little
(with one worker, none).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import cmaes
import numpy as np
from numpy.typing import NDArray

from search.log import SweepState
from search.objectives import Goal, Values
from search.optuna.distributions import from_unit, to_unit
from search.plan import Plan
from search.samplers.ask import Row, active_of, known_at, level_of
from search.seeds import derive
from search.state_cache import cached_for
from search_spaces.domains import Choice, same_value
from settings.schema import Value

Array = NDArray[np.float64]

_SIGMA = 1 / 6
"""The first standard deviation, of a range: its ends are three of them from the middle."""


def ask_cma(plan: Plan, state: SweepState, trial: int, bracket: int) -> dict[str, Any]:
    """A draw from the distribution that CMA-ES has adapted to the trials at one level
    (`level_of`).

    It is told of sampled trials only: a documented point was not drawn from the distribution.
    Earlier sweeps' trials give its start (Nomura et al. 2021). Constraints order a population as
    they order the sweep. Numbers lie in the unit cube, a discrete one in the middle of its share.
    For a key that was inactive in a trial a random draw from the distribution is told, which
    teaches nothing about it.
    """
    step = level_of(plan, state, bracket, Random(derive(plan.seed, "level", trial)))
    rows = known_at(plan, state, step)
    asked = [row for row in rows if row.number >= 0 and state.trials[row.number].point is None]
    replay = _replay_of(plan, state, step, asked, [row for row in rows if row.number < 0])
    replay.tell(asked)
    return active_of(plan, replay.draw(derive(plan.seed, "sampler", trial)))


class Replay:
    """The optimizer with all that it has been told. After convergence it restarts with twice the
    population (Auger and Hansen 2005).

    Attributes:
        told: number and values of the trials that made the populations so far.
    """

    def __init__(self, plan: Plan, warm: Sequence[Row] = ()) -> None:
        domains = plan.space.domains
        self.plan = plan
        self.told: list[tuple[int, Values | None]] = []
        self._choices = {k: d for k, d in domains.items() if isinstance(d, Choice)}
        self._numbers = [key for key in domains if key not in self._choices]
        self._restarts = 0
        origin = (np.full(len(self._numbers), 0.5), _SIGMA, None)
        self._optimizer = self._begin(*(self._origin(warm) if warm else origin))

    def follows(self, rows: Sequence[Row]) -> bool:
        """Whether the populations so far are the first of these rows."""
        return self.told == [(row.number, row.values) for row in rows[: len(self.told)]]

    def tell(self, rows: Sequence[Row]) -> None:
        """Tells the optimizer of further rows, in whole populations; the rest waits."""
        while len(rows) - len(self.told) >= self._optimizer.population_size:
            begin = len(self.told)
            population = rows[begin : begin + self._optimizer.population_size]
            points = [self._point(row) for row in population]
            costs = _costs(self.plan.goal, population)
            self._optimizer.tell(list(zip(points, costs, strict=True)))
            self.told += [(row.number, row.values) for row in population]
            if self._optimizer.should_stop():
                self._restart()

    def draw(self, seed: int) -> dict[str, Value]:
        """A value of every key."""
        numbers, choices = self._ask(seed)
        domains = self.plan.space.domains
        drawn: dict[str, Value] = {
            key: from_unit(domains[key], float(position))
            for key, position in zip(self._numbers, numbers, strict=True)
        }
        for row, (key, domain) in zip(choices, self._choices.items(), strict=True):
            drawn[key] = domain.options[int(np.argmax(row))]
        return drawn

    def _ask(self, seed: int) -> tuple[Array, Array]:
        """Coordinates [numbers] and one-hot categories [choices, most options]."""
        self._optimizer.reseed_rng(seed)
        if isinstance(self._optimizer, cmaes.CMA):
            return self._optimizer.ask(), np.zeros((0, 0))
        numbers, choices = self._optimizer.ask()
        return numbers, choices.astype(float)

    def _point(self, row: Row) -> Any:
        """A trial in the coordinates of the optimizer's draws."""
        values, domains = row.sampled, self.plan.space.domains
        numbers, choices = self._ask(derive(self.plan.seed, "inactive", row.number))
        for index, key in enumerate(self._numbers):
            if key in values:
                numbers[index] = to_unit(domains[key], values[key])
        for index, (key, domain) in enumerate(self._choices.items()):
            if key in values:
                choices[index] = 0.0
                choices[index, _index(domain, values[key])] = 1.0
        return (numbers, choices) if self._choices else numbers

    def _origin(self, warm: Sequence[Row]) -> tuple[Array, float, Array]:
        """Mean, deviation and covariance of the best tenth of earlier trials."""
        costs = _costs(self.plan.goal, warm)
        domains = self.plan.space.domains
        points = [
            np.array(
                [
                    to_unit(domains[k], row.sampled[k]) if k in row.sampled else 0.5
                    for k in self._numbers
                ]
            )
            for row in warm
        ]
        best = max(0.1, 1 / len(warm))
        mean, sigma, covariance = cmaes.get_warm_start_mgd(
            list(zip(points, costs, strict=True)), gamma=best
        )
        return np.clip(mean, 0.0, 1.0), sigma, covariance

    def _begin(
        self, mean: Array, sigma: float, covariance: Array | None, population: int | None = None
    ) -> cmaes.CMA | cmaes.CatCMA:
        common = {
            "mean": mean,
            "sigma": sigma,
            "cov": covariance,
            "bounds": np.array([[0.0, 1.0]] * len(mean)),
            "n_max_resampling": 10 * len(mean),
            "population_size": population,
        }
        if not self._choices:
            return cmaes.CMA(**common)
        options = np.array([len(domain.options) for domain in self._choices.values()])
        return cmaes.CatCMA(cat_num=options, **common)

    def _restart(self) -> None:
        self._restarts += 1
        draw = np.random.default_rng(derive(self.plan.seed, "restart", self._restarts))
        population = 2 * self._optimizer.population_size
        mean = draw.uniform(size=len(self._numbers))
        self._optimizer = self._begin(mean, _SIGMA, None, population)


class _Replays(dict[int, Replay]):
    def __init__(self, plan: Plan) -> None:
        super().__init__()


def _replay_of(
    plan: Plan, state: SweepState, step: int, asked: Sequence[Row], warm: Sequence[Row]
) -> Replay:
    """The replay of an earlier ask, where the log has only grown at its end since (which saves
    time and changes no answer); else a new one.
    """
    replays = cached_for(plan, state, _Replays)
    replay = replays.get(step)
    if replay is None or not replay.follows(asked):
        replay = replays[step] = Replay(plan, warm)
    return replay


def _costs(goal: Goal, rows: Sequence[Row]) -> list[float]:
    """One number a row, in the order of the goal: rows that miss constraints come behind the worst
    of those that keep them, and rows that are not finite last.
    """
    keys = goal.badness([row.values or {} for row in rows])
    feasible = [cost for violation, cost in keys if violation == 0.0 and np.isfinite(cost)]
    behind = max(feasible, default=0.0) + 1.0
    return [cost if violation == 0.0 else behind + violation for violation, cost in keys]


def _index(domain: Choice, value: object) -> int:
    return next(i for i, option in enumerate(domain.options) if same_value(option, value))
