"""MONAI's UNet of latent diffusion behind our interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from models.diffusion.interface import (
    DiffusionNetwork,
    Perturb,
    conditioned,
    unperturbed,
)
from models.diffusion.settings import ModelSettings
from models.sinusoids import sinusoids


class Unet(DiffusionNetwork, DiffusionModelUNet):
    """The library's layers, with a forward of ours in which an embedding joins that of the time.
    E is four times the first width; the time embedding e enters every residual block.
    """

    def __init__(
        self,
        settings: ModelSettings,
        size: tuple[int, ...],
        in_channels: int,
        out_channels: int,
        context_channels: int = 0,
    ) -> None:
        shape = settings.unet
        levels = len(shape.widths)
        # without flash attention every pair of cells is held in memory, and heads of the default
        # width of 8 are slow
        super().__init__(
            spatial_dims=settings.spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            num_res_blocks=shape.res_blocks,
            channels=shape.widths,
            attention_levels=[level >= levels - shape.attention for level in range(levels)],
            norm_num_groups=shape.norm_groups,
            num_head_channels=shape.head_width,
            use_flash_attention=True,
        )
        keep_digits(self)
        self.describe(
            settings,
            in_channels,
            out_channels,
            context_channels,
            size=None,
            embedding_width=4 * shape.widths[0],
        )

    def forward(  # type: ignore[override]  # the library's has other arguments
        self,
        x: Tensor,
        time: Tensor,
        embedding: Tensor | None = None,
        context: Tensor | None = None,
        perturb: Perturb = unperturbed,
        added: Sequence[Tensor] = (),
    ) -> Tensor:
        """As every network's.

        Args:
            added: to the skip connections and, the last, to the middle
                (`models.diffusion.control`).
        """
        self.check_input(x, time, embedding, context)
        convolution: Any = self.conv_in
        dtype = convolution.conv.weight.dtype
        features = sinusoids(time, self.block_out_channels[0]).to(dtype)
        e = conditioned(self.time_embed(features), embedding)
        h = convolution(x.to(dtype))
        skips = [h]
        for block in self.down_blocks:
            h, outputs = self.run(block, h, e)
            skips += outputs
            h = perturb("encoder", h)
        h = self.run(self.middle_block, h, e)
        if added:
            *of_skips, of_middle = added
            skips = [skip + more for skip, more in zip(skips, of_skips, strict=True)]
            h = h + of_middle
        h = perturb("middle", h)
        up_blocks: Any = self.up_blocks
        for block in up_blocks:
            count = len(block.resnets)
            h = perturb("decoder", self.run(block, h, skips[-count:], e))
            del skips[-count:]
        return self.out(h).to(x.dtype)


class _OfContiguous(nn.Linear):
    """A linear layer that lays its input out first."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as the library calls it
        return super().forward(input.contiguous())


def keep_digits(module: nn.Module) -> None:
    """Replaces the projections of the library's attention, whose input is a transposed view.
    torch multiplies such a view in another order where the weight requires no gradient, so that a
    moving average and the same weights in a checkpoint would differ in the last digit.
    """
    for block in list(module.modules()):
        for name in ("to_q", "to_k", "to_v"):
            layer = getattr(block, name, None)
            if isinstance(layer, nn.Linear):
                has_bias = layer.bias is not None
                made = _OfContiguous(
                    layer.in_features, layer.out_features, bias=has_bias, device="meta"
                )
                made.weight, made.bias = layer.weight, layer.bias
                setattr(block, name, made)
