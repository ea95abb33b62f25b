"""Orders of the training samples (`Loaders.order`): which sample stands at a position.

A position counts the samples of a training from its first step on, over micro-batches and ranks.
Every order is a pure function of (seed, position), so a training goes on in the middle of an epoch
as if it had not stopped.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from models.draws import hash63
from trainables.parts import Index, Order

Indices = NDArray[np.int64]


def permuted() -> Order:
    """Each epoch is a fresh permutation of all samples; epochs follow each other without a gap.

    The samples of a step do not depend on how it is cut into ranks and micro-batches.
    """
    return lambda size, batch: _Turns(np.arange(size))


def grouped(groups: Sequence[Hashable], *, in_turn: bool = False) -> Order:
    """Each micro-batch, over all ranks together, is of one group: volumes of one shape, images of
    one size.

    An epoch is the groups' batches in a shuffled order, or those of one group after the other.
    Each group is passed through in turns, every turn a permutation of its own, and a batch that
    its turn does not fill takes the rest from the next one; a group smaller than a batch is
    repeated in it, each time with another sample seed. Of the first e epochs a group of n samples
    has ceil(e n / batch) batches: all are seen in the first epoch, and each equally often in the
    long run.

    The unit is a micro-batch over all ranks: one rank with 8 samples and two with 4 see the same,
    and so does `train.accumulate` micro-batch by micro-batch; but 4 samples accumulated twice are
    two units, which may be of two groups.

    Args:
        groups: the group of each training sample.
        in_turn: all batches of a group follow each other, so that what is learned last in an
            epoch is one group (001-M16).
    """
    return lambda size, batch: _Grouped(
        list(_members(groups, size, "groups").values()), batch, in_turn
    )


def stratified(strata: Sequence[Hashable], shares: Mapping[Hashable, int] | None = None) -> Order:
    """Every batch has samples of each stratum in given shares.

    The strata follow each other in one fixed cycle of sum(shares) positions, evenly spread; so
    many samples, wherever a cycle begins, have the shares exactly, and any other run of them
    nearly. Each stratum is passed through in turns of its own, each a permutation: one that has
    fewer samples than its share is repeated more often. The samples of a step do not depend on
    how it is cut into ranks and micro-batches.

    Args:
        strata: the stratum of each training sample.
        shares: stratum -> its samples in a cycle, a whole number; 1 each (round robin) where None.

    Raises:
        ValueError: a share is no whole number from 1 on, or shares and strata differ in names.
    """
    names = list(dict.fromkeys(strata))
    shares = dict.fromkeys(names, 1) if shares is None else shares
    if set(shares) != set(names):
        odd = sorted(map(repr, set(shares) ^ set(names)))
        raise ValueError(
            f"every stratum has a share and every share a stratum, and {', '.join(odd)} stands on "
            "one side alone. Name the strata of the samples in `shares`, all of them."
        )
    for name, share in shares.items():
        if not isinstance(share, Integral) or isinstance(share, bool) or share < 1:
            raise ValueError(
                f"a share is a whole number of samples from 1 on, and that of stratum {name!r} is "
                f"{share!r}. Write 1 to 2 as 1 and 2; leave out of the data set what is never to "
                "be drawn."
            )
    numbers = [int(shares[name]) for name in names]
    return lambda size, batch: _Stratified(
        list(_members(strata, size, "strata").values()), numbers
    )


def _members(labels: Sequence[Hashable], size: int, what: str) -> dict[Hashable, Indices]:
    """The samples of each label, in the order in which labels first appear."""
    if len(labels) != size:
        raise ValueError(
            f"the order of the training samples names {what} for {len(labels)} samples, and there "
            f"are {size}. Give one for each, in their order."
        )
    found: dict[Hashable, list[int]] = {}
    for index, label in enumerate(labels):
        found.setdefault(label, []).append(index)
    return {label: np.array(indices) for label, indices in found.items()}


class _Turns:
    """Some samples over and over, every turn a fresh permutation of them.

    Args:
        stream: beside the seed and the turn, what the permutation is drawn from.
    """

    def __init__(self, samples: Indices, *stream: int) -> None:
        self._samples, self._stream = samples, stream
        self._drawn: tuple[int, int] | None = None
        self._order = samples

    def __call__(self, seed: int, position: int) -> int:
        turn, place = divmod(position, len(self._samples))
        if (seed, turn) != self._drawn:
            drawn = np.random.default_rng(hash63(seed, 1, turn, *self._stream))
            self._order = self._samples[drawn.permutation(len(self._samples))]
            self._drawn = seed, turn
        return int(self._order[place])


class _Grouped:
    """`grouped`, for batches of a size."""

    def __init__(self, members: Sequence[Indices], batch: int, in_turn: bool) -> None:
        self._batch, self._in_turn = batch, in_turn
        self._groups: list[Index] = [_Turns(indices, n) for n, indices in enumerate(members)]
        self._sizes = np.array([len(indices) for indices in members])
        self._drawn: tuple[int, int, int] | None = None
        self._order = np.empty((0, 2), dtype=np.int64)

    def __call__(self, seed: int, position: int) -> int:
        micro, place = divmod(position, self._batch)
        if self._drawn is None or self._drawn[0] != seed or micro not in range(*self._drawn[1:]):
            self._draw(seed, micro)
        _, first, _ = self._drawn  # type: ignore[misc]  # has just been drawn
        group, number = self._order[micro - first].tolist()
        return self._groups[group](seed, number * self._batch + place)

    def _draw(self, seed: int, micro: int) -> None:
        """The order of the batches of the epoch that `micro` lies in: [batches, (group, which of
        the group's)].
        """
        epoch = self._epoch_of(micro)
        begins, ends = self._batches_before(epoch), self._batches_before(epoch + 1)
        pairs = [
            (group, number)
            for group, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True))
            for number in range(begin, end)
        ]
        drawn = np.random.default_rng(hash63(seed, 1, epoch))
        places = np.arange(len(pairs)) if self._in_turn else drawn.permutation(len(pairs))
        self._order = np.array(pairs)[places]
        self._drawn = seed, int(begins.sum()), int(ends.sum())

    def _batches_before(self, epoch: int) -> Indices:
        """Of each group, those of the epochs before."""
        return -(-epoch * self._sizes // self._batch)

    def _epoch_of(self, micro: int) -> int:
        """The last epoch that begins at or before a batch."""
        size, groups = int(self._sizes.sum()), len(self._sizes)
        # Rounding up adds less than one batch for each group.
        low, high = max(micro - groups, 0) * self._batch // size, micro * self._batch // size
        while low < high:
            middle = (low + high + 1) // 2
            if int(self._batches_before(middle).sum()) <= micro:
                low = middle
            else:
                high = middle - 1
        return low


class _Stratified:
    """`stratified`, over so many samples."""

    def __init__(self, members: Sequence[Indices], shares: Sequence[int]) -> None:
        self._strata: list[Index] = [_Turns(indices, n) for n, indices in enumerate(members)]
        divisor = math.gcd(*shares)
        self._shares = [share // divisor for share in shares]
        at = [(np.arange(share) + 0.5) / share for share in self._shares]
        of = np.repeat(np.arange(len(self._shares)), self._shares)
        which = np.concatenate([np.arange(share) for share in self._shares])
        spread = np.lexsort((of, np.concatenate(at)))
        self._cycle = np.stack([of, which], axis=1)[spread]

    def __call__(self, seed: int, position: int) -> int:
        cycle, place = divmod(position, len(self._cycle))
        stratum, which = self._cycle[place].tolist()
        return self._strata[stratum](seed, cycle * self._shares[stratum] + which)
