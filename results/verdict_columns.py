"""The columns that say which trials are a sweep's results: feasible ones, the best, the front, its
knee, and the means over repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.directory import Sweep
from search.log import COMPLETE, TrialRecord
from search.objectives import Goal
from search.pareto import knee, non_dominated

TIE_ERRORS = 2.0
"""Standard errors of their difference by which two means must differ not to share a rank."""

Columns = Mapping[str, np.ndarray]
"""[n] by column of the goal: one value a trial, NaN for none."""


def verdict_columns(
    sweep: Sweep, trials: Sequence[TrialRecord], measured: Columns
) -> dict[str, Any]:
    """The columns feasible, violation, is_best, is_pareto and is_knee, and `repeats/*` where there
    are repeats.

    Args:
        measured: at the last report. A configuration that was repeated is judged by the means
            over its repeats instead: the draw that chose it was lucky as well as good.
    """
    goal, draws = sweep.goal, _draws(sweep, trials, measured)
    judged = draws.means
    violation = violations(goal, judged, len(trials))
    feasible = (violation == 0.0) & ~np.array([t.infeasible for t in trials], dtype=bool)
    is_original = np.array([t.repeat_of is None for t in trials], dtype=bool)
    complete = np.array([t.status == COMPLETE for t in trials], dtype=bool)
    costs = [judged[o.metric] * (1.0 if o.mode == "min" else -1.0) for o in goal.objectives]
    table = np.column_stack(costs)
    candidates = is_original & complete & feasible & np.isfinite(table).all(axis=1)
    repeated = candidates & (draws.counts > 0)
    has_repeats = bool((draws.counts > 0).any())
    best = _best(table, repeated if has_repeats else candidates)
    columns: dict[str, Any] = {}
    if has_repeats or sweep.repeats:
        rank = _tied_ranks(table[:, 0], draws.errors, repeated)
        columns |= {
            "repeats/n": draws.counts,
            "repeats/mean": _where_drawn(draws, sweep.objective.metric),
            "repeats/se": draws.errors,
            "repeats/rank": pd.array(rank, dtype="Int64"),
        }
        for other in goal.objectives[1:]:
            columns[f"repeats/mean/{other.metric}"] = _where_drawn(draws, other.metric)
    columns |= {"feasible": feasible, "violation": violation, "is_best": best}
    several = len(goal.objectives) > 1
    columns["is_pareto"] = _front(table, candidates) if several else best.copy()
    columns["is_knee"] = _knee(table, columns["is_pareto"] & several)
    return columns


@dataclass(frozen=True)
class _Draws:
    """The repeats of each trial.

    Attributes:
        means: by column, the means over its repeats; its own values where it has none.
        counts: number of its repeats.
        errors: standard error of the first objective's mean; NaN for fewer than two repeats.
    """

    means: Columns
    counts: np.ndarray
    errors: np.ndarray


def _draws(sweep: Sweep, trials: Sequence[TrialRecord], measured: Columns) -> _Draws:
    """The repeats of each trial; only complete ones with a value of the first objective count."""
    first = measured[sweep.objective.metric]
    rows = {trial.number: row for row, trial in enumerate(trials)}
    repeats: dict[int, list[int]] = {}
    for row, trial in enumerate(trials):
        is_draw = trial.repeat_of is not None and trial.status == COMPLETE
        if is_draw and math.isfinite(first[row]):
            repeats.setdefault(rows[trial.repeat_of], []).append(row)  # type: ignore[index]
    means = {column: values.copy() for column, values in measured.items()}
    counts, errors = np.zeros(len(trials), dtype=np.int64), np.full(len(trials), np.nan)
    for row, drawn in repeats.items():
        counts[row] = len(drawn)
        for column, values in measured.items():
            means[column][row] = values[drawn].mean()
        if len(drawn) > 1:
            errors[row] = first[drawn].std(ddof=1) / math.sqrt(len(drawn))
    return _Draws(means, counts, errors)


def _where_drawn(draws: _Draws, column: str) -> np.ndarray:
    return np.where(draws.counts > 0, draws.means[column], np.nan)


def violations(goal: Goal, values: Columns, count: int) -> np.ndarray:
    """[n] sums of the amounts by which constraints are missed; infinite where a bounded column has
    no value.
    """
    if not goal.constraints:
        return np.zeros(count)
    return np.array([goal.violation(row) for row in _rows(values, count)], dtype=float)


def _rows(values: Columns, count: int) -> Iterator[dict[str, float]]:
    """The values of each trial by column; one that is not finite is absent."""
    for row in range(count):
        yield {k: float(v[row]) for k, v in values.items() if math.isfinite(v[row])}


def _best(costs: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """[n] at most one True: the row of lowest first cost; among equals that of the lowest next
    costs, so that no other dominates it; then the first. costs: [n, k].
    """
    best = np.zeros(len(costs), dtype=bool)
    rows = np.flatnonzero(candidates).tolist()
    if rows:
        best[min(rows, key=lambda row: (*costs[row], row))] = True
    return best


def _tied_ranks(costs: np.ndarray, errors: np.ndarray, rows: np.ndarray) -> list[int | None]:
    """Ranks from 1 over the chosen rows, by mean; None for the others.

    A row shares the rank of the first one of its group unless its mean is worse by `TIE_ERRORS`
    standard errors of the difference; with a single draw there is no error, and nothing to tell
    the two apart by.
    """
    ranks: list[int | None] = [None] * len(costs)
    first, rank = -1, 0
    order = sorted(np.flatnonzero(rows).tolist(), key=lambda row: (costs[row], row))
    for place, row in enumerate(order, 1):
        if first < 0 or tells_apart(costs[row] - costs[first], errors[row], errors[first]):
            first, rank = row, place
        ranks[row] = rank
    return ranks


def tells_apart(difference: float, error_here: float, error_there: float) -> bool:
    """Whether two means differ by `TIE_ERRORS` standard errors of their difference."""
    error = math.hypot(error_here, error_there)
    return difference != 0.0 and abs(difference) >= TIE_ERRORS * error


def _front(costs: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    front = np.zeros(len(costs), dtype=bool)
    front[candidates] = non_dominated(costs[candidates], ["min"] * costs.shape[1])
    return front


def _knee(costs: np.ndarray, front: np.ndarray) -> np.ndarray:
    is_knee = np.zeros(len(costs), dtype=bool)
    rows = np.flatnonzero(front)
    at = knee(costs[rows])
    if at is not None:
        is_knee[rows[at]] = True
    return is_knee
