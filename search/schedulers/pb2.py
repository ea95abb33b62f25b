"""Population based bandits (Parker-Holder et al. 2020, "Provably Efficient Online Hyperparameter
Optimization with Population-Based Bandits"): a population that explores by a model of what each
interval has improved.

The model (`search.gp_model.IntervalModel`) is a Gaussian process over the settings of an interval,
the rank of the member at its beginning, and time. Improvements are standardised within their
interval, so what is learnt is which settings did better than others at that time. A member takes
the numbers with the highest upper confidence bound; choices are drawn as in PBT.

An improvement is one number, so of several objectives the model learns from the first (who copies
whom heeds all of them). A member that misses constraints counts as behind all that keep them, the
further the more it misses: an improvement is also the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from search.gp_model import Array, IntervalData, IntervalModel
from search.log import SweepState
from search.optuna.distributions import from_unit, to_unit
from search.plan import Plan
from search.schedulers.explore import explored, perturbed
from search.schedulers.population import Population
from search.seeds import derive
from search_spaces.domains import Choice

FEWEST = 4
"""Rows that the model needs; with fewer of them a member explores as in PBT."""

MOST = 160
"""Rows that the model is fitted to, the latest ones: older ones say little about now."""

KAPPA = 1.4
"""Standard deviations above the mean in the upper confidence bound: sqrt(beta), beta about 2."""

NEUTRAL = 0.5
"""The position of a number that a condition switches off."""

ANYWHERE, NEARBY, NEAR = 512, 256, 0.1
"""Number of candidates in the whole cube, and of those around the copied settings with this
standard deviation.
"""


class Pb2(Population):
    """Exploration by a bandit over a Gaussian process with a kernel that forgets."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._fitted: tuple[tuple[int, bytes, bytes], IntervalModel] | None = None

    def explored(self, state: SweepState, number: int, source: int, step: int) -> dict[str, Any]:
        space, parent = self.plan.space, state.trials[source].sampled
        draw = Random(derive(self.plan.seed, "explore", number, step))
        rows = self._rows(state, step)
        if len(rows.values) < FEWEST:
            return perturbed(space, parent, draw)
        child = explored(space, parent, draw, lambda domain, value: value)
        keys = [key for key in self._numbers if key in child]
        if not keys:
            return child
        candidates = self._candidates(child, keys, derive(self.plan.seed, "pb2", number, step))
        standing = self._standing(state, step)
        pending = _stack(self._pending(state, number, step, standing), rows.x.shape[1])
        mean, deviation = self._model(step, rows).predict(
            _with_standing(candidates, standing[source]), self._interval(step), pending
        )
        best = candidates[int(np.argmax(mean + KAPPA * deviation))]
        for key in keys:
            child[key] = from_unit(space.domains[key], float(best[self._numbers.index(key)]))
        return child

    def _model(self, step: int, rows: IntervalData) -> IntervalModel:
        """The fit to the rows, made once for all members that explore at a step."""
        key = (step, rows.x.tobytes(), rows.values.tobytes())
        if self._fitted is None or self._fitted[0] != key:
            self._fitted = (key, IntervalModel(rows))
        return self._fitted[1]

    @property
    def _numbers(self) -> list[str]:
        """The keys of the numbers, which the model learns from."""
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

    def _costs(self, state: SweepState, *steps: int) -> list[dict[int, float]]:
        """The first objective's cost of each member with a value at each step; of those that miss
        constraints, the worst of the others at any of these steps plus one and the amount by which
        they miss them.
        """
        goal, found = self.plan.goal, []
        for step in steps:
            there = [member for member in self.members(state) if step in member.rungs]
            values = [member.rungs[step] for member in there]
            costs, missed = goal.objectives[0].costs(values), goal.violations(values)
            numbers = [member.number for member in there]
            found.append(list(zip(numbers, costs, missed, strict=True)))
        kept = [c for rows in found for _, c, m in rows if m == 0.0 and np.isfinite(c)]
        behind = max(kept, default=0.0) + 1.0
        return [{n: behind + m if m else c for n, c, m in rows} for rows in found]

    def _rows(self, state: SweepState, step: int) -> IntervalData:
        """Settings and improvements of all intervals up to `step`."""
        rows: list[tuple[list[float], int, float]] = []
        for begin, end in zip((0, *self.plan.levels), self.plan.levels, strict=False):
            if end > step:
                break
            rows += self._interval_rows(state, begin, end)
        latest = rows[-MOST:]
        x = np.array([row[0] for row in latest]).reshape(len(latest), -1)
        times = np.array([row[1] for row in latest], float)
        return IntervalData(x, times, np.array([row[2] for row in latest]))

    def _interval_rows(
        self, state: SweepState, begin: int, end: int
    ) -> list[tuple[list[float], int, float]]:
        """Settings and rank of each member, interval, standardised improvement; an end that is not
        finite counts as the interval's worst.
        """
        standing = self._standing(state, begin)
        before, after = self._costs(state, begin, end)
        xs, gains = [], []
        for member in self.members(state):
            span = member.spans.get(begin)
            if span is None or member.number not in after:
                continue
            source = span.start[0] if span.start else member.number
            if begin and source not in standing:
                continue
            xs.append([*self._position(span.sampled), standing.get(source, NEUTRAL)])
            gains.append((before[source] if begin else 0.0) - after[member.number])
        y = _standardised(np.array(gains))
        return [(x, self._interval(begin), value) for x, value in zip(xs, y.tolist(), strict=True)]

    def _standing(self, state: SweepState, step: int) -> dict[int, float]:
        """The rank of each member at a step, from 0 for the best to 1 for the worst, among those
        with a finite value there.
        """
        (costs,) = self._costs(state, step)
        ranked = sorted((c, number) for number, c in costs.items() if np.isfinite(c))
        last = max(len(ranked) - 1, 1)
        return {number: index / last for index, (_, number) in enumerate(ranked)}

    def _pending(
        self, state: SweepState, number: int, step: int, standing: dict[int, float]
    ) -> list[list[float]]:
        """Settings and rank of the members before this one that explore at the same step, and
        whose results are still to come.
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


def _standardised(gains: Array) -> Array:
    """Mean 0 and deviation 1; what is not finite takes the worst of the rest."""
    finite = gains[np.isfinite(gains)]
    if len(finite) < 2 or finite.std() == 0.0:
        return np.zeros(len(gains))
    bounded = np.where(np.isfinite(gains), gains, finite.min())
    return (bounded - bounded.mean()) / bounded.std()


def _with_standing(positions: Array, standing: float) -> Array:
    return np.column_stack([positions, np.full(len(positions), standing)])


def _stack(rows: Sequence[Sequence[float]], columns: int) -> Array:
    return np.array(rows, dtype=float).reshape(len(rows), columns)
