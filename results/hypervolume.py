"""The hypervolume of a front over its course."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.pareto import Staircase, hypervolume


def running_hypervolumes(
    costs: NDArray[np.float64], corner: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[n] the hypervolume of the first row, of the first two, and so on; it never falls.

    Each row adds what it alone dominates among those so far. That is O(log n) with two objectives;
    with more it is found from the front so far, cut to what the row reaches.

    10,000 rows take 6 ms of CPU time with two objectives and 60 ms with three: `python -m timeit
    -p -s "import numpy as np; from results.hypervolume import running_hypervolumes as f;
    c = np.ones(3); t = np.random.default_rng(0).random((10000, 3))" "f(t, c)"`. Where none of them
    dominates another, three objectives take 10 s (`t = np.random.default_rng(0).exponential(
    size=(10000, 3)); t /= t.sum(1, keepdims=True)`).

    costs: [n, k], the smaller the better; corner: [k]. A row that is not finite, or not below the
    corner in every objective, adds nothing.
    """
    gains = np.zeros(len(costs))
    rows = np.flatnonzero(np.isfinite(costs).all(axis=1) & (costs < corner).all(axis=1))
    if costs.shape[1] == 2:
        front = Staircase(*corner.tolist())
        gains[rows] = [front.add(x, y) for x, y in costs[rows].tolist()]
    else:
        gains[rows] = _gains(costs[rows], corner)
    return np.cumsum(gains)


def _gains(table: NDArray[np.float64], corner: NDArray[np.float64]) -> list[float]:
    """What each row alone dominates among those so far."""
    gains = []
    front = np.empty((0, table.shape[1]))
    for row in table:
        if (front <= row).all(axis=1).any():
            gains.append(0.0)
            continue
        others = hypervolume(_front(np.maximum(front, row), corner), corner)
        gains.append(max(float(np.prod(corner - row)) - others, 0.0))
        front = np.vstack([front[~(row <= front).all(axis=1)], row])
    return gains


def _front(table: NDArray[np.float64], corner: NDArray[np.float64]) -> NDArray[np.float64]:
    """The front of rows below the corner, where it is small beside their number: the row with the
    most room up to the corner is dominated by none, and the next one is found in what it leaves.
    """
    room, front = np.prod(corner - table, axis=1), []
    while len(table):
        largest = table[room.argmax()]
        front.append(largest)
        left = (table < largest).any(axis=1)
        table, room = table[left], room[left]
    return np.array(front).reshape(-1, len(corner))
