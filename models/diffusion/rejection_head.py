"""A small head that tells real noisy images from generated ones, on features of a frozen UNet.

Trained with as many real as generated images its logit is log(q_t / p_t), the logarithm of how
much denser real images are at x_t than generated ones (arXiv 2405.17880, equation 10).

Shapes: B samples, C channels of the features, `*s` their cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from models.diffusion.interface import DiffusionNetwork
from settings.schema import Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class HeadSettings(Settings):
    width: int = setting(128, "channels behind the first convolution", low=1, high=4096)
    norm_groups: int = setting(32, "groups of GroupNorm; divides the width", low=1, high=128)
    statistics: bool = setting(
        True,
        "the last layer also reads mean and deviation of each channel, which GroupNorm takes "
        "away from the convolutions; false is the document's",
    )

    def check(self) -> None:
        if self.width % self.norm_groups:
            raise SettingsError(
                f"head.norm_groups must divide head.width, not {self.norm_groups} of "
                f"{self.width}. Set it to a divisor."
            )


_LEAST_VARIANCE = 1e-6


class RejectionHead(nn.Module):
    """A 1 x 1 convolution to `width` channels, two 3 x 3 convolutions that halve every side, each
    with GroupNorm and SiLU behind it; the mean over cells, and one number (001-M11: 0.33 M
    parameters on 256 channels of slices, 0.95 M on 512 of volumes, where the document says 500).
    With `statistics` mean and logarithm of the deviation of each channel are beside those means.

    The logit is 0 before the first step, the log-ratio of no knowledge.
    """

    def __init__(self, settings: HeadSettings, channels: int, dimensions: int) -> None:
        """Args: channels: C."""
        super().__init__()
        convolution: Any = Conv[Conv.CONV, dimensions]
        width, layers = settings.width, list[nn.Module]()
        for size, taken in ((1, channels), (3, width), (3, width)):
            stride = 1 if size == 1 else 2
            layers += [
                convolution(taken, width, size, stride=stride, padding=size // 2),
                nn.GroupNorm(settings.norm_groups, width),
                nn.SiLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.has_statistics = settings.statistics
        self.out = nn.Linear(width + (2 * channels if settings.statistics else 0), 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, C, *s] -> logits float32 [B], above 0 for real."""
        features = features.to(self.out.weight.dtype)
        read = [self.layers(features).flatten(2).mean(dim=2)]
        if self.has_statistics:
            variance, mean = torch.var_mean(features.flatten(2), dim=2, correction=0)
            read += [mean, 0.5 * torch.log(variance + _LEAST_VARIANCE)]
        logit: Tensor = self.out(torch.cat(read, dim=1))
        return logit[:, 0].float()


class Tapped:
    """A network that is called as before and keeps the features of its middle block, [B, C, *s],
    those of the last call. It stands in the place of a network in evaluation.
    """

    training = False

    def __init__(self, network: DiffusionNetwork) -> None:
        self.network = network
        self.features = torch.zeros(0)

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        embedding: Tensor | None = None,
        context: Tensor | None = None,
        added: Sequence[Tensor] = (),
    ) -> Tensor:
        def kept(place: str, features: Tensor) -> Tensor:
            if place == "middle":
                self.features = features
            return features

        further = {"added": added} if added else {}  # only a UNet takes it
        output: Tensor = self.network(x, time, embedding, context, kept, **further)
        return output
