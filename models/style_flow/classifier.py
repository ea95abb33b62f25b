"""Which style a latent has: two classifiers whose probabilities are multiplied, for each is wrong
about others. One is linear in statistics of patches, the other a small convolutional network.

Shapes: latents [B, C, H, W] with sides of 7 or more; K styles; F statistics.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = (1, 3)
"""Sides of the patches whose statistics are taken."""

_FLOOR = 1e-3
"""Variance below which a number of a patch counts as constant; of a whole latent it is 1."""


class StyleClassifier(nn.Module):
    """Without weights of its own at the start; `trainables.style_flow.classifier` trains it."""

    def __init__(self, channels: int, styles: int, width: int) -> None:
        super().__init__()
        self.channels, self.styles, self.width = channels, styles, width
        count = statistics(torch.zeros(1, channels, 3, 3)).shape[1]
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.linear = nn.Linear(count, styles)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.convolutions = nn.Sequential(
            *_stage(channels, width), *_stage(width, width), *_stage(width, 2 * width, stride=2)
        )
        self.last = nn.Sequential(nn.Dropout(0.3), nn.Linear(4 * width, styles))

    def forward(self, latents: Tensor) -> Tensor:
        """Logits of the product of both, [B, K]."""
        both = self.by_statistics(latents), self.by_convolutions(latents)
        return torch.stack([logits.log_softmax(dim=1) for logits in both]).sum(dim=0)

    def by_statistics(self, latents: Tensor) -> Tensor:
        """Logits [B, K]."""
        logits: Tensor = self.linear(self.standardised(statistics(latents)))
        return logits

    def by_convolutions(self, latents: Tensor) -> Tensor:
        """Logits [B, K] from mean and deviation, over positions, of what the network sees."""
        seen = self.convolutions(latents).flatten(2)
        pooled = seen.mean(dim=2), (seen.var(dim=2, correction=0) + 1e-4).sqrt()
        logits: Tensor = self.last(torch.cat(pooled, dim=1))
        return logits

    def standardised(self, values: Tensor) -> Tensor:
        """Statistics with mean 0 and deviation 1 over the training latents."""
        return (values - self.mean) / self.deviation


def _stage(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def statistics(latents: Tensor) -> Tensor:
    """The mean of each channel; of patches of each of `SIZES` half the logarithm of the variance
    of each number, and the correlations between numbers. [B, F]
    """
    parts = [latents.mean(dim=(2, 3))]
    for size in SIZES:
        patches = F.unfold(latents, size)
        centred = patches - patches.mean(dim=2, keepdim=True)
        covariance = centred @ centred.mT / patches.shape[2]
        variance = covariance.diagonal(dim1=1, dim2=2) + _FLOOR
        scale = variance.rsqrt()
        correlation = covariance * scale[:, :, None] * scale[:, None, :]
        side = correlation.shape[1]
        row, column = torch.triu_indices(side, side, offset=1, device=latents.device)
        parts += [0.5 * variance.log(), correlation[:, row, column]]
    return torch.cat(parts, dim=1)
