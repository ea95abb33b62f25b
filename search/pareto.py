"""Which of several objectives' trade-offs are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def non_dominated(values: Any, modes: Sequence[str]) -> NDArray[np.bool_]:
    """[n] true where no other row is at least as good in every objective and better in one.

    values: [n, k]; modes: "min" or "max" for each of the k columns. A row with a NaN is never
    kept; equal rows are kept or dropped together. O(n log n) for two objectives, O(n * front) for
    more.
    """
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or table.shape[1] != len(modes) or not set(modes) <= {"min", "max"}:
        raise ValueError(
            f"non_dominated needs values [n, k] with k modes of min or max, "
            f"not {table.shape} and {list(modes)}."
        )
    costs = table * np.array([1.0 if mode == "min" else -1.0 for mode in modes])
    keep = np.zeros(len(costs), dtype=bool)
    rows = np.flatnonzero(~np.isnan(costs).any(axis=1))
    if len(rows):
        unique, inverse = np.unique(costs[rows], axis=0, return_inverse=True)
        front = _front_of_two(unique) if costs.shape[1] == 2 else _front(unique)
        keep[rows] = front[inverse.reshape(-1)]
    return keep


def _front_of_two(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Distinct rows in lexicographic order: kept if its second cost is below all before it."""
    best_before = np.minimum.accumulate(np.concatenate(([np.inf], costs[:-1, 1])))
    keep = costs[:, 1] < best_before
    keep[0] = True  # also where its second cost is infinite
    return keep


def _front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Distinct rows in lexicographic order: none dominates an earlier one, so only the front so
    far can object.
    """
    front: list[int] = []
    for row, cost in enumerate(costs):
        if not front or not (costs[front] <= cost).all(axis=1).any():
            front.append(row)
    keep = np.zeros(len(costs), dtype=bool)
    keep[front] = True
    return keep
