"""A sample of the cells that an encoder makes in an update, and k-means on it: where a codebook
takes new codes from.

Shapes: B images, n cells, c numbers in each; K codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from models.draws import draw_integers

_BITS = 30
_EXACT = "donot_use_mm_for_euclid_dist"
"""For differences of large squares would be off by 3e-4 of the vectors' length."""

_ENTRIES = 1 << 24
"""Distances that are in memory at once."""

ITERATIONS = 10
"""Of k-means."""


@dataclass(frozen=True)
class CellSample:
    """Cells drawn without replacement, each equally likely: those with the highest keys.

    A key is a function of the seed of the cell's image and of its place in it, so the sample of an
    update is one and the same however that is cut into micro-batches and ranks.

    Attributes:
        keys: int64 [n] in falling order; -1 stands for no cell.
        vectors: float32 [n, c].
    """

    keys: Tensor
    vectors: Tensor

    @classmethod
    def drawn(cls, seed: Tensor, vectors: Tensor, is_sound: Tensor, size: int) -> CellSample:
        """At most `size` of the cells of B images.

        Args:
            seed: int64 [B].
            vectors: [n, c], image by image.
            is_sound: bool [n], of the cells that may be drawn.
        """
        halves = draw_integers(seed, "codebook.cells", 1 << _BITS, (len(vectors) // len(seed), 2))
        keys = ((halves[..., 0] << _BITS) | halves[..., 1]).flatten()
        return cls(torch.where(is_sound, keys, -1), vectors).first(size)

    def first(self, size: int) -> CellSample:
        """The `size` cells with the highest keys, or all."""
        keys, places = self.keys.topk(min(size, len(self.keys)))
        return CellSample(keys, self.vectors[places])

    def joined(self, other: CellSample | None, size: int) -> CellSample:
        """The sample of both."""
        if other is None:
            return self
        keys = torch.cat([self.keys, other.keys])
        return CellSample(keys, torch.cat([self.vectors, other.vectors])).first(size)

    def over_ranks(self, size: int) -> CellSample:
        """The sample of all ranks, on each of them; every rank calls it."""
        if not distributed.is_initialized():
            return self
        missing = size - len(self.keys)
        keys = torch.cat([self.keys, self.keys.new_full((missing,), -1)])
        vectors = torch.cat([self.vectors, self.vectors.new_zeros(missing, self.vectors.shape[1])])
        ranks = range(distributed.get_world_size())
        all_keys, all_vectors = ([torch.empty_like(x) for _ in ranks] for x in (keys, vectors))
        distributed.all_gather(all_keys, keys)
        distributed.all_gather(all_vectors, vectors.contiguous())
        return CellSample(torch.cat(all_keys), torch.cat(all_vectors)).first(size)

    def cells(self) -> Tensor:
        """The cells alone, float32 [at most n, c]; the host waits for their number."""
        return self.vectors[self.keys >= 0]


def kmeans(points: Tensor, codes: Tensor) -> Tensor:
    """`ITERATIONS` of Lloyd's algorithm (IEEE Trans. Inf. Theory 28, 1982) from the first points,
    [n, c] -> [K, c]. After each assignment a code without a point is moved onto one of those that
    lie farthest from theirs: many of the first may be alike, for most of an image is background.

    Args:
        codes: [K, c]; with fewer points than K the rest of the codes stay where they are.
    """
    count = min(len(points), len(codes))
    if not count:
        return codes.clone()
    centres = points[:count].clone()
    for _ in range(ITERATIONS):
        sums, uses, distances = _assigned(points, centres)
        is_idle = uses == 0
        centres = torch.where(is_idle[:, None], centres, sums / uses.clamp(min=1.0)[:, None])
        farthest = distances.topk(int(is_idle.sum())).indices
        centres[is_idle] = points[farthest]
    return torch.cat([centres, codes[count:]])


def _assigned(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums [K, c] and number [K] of the points nearest to each centre, and the distance of each
    point to its own [n].
    """
    sums, uses = torch.zeros_like(centres), torch.zeros_like(centres[:, 0])
    distances = []
    for part in points.split(max(1, _ENTRIES // len(centres))):
        distance, nearest = torch.cdist(part, centres, compute_mode=_EXACT).min(dim=1)
        # not index_add_, whose order of summation is open on a GPU: ranks must agree
        hot = torch.nn.functional.one_hot(nearest, len(centres)).to(part.dtype)
        sums, uses = sums + hot.t() @ part, uses + hot.sum(dim=0)
        distances.append(distance)
    return sums, uses, torch.cat(distances)
