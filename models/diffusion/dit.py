"""Diffusion transformer (DiT, arXiv 2212.09748) of images and volumes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from models.diffusion.interface import PLACES, DiffusionNetwork, Perturb, conditioned, unperturbed
from models.diffusion.settings import DIT_SIZES, ModelSettings
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


class Dit(DiffusionNetwork):
    """Every patch of the image is a token; E is their width. The output is 0 at first.

    A condition image as `context` is cut into patches as well, with an embedding of its own and
    the same positions, and every block attends to them.
    """

    takes_context = True

    def __init__(
        self,
        settings: ModelSettings,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        shape = settings.dit
        width, heads = DIT_SIZES[shape.size].width, DIT_SIZES[shape.size].heads
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
        self.embed_context = (
            nn.Linear(context_channels * pixels, width) if context_channels else None
        )
        xavier_linears(self)
        self.positions = Positions(self.grid, width, shape.positions)
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(
            DitBlock(
                width,
                heads,
                qk_norm=shape.qk_norm,
                drop_path=share,
                crosses=context_channels > 0,
            )
            for share in drop_path_shares(shape.drop_path, DIT_SIZES[shape.size].depth)
        )
        self.head = DitHead(width, out_channels * pixels)

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
        tokens = self.positions(self.embed(patchify(x.to(dtype), self.patch_size)))
        e = conditioned(self.time(time), embedding)
        attended = None
        if self.embed_context is not None and context is not None:
            patches = patchify(context.to(dtype), self.patch_size)
            attended = self.positions(self.embed_context(patches))
        middle = len(self.blocks) // 2
        for place, block in enumerate(self.blocks):
            name = PLACES[1 + (place > middle) - (place < middle)]
            tokens = perturb(name, self.run(block, tokens, e, attended))
        return unpatchify(self.head(tokens, e), self.grid, self.patch_size).to(x.dtype)
