"""The squared sliced Wasserstein distance of two sets of vectors (Bonneel et al., Sliced and Radon
Wasserstein Barycenters of Measures, 2015):

    SW_2^2(X, Y) = mean over unit d of W_2^2(<d, X>, <d, Y>),

where W_2^2 of numbers is the mean of (x_(i) - y_(i))^2 over both in ascending order. It is the
*square* (002-M20): its gradient is finite where X = Y. Of samples of one law it is above 0, and
goes there as their number grows (002-M5).

Shapes: G pairs of sets, D the size of a vector, n and m vectors of a set, P directions. A vector
is a column.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_PROJECTED = 1 << 24
"""Numbers of both sets that are sorted at once: 64 MiB, and 128 MiB of their places."""


def unit(normals: Tensor) -> Tensor:
    """Directions, uniform on the sphere, of normal numbers [..., P, D]."""
    return normals / normals.norm(dim=-1, keepdim=True)


def sliced_wasserstein(
    x: Tensor, y: Tensor, directions: Tensor, at_once: int = MAX_PROJECTED
) -> Tensor:
    """SW_2^2 of each pair, [G], differentiable in both sets.

    Args:
        x, y: [G, D, n] and [G, D, m].
        directions: [P, D] for all pairs, or [G, P, D].
        at_once: numbers that may be sorted at once. More are sorted by parts of the directions,
            and again for the gradient, which remembers no part.
    """
    count = directions.shape[-2]
    by_direction = len(x) * (x.shape[-1] + y.shape[-1])
    parts = directions.split(max(1, min(count, at_once // by_direction)), dim=-2)
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.stack([_projected_cost(x, y, part) for part in parts]).sum(dim=0) / count
    again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    costs = [again(_projected_cost, x, y, part) for part in parts]
    return torch.stack(costs).sum(dim=0) / count


def _projected_cost(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """The sum over the directions of W_2^2, [G]."""
    return wasserstein(directions @ x, directions @ y).sum(dim=-1)


def wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """W_2^2 of numbers: [..., n], [..., m] -> [...]."""
    x, y = ascending(x), ascending(y)
    n, m = x.shape[-1], y.shape[-1]
    if m % n == 0:  # each x has m / n of the y
        return (x[..., None] - y.unflatten(-1, (n, m // n))).square().mean(dim=(-2, -1))
    of_x, of_y, mass = (torch.as_tensor(part, device=x.device) for part in coupling(n, m))
    return (x[..., of_x] - y[..., of_y]).square() @ mass.to(x.dtype)


def ascending(x: Tensor) -> Tensor:
    """Sorted along the last axis; on the CPU by NumPy, several times faster than torch
    (`python -m benchmarks.rivals.patch_transport --json`: `sort`).
    """
    if x.device.type != "cpu":
        return x.sort(dim=-1).values
    if not (x.requires_grad and torch.is_grad_enabled()):
        return torch.from_numpy(np.sort(x.detach().numpy(), axis=-1))
    return x.gather(-1, torch.from_numpy(np.argsort(x.detach().numpy(), axis=-1)))


@functools.lru_cache(maxsize=64)
def coupling(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best transport of n sorted numbers of mass 1 / n to m sorted numbers of mass 1 / m: the
    place among the n, the place among the m, and the mass that moves between them, of each of the
    n + m - gcd(n, m) parts.
    """
    ends = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    begins = ends[:-1]
    return begins // m, begins // n, np.diff(ends) / (n * m)
