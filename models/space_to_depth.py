"""Pixels moved into channels and back, in any number of dimensions: nothing is lost or computed.

Shapes: x [B, C, *S]; factors, one for each axis of `*S`, are pixels per cell.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def pixel_unshuffle(x: Tensor, factors: Sequence[int]) -> Tensor:
    """[B, C, H h, W w] -> [B, C h w, H, W], as torch's of that name, which has two dimensions and
    one factor.
    """
    dims = len(factors)
    for axis, factor in reversed(list(enumerate(factors, 2))):
        x = x.unflatten(axis, (-1, factor))  # the last axis first: those before keep their places
    cells, inside = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return x.permute(0, 1, *inside, *cells).flatten(1, 1 + dims)


def pixel_shuffle(x: Tensor, factors: Sequence[int]) -> Tensor:
    """[B, C h w, H, W] -> [B, C, H h, W w]: the inverse of `pixel_unshuffle`."""
    dims = len(factors)
    x = x.unflatten(1, (-1, *factors))
    pairs = (axis for each in range(dims) for axis in (2 + dims + each, 2 + each))
    x = x.permute(0, 1, *pairs)
    for axis in range(2, 2 + dims):
        x = x.flatten(axis, axis + 1)
    return x
