"""A control branch (ControlNet, arXiv 2302.05543) on MONAI's: a copy of the encoder of a trained
UNet that sees a condition image, and whose features, through convolutions that begin with zeros,
are added to those of the UNet.

Shapes: B samples; x [B, in_channels, *s] as the UNet takes it; the condition image [B, 1, *S] in
pixels, larger by 2 for each of the widths behind the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import ControlNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.diffusion.interface import conditioned
from models.diffusion.settings import ModelSettings
from models.diffusion.unet import Unet, keep_digits
from models.sinusoids import sinusoids
from settings.schema import SettingsError

OWN = "controlnet_"
"""How the names begin of what the branch has and the UNet has not."""


class Control(ControlNet):
    """The library's layers, with a forward of ours in which an embedding joins that of the time,
    as it does in `Unet`.
    """

    def __init__(
        self, settings: ModelSettings, in_channels: int, widths: Sequence[int]
    ) -> None:
        """
        Raises:
            SettingsError: the network is no UNet.
        """
        if settings.kind != "unet":
            raise SettingsError(
                "control.enabled=true copies the encoder of a UNet, and model.kind="
                f"{settings.kind} has none. Set model.kind=unet, or control.enabled=false."
            )
        shape, levels = settings.unet, len(settings.unet.widths)
        super().__init__(
            spatial_dims=settings.spatial_dims,
            in_channels=in_channels,
            num_res_blocks=shape.res_blocks,
            channels=shape.widths,
            attention_levels=[level >= levels - shape.attention for level in range(levels)],
            norm_num_groups=shape.norm_groups,
            num_head_channels=shape.head_width,
            conditioning_embedding_in_channels=1,
            conditioning_embedding_num_channels=tuple(widths),
            use_flash_attention=True,
        )
        keep_digits(self)
        self.checkpointing = settings.checkpointing

    def forward(  # type: ignore[override]  # the library's has other arguments
        self,
        x: Tensor,
        time: Tensor,
        image: Tensor,
        embedding: Tensor | None = None,
        scale: float = 1.0,
    ) -> list[Tensor]:
        """What is added to the skip connections of the UNet, in their order, and last to its
        middle.

        Args:
            time: as the UNet takes it, and so is the embedding.
            image: the condition image [B, 1, *S].
            scale: of all that is added.
        """
        convolution: Any = self.conv_in
        dtype = convolution.conv.weight.dtype
        features = sinusoids(time, self.block_out_channels[0]).to(dtype)
        e = conditioned(self.time_embed(features), embedding)
        h = convolution(x.to(dtype)) + self.controlnet_cond_embedding(image.to(dtype))
        found = [h]
        for block in self.down_blocks:
            h, outputs = self._run(block, h, e)
            found += outputs
        found.append(self._run(self.middle_block, h, e))
        zeros = [*self.controlnet_down_blocks, self.controlnet_mid_block]
        return [scale * zero(h) for zero, h in zip(zeros, found, strict=True)]

    def _run(self, part: nn.Module, *inputs: Tensor) -> Any:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return part(*inputs)
        return checkpoint(part, *inputs, use_reentrant=False)

    def copy_encoder(self, network: Unet) -> None:
        """Takes the weights of the UNet's encoder, middle and time embedding."""
        theirs = network.state_dict()
        names = [name for name in self.state_dict() if not name.startswith(OWN)]
        taken = {name: theirs[name] for name in names}
        self.load_state_dict(taken, strict=False)
