"""Patches of latents as columns, and draws of some of them without replacement.

Shapes: B samples, C channels, H rows, W columns, k the side of a patch, D = C k^2, n patches of a
sample.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

PADDINGS = ("none", "reflect", "zero")
"""What patches over the border see: there are none; the latent reflected; zeros, the document's
(002-M8: at 32 x 32 and k = 3 an eighth of all patches is then in part made up).
"""


def patches(x: Tensor, size: int, padding: str = "none") -> Tensor:
    """Every patch of k x k, stride 1: [B, C, H, W] -> [B, D, n]. The columns are in the layout
    that directions [P, D] multiply from the left, and so nothing is transposed or copied
    (002-M17).

    Raises:
        ValueError: a latent that is too small.
    """
    reach, least = size // 2, min(x.shape[-2:])
    if least < size if padding == "none" else least <= reach:
        needs = size if padding == "none" else reach + 1
        raise ValueError(
            f"patches of {size} x {size} with padding {padding} need latents of {needs} and more "
            f"a side, not {x.shape[-2]} x {x.shape[-1]}. Take smaller patches or larger latents."
        )
    if padding == "reflect" and reach:
        x = F.pad(x, (reach,) * 4, mode="reflect")
    return F.unfold(x, size, padding=reach if padding == "zero" else 0)


def without_means(directions: Tensor, channels: int) -> Tensor:
    """Directions [..., D] less their mean over the pixels of each channel: <p - mean(p), d> =
    <p, d - mean(d)>, so that this takes the means from all patches at once.
    """
    by_channel = directions.unflatten(-1, (channels, -1))
    return (by_channel - by_channel.mean(dim=-1, keepdim=True)).flatten(-2)


def drawn(keys: Tensor, count: int) -> Tensor:
    """The places of the `count` largest keys: of uniform ones, a draw without replacement.
    [..., N] -> [..., count]. A patch keeps its key in whatever set it is, so that the draw does
    not depend on the order of the samples.
    """
    return keys.topk(count, dim=-1, sorted=False).indices


def taken(columns: Tensor, places: Tensor) -> Tensor:
    """The columns at places: [..., D, N], [..., m] -> [..., D, m]."""
    index = places[..., None, :].expand(*columns.shape[:-1], places.shape[-1])
    return columns.gather(-1, index)
