"""PSNR and SSIM of images with a fixed range, over the image or inside a mask.

SSIM is our own: MONAI's takes 2 to 3 seconds to import, computes in float32 and gives no map at
full size, which a mask needs. It equals scikit-image's (Gaussian window, population covariance) to
rounding; MONAI's differs in the fourth digit from torchmetrics', so do not compare across
libraries.

Shapes: images [B, C, H, W]; mask [B, 1, H, W] of 0 and 1; results [B].
"""

from __future__ import annotations

import torch
from torch import Tensor

PSNR_LIMIT_DB = 100.0
"""PSNR of identical images: the MSE counts as at least 1e-10 of the squared range."""

SSIM_TAPS = 11
SSIM_SIGMA = 1.5


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over pixels and channels inside the mask, 0 where that is empty. [B]"""
    if mask is None:
        return values.flatten(1).mean(1)
    inside = torch.where(mask > 0, values, 0.0).flatten(1).sum(1)
    return inside / (mask > 0).flatten(1).sum(1).mul(values.shape[1]).clamp(min=1)


def psnr_db(
    prediction: Tensor, target: Tensor, data_range: float, mask: Tensor | None = None
) -> Tensor:
    """10 log10(range^2 / MSE) of each image, at most `PSNR_LIMIT_DB`. [B]"""
    relative = masked_mean(((prediction - target) / data_range).square(), mask)
    return -10.0 * torch.log10(relative.clamp(min=10.0 ** (-PSNR_LIMIT_DB / 10.0)))


def ssim_map(prediction: Tensor, target: Tensor, data_range: float) -> Tensor:
    """Structural similarity of every pixel and channel (Wang et al. 2004). [B, C, H, W]

    Gaussian window of 11 taps, sigma 1.5; k1 .01, k2 .03. At the border the image is mirrored, its
    edge repeated.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_p, mean_t = _blurred(prediction), _blurred(target)
    var_p = _blurred(prediction.square()) - mean_p.square()
    var_t = _blurred(target.square()) - mean_t.square()
    covariance = _blurred(prediction * target) - mean_p * mean_t
    luminance = (2.0 * mean_p * mean_t + c1) / (mean_p.square() + mean_t.square() + c1)
    return luminance * (2.0 * covariance + c2) / (var_p + var_t + c2)


def ssim(
    prediction: Tensor, target: Tensor, data_range: float, mask: Tensor | None = None
) -> Tensor:
    """Mean of `ssim_map` inside the mask, or without one where the window fits the image. [B]"""
    similarity = ssim_map(prediction, target, data_range)
    if mask is not None:
        return masked_mean(similarity, mask)
    radius = SSIM_TAPS // 2
    return masked_mean(similarity[..., radius:-radius, radius:-radius])


def _blurred(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    if min(height, width) < SSIM_TAPS:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_TAPS} x {SSIM_TAPS} pixels, not "
            f"{height} x {width}. Use larger crops."
        )
    rows = _blur_matrix(height, image)
    columns = rows if height == width else _blur_matrix(width, image)
    return rows @ image @ columns.T


def _blur_matrix(size: int, like: Tensor) -> Tensor:
    """[size, size]; row i holds the window around i, the taps beyond the border mirrored into it.

    A product with it is many times faster on a CPU than a float64 convolution by channel.
    """
    radius = SSIM_TAPS // 2
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    taps = torch.exp(-0.5 * (offsets.to(like.dtype) / SSIM_SIGMA).square())
    centre = torch.arange(size, device=like.device)[:, None]
    column = centre + offsets
    column = torch.where(column < 0, -1 - column, column)
    column = torch.where(column >= size, 2 * size - 1 - column, column)
    return torch.zeros(size, size, dtype=like.dtype, device=like.device).scatter_add_(
        1, column, (taps / taps.sum()).expand(size, -1)
    )


def over_images(values: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(sum, count) over the images that are counted (all where None); both float64.

    An image without a hole is not counted. A NaN of one that is stays: a broken prediction must
    not leave the mean unnoticed.
    """
    if counted is None:
        counted = torch.ones_like(values, dtype=torch.bool)
    return torch.where(counted, values, 0.0).sum(dtype=torch.float64), counted.sum().double()
