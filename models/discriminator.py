"""A critic that judges an image patch by patch (PatchGAN), for adversarial terms.

Shapes: B samples, C channels, *S the space, (H, W) or (D, H, W); *p the patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.monai_modules import monai_module
from settings.schema import Settings, setting

OBJECTIVES = ("least_squares", "hinge")
NORMS = ("instance", "layer_head", "none")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings(Settings):
    """The critic, and its objective against the network that generates the images.

    A patch is what one logit sees: 16, 34, 70, 142, 286 pixels a side for 1 to 5 `layers`.
    instance: each channel of a sample is normalised over its positions, in all layers but the
    first and the last. layer_head: one norm, of all values of a sample, before the last layer.
    """

    enabled: bool = setting(
        False, "train a critic; false builds none and leaves the term loss.adversarial out"
    )
    objective: str = setting("least_squares", "what both sides minimise", choices=OBJECTIVES)
    width: int = setting(
        16, "channels of the first layer; each further one doubles them", low=2, high=256
    )
    layers: int = setting(2, "convolutions between the first and the last one", low=1, high=5)
    norm: str = setting("instance", "what is normalised inside the critic", choices=NORMS)
    spectral: bool = setting(
        False, "keep the largest singular value of every convolution's matrix at 1"
    )


def least_side(settings: DiscriminatorSettings) -> int:
    """The shortest side of an image, in pixels, that leaves the last layer a patch and the norm
    before it more than one position.
    """
    return 3 * 2**settings.layers


class Discriminator(nn.Module):
    """Images [B, C, *S] -> logits [B, 1, *p], one per patch; large means real.

    MONAI's PatchDiscriminator without its intermediate features. No norm looks beyond a sample
    (MONAI's default is a batch norm), so a judgement does not depend on what else is in the batch.
    """

    def __init__(self, settings: DiscriminatorSettings, channels: int, dims: int) -> None:
        super().__init__()
        self.least_side = least_side(settings)
        is_normed = settings.norm == "instance"
        options: dict[str, Any] = {"norm": "INSTANCE" if is_normed else None}
        nets = monai_module("networks.nets")  # seconds, and only a GAN needs it
        network = nets.PatchDiscriminator(
            spatial_dims=dims,
            channels=settings.width,
            in_channels=channels,
            num_layers_d=settings.layers,
            bias=not is_normed,
            **options,
        )
        layers = list(network.children())
        if settings.norm == "layer_head":
            # One group is a layer norm with one weight per channel; over [C, H, W] it would have
            # 2 C H W weights and fix the size of the image (004-M10).
            layers.insert(len(layers) - 1, nn.GroupNorm(1, settings.width * 2**settings.layers))
        self.layers = nn.Sequential(*layers)
        if settings.spectral:
            for module in list(self.layers.modules()):
                if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                    spectral_norm(module)

    def forward(self, image: Tensor) -> Tensor:
        """The logits of all patches.

        Raises:
            ValueError: a side of the image is too short for the number of layers.
        """
        sides = tuple(image.shape[2:])
        if min(sides) < self.least_side:
            raise ValueError(
                f"this critic needs at least {self.least_side} px a side, not "
                f"{' x '.join(map(str, sides))}. Lower discriminator.layers, or enlarge the image."
            )
        return self.layers(image)


def build_discriminator(
    settings: DiscriminatorSettings, channels: int, dims: int
) -> Discriminator:
    """A fresh critic of images with that many channels and 2 or 3 axes, initialised from the
    current random state.
    """
    return Discriminator(settings, channels, dims)


def judge_both(critic: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """`real_logits` and `fake_logits` [B, 1, *p], from one pass over both.

    One pass, because spectral norm changes its buffers in each, and a wrapper for several workers
    expects one forward before a backward.
    """
    both = critic(torch.cat([real, fake.detach().to(real.dtype)]))
    real_logits, fake_logits = both.split([len(real), len(fake)])
    return {"real_logits": real_logits, "fake_logits": fake_logits}
