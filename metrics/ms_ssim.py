"""Multi-scale SSIM of images and volumes in [0, 1], computed by MONAI, with as many scales as the
size holds.

Wang, Simoncelli & Bovik (2003): prod over scales j < M of cs_j^w_j, times ssim_M^w_M; cs_j is the
mean contrast-structure of the image after j - 1 halvings, ssim_M the mean SSIM of the last scale;
a mean below 0 counts as 0, and the product with it. Gaussian window of sigma 1.5, of 11 taps in
images and of 7 in volumes, where 11 would be four times the work for 2 % of the weight along an
axis; only where it fits the image. M is the most of the paper's five scales that the shortest
side holds, their weights divided by their sum, so that M = 1 is SSIM: 1 scale from 11 px, 2 from
22, 3 from 44, 4 from 99, 5 from 176 (volumes: 7, 14, 28, 63, 112). Values at another M, or of
another library, are not comparable: MONAI's and torchmetrics' differ in the fourth digit.

Shapes: B images, C channels; images [B, C, H, W], volumes [B, C, D, H, W]; results [B], float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.monai_modules import monai_module
from settings.schema import SettingsError

SIGMA = 1.5
TAPS = {2: 11, 3: 7}
"""Taps of the window along each axis, by the number of axes."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the paper's five scales, from the finest."""


def scales(shortest_side: int, taps: int) -> int:
    """The most scales whose window fits an image with that shortest side; 0 where none fits."""
    fitting = [
        count
        for count in range(1, len(SCALE_WEIGHTS) + 1)
        # The window must fit the smallest image. MONAI asks for (count - 1)^2 in place of
        # 2^(count - 1), which is more at four scales and too little at two.
        if min(shortest_side >> (count - 1), shortest_side // max(1, count - 1) ** 2) >= taps
    ]
    return max(fitting, default=0)


def check_sides(space: Sequence[int]) -> None:
    """Refuses images (H, W) that have no MS-SSIM, and volumes (D, H, W) that have none in 3-D or
    whose slices have none.

    Raises:
        SettingsError: a side is shorter than the window.
    """
    least = (TAPS[3], *[TAPS[2]] * 2)[-len(space) :]
    if all(side >= taps for side, taps in zip(space, least, strict=True)):
        return
    size, needed = (" x ".join(map(str, sides)) for sides in (space, least))
    raise SettingsError(
        f"metric.ms_ssim needs {needed} px or more, and the samples have {size}. Use larger ones "
        f"(data.{'image_size' if len(space) == 2 else 'volume_size'}), or metric.ms_ssim=false."
    )


def ms_ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """MS-SSIM of each image, or of each volume as a whole.

    Raises:
        ValueError: a side is shorter than the window.
    """
    dims = target.ndim - 2
    taps, shortest = TAPS[dims], min(target.shape[2:])
    count = scales(shortest, taps)
    if not count:
        raise ValueError(
            f"MS-SSIM needs at least {taps} px a side, not {tuple(target.shape[2:])}. Use larger "
            "images, or metric.ms_ssim=false."
        )
    if not len(target):
        return torch.zeros(0, dtype=torch.float64, device=target.device)
    regression = monai_module("metrics.regression")  # seconds to import
    weights = [weight / sum(SCALE_WEIGHTS[:count]) for weight in SCALE_WEIGHTS[:count]]
    # Contiguous, because MONAI takes a view that a channels-last image does not allow.
    predicted, true = (x.float().contiguous() for x in (prediction, target))
    values = regression.compute_ms_ssim(
        predicted, true, spatial_dims=dims, kernel_size=taps, kernel_sigma=SIGMA, weights=weights
    )
    return values.double().flatten()


def ms_ssim_of_slices(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean MS-SSIM of each volume's slices along D, as a 2-D model is measured."""
    volumes, depth = target.shape[0], target.shape[2]
    pair = (x.transpose(1, 2).flatten(0, 1) for x in (prediction, target))
    return ms_ssim(*pair).view(volumes, depth).mean(dim=1)
