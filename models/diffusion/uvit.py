"""Vision transformer with long skip connections (U-ViT, arXiv 2209.12152)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.diffusion.interface import (
    DiffusionNetwork,
    Perturb,
    conditioned,
    unperturbed,
)
from models.diffusion.settings import UVIT_SIZES, ModelSettings
from models.diffusion.transformer import (
    NORM_EPS,
    Attention,
    FeedForward,
    TimeEmbedding,
    patchify,
    unpatchify,
)
from models.sinusoids import sinusoids

DEVIATION = 0.02
"""Of all weights at the start, normal within two deviations."""


class Uvit(DiffusionNetwork):
    """Plain blocks over the patches and, before them, one token of the time, with positions that
    are learnt for all of them. What the blocks of the first half return joins the second half, the
    last first; a convolution of size 3 smooths the borders of patches at the end. E is the width
    of the tokens, for an embedding is added to the token of the time.
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
        shape = settings.uvit
        width, heads = UVIT_SIZES[shape.size].width, UVIT_SIZES[shape.size].heads
        half = UVIT_SIZES[shape.size].depth // 2
        self.describe(
            settings,
            in_channels,
            out_channels,
            context_channels,
            size=size,
            embedding_width=width,
        )
        self.patch_size = shape.patch_size
        self.grid = tuple(side // shape.patch_size for side in size)
        pixels = math.prod(settings.divisors)
        self.embed = nn.Linear(in_channels * pixels, width)
        self.positions = nn.Parameter(torch.empty(1, 1 + math.prod(self.grid), width))
        self.down = nn.ModuleList(Block(width, heads, shape.qk_norm) for _ in range(half))
        self.middle = Block(width, heads, shape.qk_norm)
        self.up = nn.ModuleList(
            Block(width, heads, shape.qk_norm, skips=True) for _ in range(half)
        )
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.unembed = nn.Linear(width, out_channels * pixels)
        convolution = nn.Conv2d if self.dimensions == 2 else nn.Conv3d
        self.smooth = convolution(out_channels, out_channels, 3, padding=1)
        self._initialise()
        self.time = TimeEmbedding(width, features=width) if shape.time_mlp else None

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        embedding: Tensor | None = None,
        context: Tensor | None = None,
        perturb: Perturb = unperturbed,
    ) -> Tensor:
        self.check_input(x, time, embedding, context)
        dtype = self.embed.weight.dtype
        patches = self.embed(patchify(x.to(dtype), self.patch_size))
        e = sinusoids(time, self.embedding_width) if self.time is None else self.time(time)
        e = conditioned(e, embedding).to(patches.dtype)
        tokens = torch.cat([e[:, None], patches], dim=1) + self.positions.to(patches.dtype)
        skips = []
        for block in self.down:
            tokens = self.run(block, tokens)
            skips.append(tokens)
            tokens = perturb("encoder", tokens)
        tokens = perturb("middle", self.run(self.middle, tokens))
        for block in self.up:
            tokens = perturb("decoder", self.run(block, tokens, skips.pop()))
        patches = self.unembed(self.norm(tokens)[:, 1:])
        return self.smooth(unpatchify(patches, self.grid, self.patch_size)).to(x.dtype)

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.positions, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(
                    layer.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION
                )
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); with `skips` x is a linear map of the tokens
    and those of the skip connection.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool, skips: bool = False) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * width, width) if skips else None
        self.norms = nn.ModuleList(nn.LayerNorm(width, NORM_EPS) for _ in range(2))
        self.attention = Attention(width, heads, qk_norm=qk_norm, bias=False)
        self.feed_forward = FeedForward(width, "none")

    def forward(self, tokens: Tensor, skip: Tensor | None = None) -> Tensor:
        """[B, L, D] each."""
        if self.skip is not None and skip is not None:
            tokens = self.skip(torch.cat([tokens, skip], dim=-1))
        first, second = self.norms
        tokens = tokens + self.attention(first(tokens))
        return tokens + self.feed_forward(second(tokens))
