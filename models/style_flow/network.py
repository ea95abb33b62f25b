"""The velocity v(x, t, style) of a latent: a UNet whose way up is conditioned by depth-wise
kernels that time and style predict.

Shapes: B samples, C channels of a latent, H x W its sides.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from models.integration import Velocity
from models.style_flow.blocks import Attention, ResidualBlock, SkipGate, StyleBlock
from models.style_flow.conditioning import Condition
from models.style_flow.settings import LEVELS, ModelSettings


class VelocityUnet(nn.Module):
    """Residual blocks at three levels on the way down, unconditioned; skips are added, not
    concatenated; style blocks at the two finer levels on the way up. The last convolution is 0 at
    the start, and so is the velocity.

    Attributes:
        settings: `base=128, embedding=256` has 20.34 M parameters with 4 channels and 2 styles
            without a token, 20.63 M with kernel biases.
        channels: C.
        styles: their number; the table may have any.
    """

    def __init__(self, settings: ModelSettings, channels: int, styles: int) -> None:
        super().__init__()
        self.settings, self.channels, self.styles = settings, channels, styles
        widths, groups = settings.widths, settings.norm_groups
        is_plus = settings.variant == "plus"
        self.condition = Condition(settings, styles)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(*[ResidualBlock(width, groups) for _ in range(settings.encoder_blocks)])
            for width in widths
        )
        pairs = list(itertools.pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.attention = Attention(widths[-1], settings) if is_plus else nn.Identity()
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 4, stride=2, padding=1) for a, b in reversed(pairs)
        )
        self.gates = nn.ModuleList(
            SkipGate(a, settings.embedding) for a, _ in reversed(pairs) if is_plus
        )
        self.up = nn.ModuleList(
            nn.ModuleList(StyleBlock(a, settings) for _ in range(settings.decoder_blocks))
            for a, _ in reversed(pairs)
        )
        self.norm = nn.GroupNorm(groups, widths[0])
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor, style: Tensor) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1], style int64 [B] (`NULL_STYLE` for none) -> dx/dt."""
        self._check(x, t, style)
        condition = self.condition(t, style)
        h, skips = self.first(x), []
        for level, blocks in enumerate(self.down):
            h = blocks(h)
            if level < LEVELS - 1:
                skips.append(h)
                h = self.shrink[level](h)
        h = self.attention(h)
        for level, grow in enumerate(self.grow):
            skip = skips.pop()
            skip = self.gates[level](skip, condition) if len(self.gates) else skip
            h = grow(h) + skip
            for block in self.up[level].children():
                h = block(h, condition)
        return self.last(F.silu(self.norm(h)))

    def of_style(self, style: Tensor) -> Velocity:
        """v(x, t) of a style for each sample [B], as `integrate` takes it."""
        return lambda x, t: self(x, t, style)

    def _check(self, x: Tensor, t: Tensor, style: Tensor) -> None:
        divisor = self.settings.divisor
        if x.ndim != 4 or x.shape[1] != self.channels or any(n % divisor for n in x.shape[2:]):
            raise ValueError(
                f"this network takes latents [B, {self.channels}, H, W] with sides that are "
                f"multiples of {divisor}, not {list(x.shape)}. Crop them, or build it for theirs."
            )
        if t.shape != x.shape[:1] or style.shape != x.shape[:1]:
            raise ValueError(
                f"t and style have one number a sample, [{len(x)}], not {list(t.shape)} and "
                f"{list(style.shape)}."
            )
