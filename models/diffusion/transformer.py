"""What the transformers of the diffusion are made of: patches, positions, attention, the blocks of
DiT.

Shapes: B samples; L tokens of width D, in row-major order of a grid; n heads; E = D the width of
the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sinusoids import sinusoids
from models.space_to_depth import pixel_shuffle, pixel_unshuffle

TIME_FEATURES = 256
"""Sinusoids of a time before the layers that make the embedding of it."""

NORM_EPS = 1e-6


def patchify(x: Tensor, patch: int) -> Tensor:
    """[B, C, *S] -> [B, L, C patch^d]: patches in row-major order, the pixels of each channel
    together.
    """
    return pixel_unshuffle(x, (patch,) * (x.ndim - 2)).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, grid: Sequence[int], patch: int) -> Tensor:
    """[B, L, C patch^d] -> [B, C, *S]: the inverse of `patchify`.

    Args:
        grid: patches along each axis.
    """
    cells = tokens.transpose(1, 2).unflatten(2, tuple(grid))
    return pixel_shuffle(cells, (patch,) * len(grid))


def sincos_positions(grid: Sequence[int], width: int) -> Tensor:
    """Float32 [L, width]: for each axis in turn the sines, then the cosines, of
    place * 10000^(-i / n) for i = 0 ... n - 1 (arXiv 2111.06377, in d dimensions). An axis has
    n = width / (2 d) frequencies; of those left over the first axes have one more each.
    """
    if width % 2:
        raise ValueError(f"positions have an even width (sines and cosines), not {width}.")
    pairs, more = divmod(width // 2, len(grid))
    places = torch.meshgrid(*(torch.arange(side).double() for side in grid), indexing="ij")
    parts = []
    for axis, place in enumerate(places):
        count = pairs + (axis < more)
        rates = torch.exp(-math.log(10000.0) / max(count, 1) * torch.arange(count).double())
        angles = place.flatten()[:, None] * rates
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).float()


class Positions(nn.Module):
    """Adds a vector for each place of a grid to its token: sines and cosines, trained from there
    or fixed.
    """

    def __init__(self, grid: Sequence[int], width: int, kind: str) -> None:
        super().__init__()
        start = sincos_positions(grid, width)[None]
        self.table: Tensor
        if kind == "learned":
            self.table = nn.Parameter(start)
        else:
            self.register_buffer("table", start, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.table.to(tokens.dtype)


class TimeEmbedding(nn.Module):
    """linear(SiLU(linear(sinusoids(time)))). [B] -> [B, D]"""

    def __init__(self, width: int, features: int = TIME_FEATURES) -> None:
        super().__init__()
        self.features = features
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, time: Tensor) -> Tensor:
        features = sinusoids(time, self.features).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(features)))


class Attention(nn.Module):
    """Attention of tokens to each other, or to those of a context. With torch's fused kernels its
    memory grows with L, its work with L^2 (001-M12: not both with L^2).

    `qk_norm` puts a LayerNorm on the queries and the keys of every head (arXiv 2302.05442).
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width)
        head = width // heads
        self.query_norm = nn.LayerNorm(head, NORM_EPS) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(head, NORM_EPS) if qk_norm else nn.Identity()

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, L, D], with a context [B, M, D]: keys and values are those of the context."""
        query = self._by_heads(self.query(tokens))
        both = self.key_value(tokens if context is None else context)
        key, value = (self._by_heads(part) for part in both.chunk(2, dim=-1))
        # under autocast a LayerNorm returns float32, and the kernels want one dtype
        query = self.query_norm(query).to(value.dtype)
        key = self.key_norm(key).to(value.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _by_heads(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, n, L, D / n]"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """linear(GELU(linear(x))), four times as wide inside."""

    def __init__(self, width: int, approximate: str) -> None:
        super().__init__(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate=approximate),
            nn.Linear(4 * width, width),
        )


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training a branch is left out for a share of the
    samples, and weighs 1 / (1 - share) for the others.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.gate = nn.Dropout(share)

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.gate.p == 0.0:
            return branch
        return branch * self.gate(branch.new_ones(len(branch), *[1] * (branch.ndim - 1)))


class DitBlock(nn.Module):
    """Block of DiT with adaLN-zero (arXiv 2212.09748, 3.2): shift, scale and gate of both branches
    come from the embedding e. All six are 0 at first, so that the block begins as the identity.

    With `crosses` an attention to the tokens of a context lies between the two branches; its last
    layer begins with zeros (arXiv 2310.00426, 2.3).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qk_norm: bool,
        drop_path: float = 0.0,
        crosses: bool = False,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_plain_norm(width) for _ in range(2))
        self.attention = Attention(width, heads, qk_norm=qk_norm)
        self.feed_forward = FeedForward(width, "tanh")
        self.modulation = nn.Linear(width, 6 * width)
        self.drop_path = DropPath(drop_path)
        self.cross_norm = _plain_norm(width) if crosses else None
        self.cross = Attention(width, heads, qk_norm=qk_norm) if crosses else None
        xavier_linears(self)
        zero(self.modulation)
        if self.cross is not None:
            zero(self.cross.out)

    def forward(self, tokens: Tensor, e: Tensor, context: Tensor | None = None) -> Tensor:
        """tokens [B, L, D], e [B, D], context [B, M, D] where it crosses."""
        parts = self.modulation(F.silu(e))[:, None].chunk(6, dim=-1)
        shift, scale, gate, shift_2, scale_2, gate_2 = parts
        first, second = self.norms
        branch = self.attention(modulated(first(tokens), shift, scale))
        tokens = tokens + self.drop_path(gate * branch)
        if self.cross is not None and self.cross_norm is not None:
            tokens = tokens + self.drop_path(self.cross(self.cross_norm(tokens), context))
        branch = self.feed_forward(modulated(second(tokens), shift_2, scale_2))
        return tokens + self.drop_path(gate_2 * branch)


class DitHead(nn.Module):
    """Tokens to patches: linear(norm(tokens) (1 + scale) + shift); all of it is 0 at first."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.norm = _plain_norm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, numbers)
        zero(self.modulation)
        zero(self.out)

    def forward(self, tokens: Tensor, e: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(e))[:, None].chunk(2, dim=-1)
        return self.out(modulated(self.norm(tokens), shift, scale))


def drop_path_shares(largest: float, blocks: int) -> list[float]:
    """The share of each block, linear from 0 in the first to `largest` in the last."""
    return [largest * block / max(blocks - 1, 1) for block in range(blocks)]


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1.0 + scale) + shift


def zero(layer: nn.Linear) -> None:
    """Sets weight and bias to 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def xavier_linears(part: nn.Module) -> None:
    """Xavier's uniform weights and no bias, for every linear layer within."""
    for layer in part.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _plain_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, NORM_EPS, elementwise_affine=False)
