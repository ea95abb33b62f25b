"""Problems whose answer is known: what a trial would report after so many steps, and how far its
settings are from the best.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.regret import functions
from search_spaces.domains import Choice, Domain, Integer, LogUniform, Uniform

RUNGS = (9, 27, 81, 243, 729)
"""Steps of BOHB's counting ones; the last one is the full length."""

Function = Callable[[functions.Array, float], functions.Array]
"""(points of shape (N, D) in the unit cube, fidelity z) -> N values."""


@dataclass(frozen=True)
class Problem(ABC):
    """What a search is measured on.

    Attributes:
        rungs: steps after which a trial reports; the last one is its full length.
    """

    name: str
    domains: Mapping[str, Domain]
    rungs: tuple[int, ...]

    @abstractmethod
    def value(self, sampled: Mapping[str, Any], step: int, seed: int) -> float:
        """What the trial with this seed reports at `step`; smaller is better. A function of its
        arguments alone.
        """

    @abstractmethod
    def regret(self, sampled: Mapping[str, Any]) -> float:
        """How far the settings are from the best ones at full fidelity, without noise; 0 at the
        best.
        """


@dataclass(frozen=True)
class CountingOnes(Problem):
    """Counting ones (Falkner, Klein and Hutter, "BOHB", ICML 2018, section 5.1): 8 choices of 0
    and 1, 8 real numbers x_i of [0, 1], of which b steps see only the mean of b Bernoulli(x_i)
    draws:

        f = -(sum of choices + sum of means) / 16, regret = 1 - (sum of choices + sum of x_i) / 16

    The draws of a trial are one stream: those of a longer rung begin with those of a shorter one.
    """

    each: int = 8

    def value(self, sampled: Mapping[str, Any], step: int, seed: int) -> float:
        ones, shares = self._parts(sampled)
        draws = np.random.default_rng(seed).random((step, self.each)) < shares
        return -float(ones.sum() + draws.mean(axis=0).sum()) / (2 * self.each)

    def regret(self, sampled: Mapping[str, Any]) -> float:
        ones, shares = self._parts(sampled)
        return 1 - float(ones.sum() + shares.sum()) / (2 * self.each)

    def _parts(self, sampled: Mapping[str, Any]) -> tuple[functions.Array, functions.Array]:
        ones = np.array([sampled[f"c.{i}"] for i in range(self.each)], dtype=float)
        return ones, np.array([sampled[f"x.{i}"] for i in range(self.each)])


@dataclass(frozen=True)
class Biased(Problem):
    """A function of x.0, x.1, ... in the unit cube whose short runs are biased: z = step / full
    length.

    Attributes:
        optimum: least value at z = 1.
        scale: what regret is measured in; the median regret of uniform points makes problems
            comparable.
        noise: standard deviation of what is added to every report, at the full length too; drawn
            anew at every rung.
    """

    function: Function
    optimum: float
    scale: float
    noise: float

    def value(self, sampled: Mapping[str, Any], step: int, seed: int) -> float:
        noise = self.noise * float(np.random.default_rng((seed, step)).normal())
        return self._biased(self._point(sampled), step) + noise

    def _biased(self, point: functions.Array, step: int) -> float:
        return float(self.function(point, step / self.rungs[-1])[0])

    def regret(self, sampled: Mapping[str, Any]) -> float:
        reached = float(self.function(self._point(sampled), 1.0)[0])
        return (reached - self.optimum) / self.scale

    def _point(self, sampled: Mapping[str, Any]) -> functions.Array:
        return np.array([[sampled[key] for key in self.domains]], dtype=float)


DECOY_SHARES = (1.0, 1.0, 0.3, 0.1, 0.0)
"""Share of the decoy in what each rung of the misleading problem reports."""


@dataclass(frozen=True)
class Misleading(Biased):
    """Hartmann6 whose two lowest rungs say nothing about the full length: they report a decoy,
    Hartmann6 of the reversed and mirrored point, whose rank correlation with the function itself
    is near 0 and whose optimum lies elsewhere. Longer runs mix it in, ever less of it.
    """

    def _biased(self, point: functions.Array, step: int) -> float:
        share = DECOY_SHARES[self.rungs.index(step)]
        decoy = float(self.function(1 - point[:, ::-1], 1.0)[0])
        return (1 - share) * super()._biased(point, step) + share * decoy


def counting_ones() -> Problem:
    ones: dict[str, Domain] = {f"c.{i}": Choice((0, 1)) for i in range(8)}
    shares: dict[str, Domain] = {f"x.{i}": Uniform(0.0, 1.0) for i in range(8)}
    return CountingOnes("counting_ones", {**ones, **shares}, RUNGS)


NOISE: Mapping[str, float] = {
    "hartmann3": 0.01**0.5,
    "hartmann6": 0.05**0.5,
    "branin": 0.05**0.5,
    "misleading": 0.05**0.5,
}
"""Standard deviation of a report, from its variance. Without noise a short run tells all but the
bias, and the best of many short runs is the answer.
"""


def hartmann3() -> Problem:
    return _of_cube(Biased, "hartmann3", functions.hartmann3, 3, functions.HARTMANN3_OPTIMUM)


def hartmann6() -> Problem:
    return _of_cube(Biased, "hartmann6", functions.hartmann6, 6, functions.HARTMANN6_OPTIMUM)


def branin() -> Problem:
    return _of_cube(Biased, "branin", functions.branin, 2, functions.BRANIN_OPTIMUM)


def misleading() -> Problem:
    return _of_cube(Misleading, "misleading", functions.hartmann6, 6, functions.HARTMANN6_OPTIMUM)


def _of_cube(
    kind: type[Biased], name: str, function: Function, dimensions: int, optimum: float
) -> Problem:
    points = np.random.default_rng(0).random((1 << 16, dimensions))
    scale = float(np.median(function(points, 1.0))) - optimum
    domains = {f"x.{i}": Uniform(0.0, 1.0) for i in range(dimensions)}
    return kind(name, domains, RUNGS, function, optimum, scale, NOISE[name])


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "counting_ones": counting_ones,
    "hartmann3": hartmann3,
    "hartmann6": hartmann6,
    "branin": branin,
    "misleading": misleading,
}


@cache
def make_problem(name: str) -> Problem:
    """A problem with a fidelity by name."""
    if name not in PROBLEMS:
        raise ValueError(f"a problem is one of {', '.join(PROBLEMS)}, not {name!r}.")
    return PROBLEMS[name]()


def draw(domains: Mapping[str, Domain], random: np.random.Generator) -> dict[str, Any]:
    """Uniform (or log-uniform) settings, as random search takes them."""
    return {key: _draw(domain, random) for key, domain in domains.items()}


def _draw(domain: Domain, random: np.random.Generator) -> Any:
    if isinstance(domain, Choice):
        return domain.options[int(random.integers(len(domain.options)))]
    if isinstance(domain, Integer) and not domain.log:
        count = (domain.high - domain.low) // domain.step + 1
        return domain.low + domain.step * int(random.integers(count))
    if isinstance(domain, Integer):  # k stands for the real numbers from k to k + 1
        return domain.snap(_log_uniform(domain.low, domain.high + 1, random))
    if isinstance(domain, LogUniform):
        return domain.snap(_log_uniform(domain.low, domain.high, random))
    return domain.snap(float(random.uniform(domain.low, domain.high)))


def _log_uniform(low: float, high: float, random: np.random.Generator) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))
