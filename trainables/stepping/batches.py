"""The samples of a step: a pure function of (seed, step, rank), so the loader's position is the
step alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch.utils.data import DataLoader, Sampler, Subset

from models.draws import hash63
from trainables.parts import Loaders, Order
from trainables.stepping.inputs import Seeded, SeededCollate
from trainables.stepping.orders import permuted

_IN_THIS_PROCESS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Share:
    """The part of every step that one worker sees.

    Attributes:
        batch_size: samples per micro-batch and worker.
        accumulate: micro-batches per step.
        world, rank: number of workers and which of them this is.
    """

    batch_size: int
    accumulate: int
    world: int = 1
    rank: int = 0


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Micro-batches of `(index, sample seed)` from step `first` to `last` (exclusive).

    Args:
        size: of the training set.
        order: of its samples, `permuted()` where None.
    """

    def __init__(
        self,
        size: int,
        share: Share,
        seed: int,
        first: int,
        last: int,
        order: Order | None = None,
    ) -> None:
        if size < 1:
            raise ValueError("the training set is empty: there is nothing to draw a batch from.")
        self.share, self.seed = share, seed
        self.first, self.last = first, last
        self._index = (order or permuted())(size, share.batch_size * share.world)

    def __len__(self) -> int:
        return (self.last - self.first) * self.share.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.share
        stride = share.batch_size * share.world
        for micro in range(self.first * share.accumulate, self.last * share.accumulate):
            begin = micro * stride + share.rank * share.batch_size
            yield [self._draw(position) for position in range(begin, begin + share.batch_size)]

    def _draw(self, position: int) -> tuple[int, int]:
        return self._index(self.seed, position), hash63(self.seed, 2, position)


def train_loader(
    loaders: Loaders,
    share: Share,
    seed: int,
    first: int,
    last: int,
    loading: Mapping[str, Any] = _IN_THIS_PROCESS,
) -> DataLoader:
    """Micro-batches in order, `share.accumulate` of them per step.

    Args:
        loading: options of the DataLoader (`TrainSettings.loading`).
    """
    size = len(loaders.train)  # type: ignore[arg-type]  # map-style by contract
    sampler = StepSampler(size, share, seed, first, last, loaders.order)
    return DataLoader(
        Seeded(loaders.train),
        batch_sampler=sampler,
        collate_fn=SeededCollate(loaders.collate),
        **loading,
    )


def validation_loader(
    loaders: Loaders, batch_size: int, world: int, rank: int, split: str = "validation"
) -> DataLoader:
    """This rank's share of the validation set, or of another fixed one; the shares are disjoint
    and cover it, none is padded.
    """
    samples: Any = getattr(loaders, split)
    size = len(samples)
    if size < world:  # on every rank: the others would wait for the one that finds nothing
        raise ValueError(
            f"the {split} set has {size} samples for {world} workers: every worker needs one. "
            "Use fewer workers or more data."
        )
    indices: Sequence[int] = range(rank, size, world)
    subset = Subset(Seeded(samples), indices)
    return DataLoader(
        subset, batch_size=batch_size, shuffle=False, collate_fn=SeededCollate(loaders.collate)
    )
