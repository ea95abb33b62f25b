"""Encodings of linear radiance in which equal steps look about equal: mu-law and PU21."""

from __future__ import annotations

import math

from torch import Tensor

PU21_BANDING_GLARE = (
    0.353487901,
    0.3734658629,
    8.277049286e-05,
    0.9062562627,
    0.09150303166,
    0.9099517204,
    596.3148142,
)
"""p1..p7 of the variant fitted to banding and glare, which the authors recommend."""

PU21_RANGE_CD_M2 = (0.005, 10_000.0)
"""The luminances that PU21 was fitted on; others are clipped to the nearer end."""


def mu_law(radiance: Tensor, mu: float, exposure: float) -> Tensor:
    """log(1 + mu * x) / log(1 + mu) with x = max(exposure * radiance, 0).

    x = 1 maps to 1. There is no upper clip: brighter pixels map above 1, so that an error among
    highlights keeps its gradient. Code that needs an image in [0, 1] clips the result.
    """
    exposed = (radiance * exposure).clamp(min=0.0)
    return (mu * exposed).log1p() / math.log1p(mu)


def pu21(radiance: Tensor, cd_m2_per_unit: float = 1.0) -> Tensor:
    """PU21 (Mantiuk & Azimi 2021, "banding_glare"): 0 at 0.005 cd/m2, about 256 at 100, 595 at
    10^4.

    V = p7 * (((p1 + p2 Y^p4) / (1 + p3 Y^p4))^p5 - p6), Y the luminance in cd/m2. As usual for
    colour, it is applied to each channel. Radiance of a scene has no absolute scale: 1.0 stands
    for `cd_m2_per_unit` cd/m2, a constant of the sweep.
    """
    p1, p2, p3, p4, p5, p6, p7 = PU21_BANDING_GLARE
    low, high = PU21_RANGE_CD_M2
    power = (radiance * cd_m2_per_unit).clamp(low, high) ** p4
    return p7 * (((p1 + p2 * power) / (1.0 + p3 * power)) ** p5 - p6)
