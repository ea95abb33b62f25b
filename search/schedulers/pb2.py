"""Population based bandits (Parker-Holder et al. 2020, "Provably Efficient Online Hyperparameter
Optimization with Population-Based Bandits"): a population that explores by a model of what each
interval has improved.

The model is a Gaussian process over the settings of an interval, the standing of the member at
its beginning, and time: k(x, x') exp(-tau |i - j| / 2), k squared-exponential with a length for
each key, x in the unit cube, i and j the numbers of the intervals (the paper's (1 - epsilon) to
the power |i - j| / 2). Improvements are standardised within their interval, so what is learnt is
which settings did better than others at that time. A member takes the numbers with the highest
upper confidence bound; choices are drawn as in PBT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from search.log import SweepState
from search.optuna_distributions import from_unit, to_unit
from search.plan import Plan
from search.schedulers.explore import explored, perturbed
from search.schedulers.population import Population
from search.seeds import derive
from search_spaces.domains import Choice

FEWEST = 4
"""Rows that the model needs; with fewer a member explores as in PBT."""

MOST = 160
"""The latest rows that it is fitted to: time has made the older ones worth little."""

KAPPA = 1.4
"""Standard deviations above the mean that are hoped for: sqrt(beta), with beta about 2."""

NEUTRAL = 0.5
"""Stands for a number that a condition switches off."""

ANYWHERE, NEARBY, NEAR = 512, 256, 0.1
"""Candidates in the whole cube, and with this standard deviation around the copied settings."""

Array = np.ndarray


class Pb2(Population):
    """Exploration by a bandit over a Gaussian process with a kernel that forgets."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._fitted: tuple[tuple[int, bytes, bytes], Model] | None = None

    def explored(self, state: SweepState, number: int, source: int, step: int) -> dict[str, Any]:
        space, parent = self.plan.space, state.trials[source].sampled
        draw = Random(derive(self.plan.seed, "explore", number, step))
        rows = self._rows(state, step)
        if len(rows.y) < FEWEST:
            return perturbed(space, parent, draw)
        child = explored(space, parent, draw, lambda domain, value: value)
        keys = [key for key in self._numbers if key in child]
        if not keys:
            return child
        candidates = self._candidates(child, keys, derive(self.plan.seed, "pb2", number, step))
        standing = self._standing(state, step)
        pending = _stack(self._pending(state, number, step, standing), rows.x.shape[1])
        bound = self._model(step, rows).upper_bound(
            _with_standing(candidates, standing[source]), self._interval(step), pending
        )
        best = candidates[int(np.argmax(bound))]
        for key in keys:
            child[key] = from_unit(space.domains[key], float(best[self._numbers.index(key)]))
        return child

    def _model(self, step: int, rows: Rows) -> Model:
        """The fit to the rows; those that explore at one step share it."""
        key = (step, rows.x.tobytes(), rows.y.tobytes())
        if self._fitted is None or self._fitted[0] != key:
            self._fitted = (key, Model.fit(rows))
        return self._fitted[1]

    @property
    def _numbers(self) -> list[str]:
        """The keys that the model sees."""
        domains = self.plan.space.domains
        return [key for key, domain in domains.items() if not isinstance(domain, Choice)]

    def _position(self, sampled: Mapping[str, Any]) -> list[float]:
        domains = self.plan.space.domains
        return [
            to_unit(domains[key], sampled[key]) if key in sampled else NEUTRAL
            for key in self._numbers
        ]

    def _interval(self, step: int) -> int:
        """The number of the interval that begins at a step."""
        return 0 if step == 0 else self.plan.levels.index(step) + 1

    def _cost(self, values: dict[str, float]) -> float:
        return self.plan.goal.objectives[0].cost(values)

    def _rows(self, state: SweepState, step: int) -> Rows:
        """What every interval up to `step` has shown of its settings."""
        found: list[tuple[list[float], int, float]] = []
        for begin, end in zip((0, *self.plan.levels), self.plan.levels, strict=False):
            if end > step:
                break
            found += self._interval_rows(state, begin, end)
        latest = found[-MOST:]
        x = np.array([row[0] for row in latest]).reshape(len(latest), -1)
        times, y = np.array([row[1] for row in latest], float), np.array([r[2] for r in latest])
        return Rows(x, times, y)

    def _interval_rows(
        self, state: SweepState, begin: int, end: int
    ) -> list[tuple[list[float], int, float]]:
        """Settings and standing, interval, standardised improvement; an end that is not finite
        counts as the interval's worst.
        """
        standing = self._standing(state, begin)
        xs, gains = [], []
        for member in self.members(state):
            span = member.spans.get(begin)
            if span is None or end not in member.rungs:
                continue
            source = span.start[0] if span.start else member.number
            if begin and source not in standing:
                continue
            before = self._cost(state.trials[source].rungs[begin]) if begin else 0.0
            xs.append([*self._position(span.sampled), standing.get(source, NEUTRAL)])
            gains.append(before - self._cost(member.rungs[end]))
        y = _standardised(np.array(gains))
        return [(x, self._interval(begin), value) for x, value in zip(xs, y.tolist(), strict=True)]

    def _standing(self, state: SweepState, step: int) -> dict[int, float]:
        """The place of each member at a step, 0 for the best to 1 for the worst, among those with
        a finite value there.
        """
        costs = {
            member.number: self._cost(member.rungs[step])
            for member in self.members(state)
            if step in member.rungs
        }
        ranked = sorted((c, number) for number, c in costs.items() if np.isfinite(c))
        last = max(len(ranked) - 1, 1)
        return {number: index / last for index, (_, number) in enumerate(ranked)}

    def _pending(
        self, state: SweepState, number: int, step: int, standing: dict[int, float]
    ) -> list[list[float]]:
        """What the members before this one have chosen at the same step, of which the standing is
        given; its results are not in yet.
        """
        spans = {m.number: m.spans.get(step) for m in self.members(state) if m.number < number}
        return [
            [*self._position(span.sampled), standing.get(span.start[0], NEUTRAL)]
            for span in spans.values()
            if span is not None and span.start is not None
        ]

    def _candidates(self, child: dict[str, Any], keys: Sequence[str], seed: int) -> Array:
        """[candidates, numbers] positions; keys that are switched off stay neutral."""
        random = np.random.default_rng(seed)
        here = np.array(self._position(child))
        anywhere = random.random((ANYWHERE, len(here)))
        nearby = np.clip(here + NEAR * random.standard_normal((NEARBY, len(here))), 0.0, 1.0)
        candidates = np.concatenate([anywhere, nearby])
        for index, key in enumerate(self._numbers):
            if key not in keys:
                candidates[:, index] = NEUTRAL
        return candidates


@dataclass(frozen=True)
class Rows:
    """x [n, numbers + 1] positions and standing, times [n] intervals, y [n] improvements."""

    x: Array
    times: Array
    y: Array


@dataclass(frozen=True)
class Model:
    """A Gaussian process of zero mean. `theta` holds logarithms: a length for each column of x,
    the rate tau of forgetting, and the variance of the noise; the prior variance is 1.
    """

    theta: Array
    rows: Rows

    @classmethod
    def fit(cls, rows: Rows) -> Model:
        """Maximises the marginal likelihood under normal priors on `theta`, which hold where the
        rows are few.
        """
        from scipy.optimize import minimize

        centre = np.array([0.0] * rows.x.shape[1] + [-1.0, -1.5])
        bounds = [(middle - 4.0, middle + 4.0) for middle in centre]
        found = minimize(_loss, centre, (rows, centre), jac=True, method="L-BFGS-B", bounds=bounds)
        return cls(found.x, rows)

    def upper_bound(self, x: Array, interval: int, pending: Array) -> Array:
        """Mean plus `KAPPA` standard deviations at x [c, d]; `pending` [p, d] lowers the
        deviation only (Desautels et al. 2014, GP-BUCB).
        """
        from scipy.linalg import cho_factor, cho_solve

        rows, noise = self.rows, np.exp(self.theta[-1])
        here = np.full(len(x), float(interval))
        covariance = _kernel(self.theta, rows.x, rows.times, rows.x, rows.times)
        factor = cho_factor(covariance + noise * np.eye(len(rows.y)), lower=True)
        cross = _kernel(self.theta, x, here, rows.x, rows.times)
        mean = cross @ cho_solve(factor, rows.y)
        seen = np.concatenate([rows.x, pending])
        times = np.concatenate([rows.times, np.full(len(pending), float(interval))])
        covariance = _kernel(self.theta, seen, times, seen, times)
        factor = cho_factor(covariance + noise * np.eye(len(times)), lower=True)
        cross = _kernel(self.theta, x, here, seen, times)
        explained = np.einsum("cn,nc->c", cross, cho_solve(factor, cross.T))
        return mean + KAPPA * np.sqrt(np.maximum(1.0 - explained, 0.0))


def _kernel(theta: Array, x: Array, i: Array, z: Array, j: Array) -> Array:
    lengths, tau = np.exp(theta[:-2]), np.exp(theta[-2])
    scaled, other = x / lengths, z / lengths
    squares = (scaled**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2.0 * scaled @ other.T
    gap = np.abs(i[:, None] - j[None])
    return np.exp(-0.5 * np.maximum(squares, 0.0) - 0.5 * tau * gap)


def _loss(theta: Array, rows: Rows, centre: Array) -> tuple[float, Array]:
    """The negative logarithm of likelihood times prior, and its gradient."""
    from scipy.linalg import cho_factor, cho_solve

    n, noise = len(rows.y), np.exp(theta[-1])
    signal = _kernel(theta, rows.x, rows.times, rows.x, rows.times)
    factor = cho_factor(signal + noise * np.eye(n), lower=True)
    alpha = cho_solve(factor, rows.y)
    away = theta - centre
    loss = 0.5 * rows.y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
    slope = cho_solve(factor, np.eye(n)) - np.outer(alpha, alpha)  # 2 d loss / d covariance
    gradient = away.copy()
    for column in range(rows.x.shape[1]):
        gaps = (rows.x[:, column][:, None] - rows.x[:, column][None]) / np.exp(theta[column])
        gradient[column] += 0.5 * (slope * signal * gaps**2).sum()
    gap = np.abs(rows.times[:, None] - rows.times[None])
    gradient[-2] += 0.5 * (slope * signal * (-0.5 * np.exp(theta[-2]) * gap)).sum()
    gradient[-1] += 0.5 * noise * np.trace(slope)
    return float(loss), gradient


def _standardised(gains: Array) -> Array:
    """Mean 0 and deviation 1; what is not finite takes the worst of the rest."""
    finite = gains[np.isfinite(gains)]
    if len(finite) < 2 or finite.std() == 0.0:
        return np.zeros(len(gains))
    kept = np.where(np.isfinite(gains), gains, finite.min())
    return (kept - kept.mean()) / kept.std()


def _with_standing(positions: Array, standing: float) -> Array:
    return np.column_stack([positions, np.full(len(positions), standing)])


def _stack(rows: Sequence[Sequence[float]], columns: int) -> Array:
    return np.array(rows, dtype=float).reshape(len(rows), columns)
