"""Sampler `gp`: expected improvement by a Gaussian process over settings and rung
(`search.gp_model.LevelModel`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.gp_model import Array, LevelData, LevelModel
from search.log import SweepState
from search.optuna.distributions import from_unit, to_unit
from search.plan import Plan
from search.samplers.ask import Row, active_of, fewest, known_at, unknown_at
from search.seeds import derive
from search_spaces.domains import Choice, Domain
from settings.schema import Value

Configuration = Mapping[str, Value]

ROWS, TOP_ROWS, BEST_ROWS = 300, 150, 50
"""Number of values that the model is fitted to: in all, of the full length, and of the best of the
other levels; the remaining ones are a sample.
"""

CANDIDATES, STARTS, STEPS, ROUNDS = 1000, 6, 20, 4
"""Number of configurations drawn at random, of the best ones that are improved by small steps, of
steps from each in a round, and of rounds.
"""

_FENCE = 1.5
"""Interquartile ranges above the third quartile of a level at which its values are clipped
(Tukey): how bad a failure is says nothing about the best.
"""


def ask_gp(plan: Plan, state: SweepState, trial: int, bracket: int) -> dict[str, Any]:
    """The configuration with the greatest expected improvement at full length, over the lowest
    mean that the model predicts there for a configuration of its data.

    A running trial counts as if it had the value that the model predicts. Without rungs, with
    several objectives or with constraints Optuna's `GPSampler` is used instead, which learns from
    one level an ask.
    """
    if not plan.rungs or len(plan.goal.objectives) > 1 or plan.goal.constraints:
        from search.samplers.optuna_samplers import ask_optuna

        return ask_optuna(plan, state, trial, bracket)
    draw = np.random.default_rng(derive(plan.seed, "sampler", trial))
    encoder = Encoder(plan)
    collected = collect(plan, state, encoder, draw)
    if collected is None:
        return encoder.configuration(draw.random(encoder.keys))
    data, best = collected
    model = LevelModel(data)
    least = float(model.predict(data.features)[0].min())
    running = [row.sampled for row in unknown_at(plan, state)]
    model.expect(encoder.features(running))
    positions = draw.random((CANDIDATES, encoder.keys))
    positions[: len(best)] = encoder.positions(best)
    gain = _gain(model, encoder, positions, least)
    for _ in range(ROUNDS):
        starts = positions[np.argsort(-gain, kind="stable")[:STARTS]]
        steps = _steps(starts, encoder, draw)
        positions = np.concatenate([starts, steps])
        gain = _gain(model, encoder, positions, least)
    return encoder.configuration(positions[int(np.argmax(gain))])


class Encoder:
    """Configurations as rows of numbers: a position in [0, 1] for a number, the index of its
    option for a choice. An inactive number lies in the middle, an inactive choice is an option of
    its own.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._domains = plan, plan.space.domains
        self.keys = len(self._domains)
        self.is_choice = np.array([isinstance(d, Choice) for d in self._domains.values()])
        self._index = {  # True equals 1, and is another option
            key: {(isinstance(o, bool), o): float(i) for i, o in enumerate(domain.options)}
            for key, domain in self._domains.items()
            if isinstance(domain, Choice)
        }

    def configuration(self, position: Array) -> dict[str, Value]:
        """The active values at a point of the unit cube."""
        drawn = {
            key: from_unit(domain, u)
            for (key, domain), u in zip(self._domains.items(), position.tolist(), strict=True)
        }
        return active_of(self._plan, drawn)

    def positions(self, configurations: Sequence[Configuration]) -> Array:
        """[n, keys] points of the unit cube; inactive keys lie in the middle."""
        rows = [
            [to_unit(d, values[key]) if key in values else 0.5 for key, d in self._domains.items()]
            for values in configurations
        ]
        return np.array(rows, dtype=float).reshape(len(configurations), self.keys)

    def _feature(self, key: str, domain: Domain, value: Value) -> float:
        if isinstance(domain, Choice):
            return self._index[key][isinstance(value, bool), value]
        return to_unit(domain, value)

    def features(self, configurations: Sequence[Configuration]) -> Array:
        """[n, keys] inputs of the model."""
        rows = [
            [
                self._feature(key, domain, values[key]) if key in values else _absent(domain)
                for key, domain in self._domains.items()
            ]
            for values in configurations
        ]
        return np.array(rows, dtype=float).reshape(len(configurations), self.keys)


def collect(
    plan: Plan, state: SweepState, encoder: Encoder, draw: np.random.Generator
) -> tuple[LevelData, list[Configuration]] | None:
    """The values of all levels, thinned to `ROWS`, and the best configurations of the highest
    level; None where too few trials have a value.
    """
    entries: list[tuple[int, Row, float]] = []
    for level, step in enumerate(plan.levels):
        rows = known_at(plan, state, step)
        costs = [plan.goal.objectives[0].cost(row.values or {}) for row in rows]
        last = level == len(plan.levels) - 1
        pairs = zip(rows, costs, strict=True)
        # An infeasible trial is bad at full length, wherever it was stopped.
        entries += [(level, row, cost) for row, cost in pairs if math.isfinite(cost) or last]
    if len({row.number for _, row, cost in entries if math.isfinite(cost)}) < fewest(plan):
        return None
    values = np.array([cost for _, _, cost in entries])
    levels = np.array([level for level, _, _ in entries])
    values = _standardised(values, levels)
    chosen = _thinned(levels, values, len(plan.levels) - 1, draw)
    depths = np.log(plan.levels) - math.log(plan.levels[0])
    # Those without a value are no place to start from, however high their level.
    unknown = ~np.isfinite([cost for _, _, cost in entries])[chosen]
    order = np.lexsort((values[chosen], -levels[chosen], unknown))[:STARTS]
    data = LevelData(
        features=encoder.features([entries[i][1].sampled for i in chosen]),
        is_choice=encoder.is_choice,
        levels=levels[chosen],
        depth=(depths / depths[-1])[levels[chosen]],
        values=values[chosen],
    )
    return data, [entries[chosen[i]][1].sampled for i in order]


def _standardised(costs: Array, levels: NDArray[np.int64]) -> Array:
    """Costs minus the median of their level, divided by the spread within levels; outliers and
    those that are not finite are clipped (`_FENCE`).
    """
    values = np.full(len(costs), np.inf)
    for level in np.unique(levels):
        here = (levels == level) & np.isfinite(costs)
        if here.any():
            low, middle, high = np.quantile(costs[here], (0.25, 0.5, 0.75))
            values[here] = np.minimum(costs[here], high + _FENCE * (high - low)) - middle
    finite = values[np.isfinite(values)]
    values[~np.isfinite(values)] = finite.max()
    return values / max(float(finite.std()), 1e-12)


def _thinned(
    levels: NDArray[np.int64], values: Array, top: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of at most `ROWS` values, ascending."""
    full, lower = np.flatnonzero(levels == top), np.flatnonzero(levels != top)
    full = _best_and_sample(full, values, TOP_ROWS // 2, TOP_ROWS, draw)
    lower = _best_and_sample(lower, values, BEST_ROWS, ROWS - len(full), draw)
    return np.sort(np.concatenate([full, lower]))


def _best_and_sample(
    among: NDArray[np.int64], values: Array, best: int, count: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    if len(among) <= count:
        return among
    order = among[np.argsort(values[among], kind="stable")]
    return np.concatenate([order[:best], draw.choice(order[best:], count - best, replace=False)])


def _gain(model: LevelModel, encoder: Encoder, positions: Array, least: float) -> Array:
    """[n] expected improvement below `least` at points [n, keys] of the unit cube (Jones et al.
    1998).
    """
    from scipy.special import ndtr

    configurations = [encoder.configuration(position) for position in positions]
    mean, deviation = model.predict(encoder.features(configurations))
    z = (least - mean) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    gain: Array = deviation * (z * ndtr(z) + density)
    return gain


def _steps(starts: Array, encoder: Encoder, draw: np.random.Generator) -> Array:
    """[n * STEPS, keys] points near others: each key moves with probability 2 / keys, a number by
    a step of a size between 0.003 and 0.3, a choice to any option.
    """
    near = np.repeat(starts, STEPS, axis=0)
    moves = draw.random(near.shape) < min(2.0 / encoder.keys, 1.0)
    moves[np.arange(len(near)), draw.integers(encoder.keys, size=len(near))] = True
    sizes = 10.0 ** draw.uniform(-2.5, -0.5, size=(len(near), 1))
    moved = np.clip(near + sizes * draw.standard_normal(near.shape), 0.0, 1.0)
    moved = np.where(encoder.is_choice, draw.random(near.shape), moved)
    return np.where(moves, moved, near)


def _absent(domain: Domain) -> float:
    return -1.0 if isinstance(domain, Choice) else 0.5
