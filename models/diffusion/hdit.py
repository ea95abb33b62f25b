"""Hierarchical diffusion transformer (HDiT): an hourglass of DiT blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from models.diffusion.interface import DiffusionNetwork, Perturb, conditioned, unperturbed
from models.diffusion.settings import HDIT_SIZES, ModelSettings
from models.diffusion.transformer import (
    DitBlock,
    DitHead,
    Positions,
    TimeEmbedding,
    drop_path_shares,
    patchify,
    unpatchify,
    xavier_linears,
)

MERGED = 2
"""Tokens along each axis that become one."""


class Hdit(DiffusionNetwork):
    """Levels of DiT blocks with 2^d times fewer tokens each, down to the coarsest, and up again.
    Down, 2^d neighbours become one token by a linear layer; up, a token becomes 2^d by another,
    and is joined to what left the level on the way down. Every level has positions of its own,
    added on the way down; E is the width of the tokens, which all levels share. The output is 0 at
    first.

    Attributes:
        grids: of the tokens of each level, finest first.
    """

    def __init__(
        self,
        settings: ModelSettings,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        shape = settings.hdit
        width, depths = HDIT_SIZES[shape.size].width, shape.level_depths
        halvings = len(depths) // 2
        self.describe(
            settings,
            in_channels,
            out_channels,
            context_channels,
            size=size,
            embedding_width=width,
        )
        self.patch_size = shape.patch_size
        self.grids = [
            tuple(side // shape.patch_size // MERGED**level for side in size)
            for level in range(halvings + 1)
        ]
        pixels, cells = shape.patch_size ** len(size), MERGED ** len(size)
        self.embed = nn.Linear(in_channels * pixels, width)
        self.merges = nn.ModuleList(nn.Linear(cells * width, width) for _ in range(halvings))
        self.splits = nn.ModuleList(nn.Linear(width, cells * width) for _ in range(halvings))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(halvings))
        xavier_linears(self)
        self.positions = nn.ModuleList(Positions(g, width, shape.positions) for g in self.grids)
        self.time = TimeEmbedding(width)
        self.levels = _levels(settings)
        self.head = DitHead(width, out_channels * pixels)

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Tokens of each level, finest first."""
        return tuple(map(math.prod, self.grids))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        embedding: Tensor | None = None,
        context: Tensor | None = None,
        perturb: Perturb = unperturbed,
    ) -> Tensor:
        self.check_input(x, time, embedding, context)
        tokens = self.embed(patchify(x.to(self.embed.weight.dtype), self.patch_size))
        e = conditioned(self.time(time), embedding)
        tokens = self.positions[0](tokens)
        halvings = len(self.merges)
        left = []
        for level, merge in enumerate(self.merges):
            tokens = self._blocks(level, tokens, e)
            left.append(tokens)
            tokens = perturb("encoder", tokens)
            tokens = self.positions[level + 1](merge(neighbours(tokens, self.grids[level])))
        tokens = perturb("middle", self._blocks(halvings, tokens, e))
        for level, split, skip in zip(
            reversed(range(halvings)), self.splits, self.skips, strict=True
        ):
            tokens = spread(split(tokens), self.grids[level + 1])
            tokens = skip(torch.cat([tokens, left.pop()], dim=-1))
            tokens = perturb("decoder", self._blocks(2 * halvings - level, tokens, e))
        return unpatchify(self.head(tokens, e), self.grids[0], self.patch_size).to(x.dtype)

    def _blocks(self, level: int, tokens: Tensor, e: Tensor) -> Tensor:
        blocks: Iterator[nn.Module] = self.levels[level].children()
        for block in blocks:
            tokens = self.run(block, tokens, e)
        return tokens


def neighbours(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """[B, L, D] -> [B, L / 2^d, 2^d D]: the tokens of 2^d neighbours as one."""
    return patchify(tokens.transpose(1, 2).unflatten(2, tuple(grid)), MERGED)


def spread(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """[B, L, 2^d D] -> [B, 2^d L, D]: the inverse of `neighbours`.

    Args:
        grid: of the L tokens.
    """
    return unpatchify(tokens, grid, MERGED).flatten(2).transpose(1, 2)


def _levels(settings: ModelSettings) -> nn.ModuleList:
    shape = settings.hdit
    size = HDIT_SIZES[shape.size]
    shares = iter(drop_path_shares(shape.drop_path, sum(shape.level_depths)))
    return nn.ModuleList(
        nn.ModuleList(
            DitBlock(size.width, size.heads, qk_norm=shape.qk_norm, drop_path=share)
            for share in itertools.islice(shares, depth)
        )
        for depth in shape.level_depths
    )
