"""The least number of steps whose score is within a tolerance of the best, where a score is noisy
and need not have one valley.

A golden section presumes both of a score: that it has one minimum and no noise (001-M22).
`coarse_to_fine` looks at a grid over all numbers first and becomes finer around those that may be
it; every number is judged by the same repeats, so that what two of them have in common (the noise
that samples are made of) takes no part in their comparison. `golden_section` is the document's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Score = Callable[[int, int], float]
"""`score(steps, repeat)`, less is better; equal repeats have equal noise."""

_INTERVALS = 8
"""Of the first grid."""

_LIKELY = 3
"""How many numbers that cannot be told from the best are looked around, the best ones first."""

_CONFIDENCE = 0.95
"""Two-sided, of a difference of two numbers by Student's t over the repeats."""


@dataclass(frozen=True)
class Difference:
    """Of one score less another, over the same repeats.

    Attributes:
        error: standard error of the mean.
        is_shown: whether the mean is further from 0 than the error allows for.
    """

    mean: float
    error: float
    is_shown: bool


@dataclass
class Scores:
    """Scores of numbers of steps, each repeat computed once.

    Attributes:
        found: number -> float64 [repeats], in the order in which they were asked for.
    """

    score: Score
    repeats: int
    found: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def of(self, steps: int) -> NDArray[np.float64]:
        """Raises ValueError: a score that is not finite."""
        if steps not in self.found:
            values = np.array([self.score(steps, repeat) for repeat in range(self.repeats)])
            if not np.isfinite(values).all():
                raise ValueError(
                    f"the score of {steps} steps is {values.tolist()}, and numbers of steps are "
                    "compared by finite ones. Look at the samples."
                )
            self.found[steps] = values
        return self.found[steps]

    def mean(self, steps: int) -> float:
        return float(self.of(steps).mean())

    def difference(self, steps: int, other: int) -> Difference:
        """The score of one number less that of another, repeat by repeat."""
        from scipy.stats import t

        values = self.of(steps) - self.of(other)
        mean, count = float(values.mean()), len(values)
        error = float(values.std(ddof=1)) / math.sqrt(count)
        quantile = float(t.ppf(0.5 + 0.5 * _CONFIDENCE, count - 1))
        return Difference(mean, error, abs(mean) > quantile * error)

    @property
    def best(self) -> int:
        """The one with the least mean; of equal ones the least number."""
        return min(sorted(self.found), key=self.mean)

    def least_within(self, tolerance: float) -> int:
        """The least number whose mean is above that of the best by the tolerance at most."""
        bound = self.mean(self.best) + tolerance
        return min(steps for steps in self.found if self.mean(steps) <= bound)

    def not_told_from(self, steps: int) -> list[int]:
        """The others whose difference to a number is not shown, ascending."""
        others = (other for other in sorted(self.found) if other != steps)
        return [other for other in others if not self.difference(other, steps).is_shown]


@dataclass(frozen=True)
class Choice:
    """Attributes:
    steps: the least number within the tolerance of the best.
    best: the number with the least mean.
    neighbours: those next to `steps` that were scored, with their differences to it.
    like_best: the numbers that cannot be told from the best.
    """

    steps: int
    best: int
    neighbours: Mapping[int, Difference]
    like_best: tuple[int, ...]


def coarse_to_fine(scores: Scores, low: int, high: int, tolerance: float) -> Choice:
    """Scores a grid of low ... high, then closer and closer around the best, what cannot be told
    from it, and the least number within the tolerance, until the neighbours of each are known.

    A valley that is narrower than an interval of the first grid may be missed; `every_number`
    misses none.
    """
    stride = max(1, math.ceil((high - low) / _INTERVALS))
    for steps in sorted({*range(low, high + 1, stride), high}):
        scores.of(steps)
    while True:
        stride = max(1, math.ceil(stride / 2))
        around = {scores.best, scores.least_within(tolerance), *_likely(scores)}
        asked = {steps + way * stride for steps in around for way in (-1, 1)}
        new = sorted(steps for steps in asked - scores.found.keys() if low <= steps <= high)
        for steps in new:
            scores.of(steps)
        if stride == 1 and not new:
            return choice(scores, tolerance)


def every_number(scores: Scores, low: int, high: int, tolerance: float) -> Choice:
    """The same of all numbers from low to high."""
    for steps in range(low, high + 1):
        scores.of(steps)
    return choice(scores, tolerance)


def choice(scores: Scores, tolerance: float) -> Choice:
    """The choice among what has been scored."""
    steps, best = scores.least_within(tolerance), scores.best
    beside = [other for other in (steps - 1, steps + 1) if other in scores.found]
    return Choice(
        steps=steps,
        best=best,
        neighbours={other: scores.difference(other, steps) for other in beside},
        like_best=tuple(scores.not_told_from(best)),
    )


def golden_section(
    value: Callable[[int], float], low: int, high: int, tolerance: float = 1.0
) -> tuple[int, dict[int, float]]:
    """The document's search: sections of low ... high, rounded to whole numbers, each scored once,
    until the interval is no wider than the tolerance.

    Returns:
        the best of those that were scored; number -> score of all of them.
    """
    found: dict[int, float] = {}

    def at(place: float) -> float:
        steps = round(place)
        if steps not in found:
            found[steps] = value(steps)
        return found[steps]

    share = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = float(low), float(high)
    inner = [right - share * (right - left), left + share * (right - left)]
    while right - left > tolerance:
        if at(inner[0]) < at(inner[1]):
            right, inner[1] = inner[1], inner[0]
            inner[0] = right - share * (right - left)
        else:
            left, inner[0] = inner[0], inner[1]
            inner[1] = left + share * (right - left)
    at(0.5 * (left + right))
    return min(sorted(found), key=found.__getitem__), found


def _likely(scores: Scores) -> list[int]:
    alike = scores.not_told_from(scores.best)
    return sorted(alike, key=scores.mean)[: _LIKELY - 1]
