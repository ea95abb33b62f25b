"""The metrics of the autoencoder of images that styles are transferred between."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metrics.image import SSIM_TAPS, over_images, psnr_db, ssim
from metrics.metric import Metric, Tensors

_RANGE = 1.0
"""Of the images."""


def psnr(prediction: Tensors, batch: Tensors, settings: object) -> tuple[Tensor, Tensor]:
    """Of each reconstruction, dB."""
    image = batch["image"].float()
    return over_images(psnr_db(_shown(prediction), image, _RANGE))


def similarity(prediction: Tensors, batch: Tensors, settings: object) -> tuple[Tensor, Tensor]:
    """SSIM of each reconstruction; images smaller than its window are not counted."""
    image = batch["image"].float()
    if min(image.shape[-2:]) < SSIM_TAPS:
        return over_images(image.new_zeros(len(image)), image.new_zeros(len(image)).bool())
    return over_images(ssim(_shown(prediction), image, _RANGE))


def moments(prediction: Tensors, batch: Tensors, settings: object) -> tuple[Tensor, Tensor]:
    """The sum of the latents' numbers and of their squares: [2]; how many they are."""
    x = prediction["mean"].double()
    count = torch.tensor(x.numel(), dtype=torch.float64, device=x.device)
    return torch.stack([x.sum(), x.square().sum()]), count


def deviation(sums: Tensor, count: float) -> float:
    """The standard deviation, of the sums of `moments`."""
    if not count > 0:
        return math.nan
    mean, square = (sums / count).tolist()
    return math.sqrt(max(square - mean**2, 0.0))


def _shown(prediction: Tensors) -> Tensor:
    return prediction["reconstruction"].float().clamp(0.0, _RANGE)


def style_vae_metrics() -> list[Metric]:
    """The first is the objective."""
    return [
        Metric("psnr_db", "dB", "max", psnr, "PSNR of the reconstruction, mean over images"),
        Metric("ssim", "", "max", similarity, "SSIM of the reconstruction, mean over images"),
        Metric(
            "latent_deviation",
            "",
            None,
            moments,
            "standard deviation of all numbers of the latents, before they are scaled",
            finish=deviation,
        ),
    ]
