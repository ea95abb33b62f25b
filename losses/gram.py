"""Self-similarity: how the cosines between the vectors at the positions of a latent change.

    G_ij = <u_i, u_j>,  u = x / sqrt(|x|^2 + floor^2),
    distance = mean over i != j of (G_ij(x) - G_ij(y))^2

The diagonal is always near 1. Left in, as the document has it, it makes a mean over S sampled
positions (1 - 1 / S) / (1 - 1 / N) of that over all N, and every S has units of its own; left out,
the mean over sampled positions is that over all, in expectation (002-M6). The distance is blind to
the lengths of vectors (002-M15).

Shapes: B samples, C channels, N positions, S of them sampled.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORMS = ("off_diagonal", "with_diagonal")


def directions_of(x: Tensor, floor: float) -> Tensor:
    """u [B, C, N]; a vector of zeros has u = 0, and a gradient of at most 1 / floor."""
    return x * (x.square().sum(dim=1, keepdim=True) + floor**2).rsqrt()


def gram(x: Tensor, floor: float) -> Tensor:
    """The cosines between all positions: [B, C, N] -> [B, N, N]."""
    u = directions_of(x, floor)
    return u.transpose(1, 2) @ u


def gram_distance(x: Tensor, y: Tensor, floor: float, form: str = "off_diagonal") -> Tensor:
    """Of each sample, [B].

    Args:
        x, y: vectors at the same positions, [B, C, S].
        form: of `FORMS`.
    """
    error = (gram(x, floor) - gram(y, floor)).square()
    side = x.shape[-1]
    if form == "with_diagonal":
        return error.mean(dim=(1, 2))
    on_diagonal = torch.diagonal(error, dim1=1, dim2=2).sum(dim=1)
    return (error.sum(dim=(1, 2)) - on_diagonal) / (side * (side - 1))
