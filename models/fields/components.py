"""Principal components of fields over time, in two stages so that large meshes fit: patterns over
the nodes, then components of their time courses.

B samples, N nodes, T time steps, R patterns, C components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

PATTERNS = 256
"""The most patterns over the nodes that are kept."""

_ROWS = 4096
"""The most snapshots that the patterns are computed from, evenly spread over samples and times."""

_EXACT = 1024
"""Up to this many rows or nodes the decomposition is exact, and randomised beyond."""


class Components(nn.Module):
    """Fields [B, N, T] <-> coordinates [B, C] of mean 0 and variance 1 on the fitted fields, the
    component of the largest variance first. Constants, kept as buffers: nothing of it is trained.
    """

    patterns: Tensor
    mean: Tensor
    basis: Tensor
    deviation: Tensor

    def __init__(self, count: int, length: int, nodes: int) -> None:
        super().__init__()
        rank = min(nodes, PATTERNS)
        self.rank, self.length = rank, length
        self.register_buffer("patterns", torch.zeros(rank, nodes))
        self.register_buffer("mean", torch.zeros(rank * length))
        self.register_buffer("basis", torch.zeros(count, rank * length))
        self.register_buffer("deviation", torch.ones(count))

    def fit(self, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Computes the components of fields that `blocks()` yields as [b, N, T], twice.

        With fewer samples than components the last components stay 0.
        """
        self.patterns.copy_(_patterns(blocks, self.rank))
        courses = torch.cat([self._courses(block) for block in blocks()]).double()
        self.mean.copy_(courses.mean(dim=0))
        _, singular, vectors = torch.linalg.svd(courses - courses.mean(dim=0), full_matrices=False)
        deviation = singular / len(courses) ** 0.5
        spanned = int((deviation > 1e-6 * deviation[0].clamp_min(1e-30)).sum())
        count = min(spanned, len(self.basis))
        self.basis.zero_()
        self.deviation.fill_(1.0)
        self.basis[:count] = vectors[:count].to(self.basis)
        self.deviation[:count] = deviation[:count].to(self.deviation)

    def encode(self, x: Tensor) -> Tensor:
        """[B, N, T] -> [B, C]; always in float32, because precision is its purpose."""
        with torch.autocast(x.device.type, enabled=False):
            return (self._courses(x.float()) - self.mean) @ self.basis.T / self.deviation

    def decode(self, coordinates: Tensor) -> Tensor:
        """[B, C] -> [B, N, T], in float32."""
        with torch.autocast(coordinates.device.type, enabled=False):
            courses = (coordinates.float() * self.deviation) @ self.basis + self.mean
            return self.patterns.T @ courses.view(-1, self.rank, self.length)

    def _courses(self, x: Tensor) -> Tensor:
        return (self.patterns @ x).flatten(1)


def _patterns(blocks: Callable[[], Iterable[Tensor]], rank: int) -> Tensor:
    """Orthonormal rows [R, N] that span most of the snapshots."""
    total = sum(block.shape[0] * block.shape[2] for block in blocks())
    stride = -(-total // _ROWS)
    rows, before = [], 0
    for block in blocks():
        snapshots = block.transpose(1, 2).flatten(0, 1)
        rows.append(snapshots[-before % stride :: stride])
        before += len(snapshots)
    chosen = torch.cat(rows).double()
    if min(chosen.shape) <= _EXACT:
        vectors = torch.linalg.svd(chosen, full_matrices=False)[2]
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vectors = torch.svd_lowrank(chosen, q=rank + 8, niter=4)[2].T
    patterns = torch.zeros(rank, chosen.shape[1], dtype=torch.float64)
    patterns[: min(rank, len(vectors))] = vectors[:rank]
    return patterns
