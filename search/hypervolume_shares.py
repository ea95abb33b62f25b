"""What each row of a front of three objectives dominates alone."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class _Strip(NamedTuple):
    """A rectangle of the plane over one row: from `left` to `right`, from the row up to `top`;
    `since` is the depth from which on it is the row's alone.
    """

    left: float
    right: float
    top: float
    since: float


def exclusive_in_three(
    front: NDArray[np.float64], corner: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[m] the volume up to the corner that is dominated by each row and by no other, in
    O(m log m).

    A plane moves along the last objective, as in the algorithm of Emmerich and Fonseca (2011,
    "Computing hypervolume contributions in low dimensions: asymptotically optimal algorithm and
    complexity results"). The rows that it has passed make a staircase in it; what one of them
    dominates alone is a row of strips, and a row that comes cuts strips of its two neighbours and
    covers those of the rows that it takes off the staircase.

    500 rows take 3 ms of CPU time, where the hypervolumes without each of them take 244 ms, for a
    decision that may take 50 ms: `python -m timeit -p -s "import numpy as np; from
    search.hypervolume_shares import exclusive_in_three; from search.pareto import hypervolume;
    d = np.random.default_rng(0).exponential(size=(500, 3)); f = d / d.sum(1, keepdims=True);
    c = f.max(0) + 0.1" "exclusive_in_three(f, c)"`, and with `"[hypervolume(np.delete(f, i, 0), c)
    for i in range(500)]"`.

    front: [m, 3], distinct, none dominating another, below the corner [3].
    """
    right, top, depth = corner.tolist()
    sweep = _Sweep(front, right, top)
    for index in np.argsort(front[:, 2], kind="stable").tolist():
        sweep.add(index)
    for owner in sweep.owners:
        sweep.close_all(owner, depth)
    return np.array(sweep.volumes)


class _Sweep:
    """The plane and the volumes so far. The numbers are few, so plain lists beat arrays."""

    def __init__(self, front: NDArray[np.float64], right: float, top: float) -> None:
        self.rows, self.right, self.top = front.tolist(), right, top
        self.volumes = [0.0] * len(front)
        self.strips: list[deque[_Strip]] = [deque() for _ in self.volumes]
        self.xs: list[float] = []  # of the staircase: ascending, and `ys` descending
        self.ys: list[float] = []
        self.owners: list[int] = []

    def add(self, index: int) -> None:
        x, y, z = self.rows[index]
        first = last = bisect_left(self.xs, x)
        left, above = x, self.ys[first - 1] if first else self.top
        strips = self.strips[index]
        while last < len(self.xs) and self.ys[last] >= y:
            if self.xs[last] > left:
                strips.append(_Strip(left, self.xs[last], above, z))
            left, above = self.xs[last], self.ys[last]
            self.close_all(self.owners[last], z)
            last += 1
        right = self.xs[last] if last < len(self.xs) else self.right
        strips.append(_Strip(left, right, above, z))
        if first:
            self._cut_right(self.owners[first - 1], x, z)
        if last < len(self.xs):
            self._cut_top(self.owners[last], y, z)
        self.xs[first:last], self.ys[first:last], self.owners[first:last] = [x], [y], [index]

    def _cut_right(self, owner: int, x: float, z: float) -> None:
        strips = self.strips[owner]
        while strips and strips[-1].right > x:
            strip = strips.pop()
            self._close(owner, strip, z)
            if strip.left < x:
                strips.append(_Strip(strip.left, x, strip.top, z))

    def _cut_top(self, owner: int, y: float, z: float) -> None:
        strips, cut = self.strips[owner], []
        while strips and strips[0].top > y:
            cut.append(strips.popleft())
            self._close(owner, cut[-1], z)
        if cut:
            strips.appendleft(_Strip(cut[0].left, cut[-1].right, y, z))

    def close_all(self, owner: int, z: float) -> None:
        """From here on the owner dominates nothing alone."""
        for strip in self.strips[owner]:
            self._close(owner, strip, z)
        self.strips[owner].clear()

    def _close(self, owner: int, strip: _Strip, z: float) -> None:
        area = (strip.right - strip.left) * (strip.top - self.rows[owner][1])
        self.volumes[owner] += area * (z - strip.since)
