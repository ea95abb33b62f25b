"""What can be among the best of several objectives, kept up to date row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BLOCK = 64
"""Rows that are compared with the band at a time when it is made anew."""


class ParetoBand:
    """The rows that fewer than `depth` others dominate (Papadias et al. 2005, "Progressive skyline
    computation in database systems", the K-skyband), the smaller the better.

    All that dominates a row lies in earlier fronts. So what lies in the first fronts, up to that
    with which they hold `enough` rows, is dominated by fewer than `enough`, and for a `depth` of
    `enough` or more these fronts of the band are those of all rows. Where rows are independent,
    the band grows with a power of their logarithm.

    Every row outside is dominated by `_reach` of the band or more: by `depth`, less one for every
    row that has been taken out of the band since it was made. When that is too few, it is made
    anew.
    """

    def __init__(self, objectives: int, depth: int) -> None:
        self._objectives, self._depth = objectives, depth
        self._rows: dict[int, tuple[float, ...]] = {}
        self._version = 0
        self._make_anew()

    def _make_anew(self) -> None:
        self._reach = self._depth
        self._new = dict.fromkeys(self._rows)  # not compared with the band yet
        self._numbers = np.zeros(0, dtype=np.int64)
        self._costs = np.zeros((self._objectives, 0))  # rows that lie together are compared faster
        self._dominators = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        """Of all rows, not of the band alone."""
        return len(self._rows)

    def add(self, number: int, costs: Sequence[float]) -> None:
        """Takes a row in, of a number that it does not have yet.

        costs: [objectives], finite.
        """
        self._rows[number] = tuple(costs)
        self._new[number] = None

    def settle(self) -> int:
        """Brings the band up to date; a number that is another one where the band has changed.

        Good rows first and many at a time, so that most find their dominators there at once.
        """
        numbers = list(self._new)
        costs = np.array([self._rows[number] for number in numbers]).reshape(-1, self._objectives)
        order = np.argsort(costs.sum(axis=1), kind="stable")
        for begin in range(0, len(order), _BLOCK):
            block = order[begin : begin + _BLOCK]
            ahead, behind = self._costs[:, None], costs[block].T[:, :, None]
            dominated = (ahead <= behind).all(axis=0) & (ahead < behind).any(axis=0)
            for index in block[dominated.sum(axis=1) < self._reach]:
                self._enter(numbers[index], costs[index])
        self._new = {}
        return self._version

    def _enter(self, number: int, row: NDArray[np.float64]) -> None:
        no_worse, no_better = self._against(row)
        count = int((no_worse & ~no_better).sum())
        if count >= self._reach:
            return
        self._dominators += no_better & ~no_worse
        kept = self._dominators < self._reach
        self._numbers = np.append(self._numbers[kept], number)
        self._costs = np.concatenate([self._costs[:, kept], row[:, None]], axis=1)
        self._dominators = np.append(self._dominators[kept], count)
        self._version += 1

    def remove(self, number: int) -> None:
        """Takes a row out."""
        row = np.asarray(self._rows.pop(number))
        self._new.pop(number, None)
        others = self._numbers != number
        if others.all():
            return
        no_worse, no_better = self._against(row)
        self._dominators -= no_better & ~no_worse
        self._numbers, self._costs = self._numbers[others], self._costs[:, others]
        self._dominators = self._dominators[others]
        self._reach -= 1
        self._version += 1

    def _against(self, row: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[band] where it is no worse than the row in any objective, and where no better."""
        no_worse = np.asarray((self._costs <= row[:, None]).all(axis=0))
        return no_worse, np.asarray((self._costs >= row[:, None]).all(axis=0))

    def members(self, enough: int) -> tuple[list[int], NDArray[np.float64]]:
        """Numbers, ascending, and costs [n, objectives] of rows with the same first fronts as all
        rows, up to the front with which they hold `enough`.

        Raises:
            ValueError: more than `depth` are asked for.
        """
        if enough > self._depth:
            raise ValueError(f"a band of depth {self._depth} cannot tell the first {enough}.")
        self.settle()
        if len(self._numbers) == len(self._rows):
            self._reach = self._depth
        elif self._reach < enough:
            self._make_anew()
            self.settle()
        order = np.argsort(self._numbers)
        numbers: list[int] = self._numbers[order].tolist()
        return numbers, self._costs[:, order].T
