"""Hartmann and Branin with a fidelity z: 1 is the function itself, less is a biased copy of it.

The bias is that of Kandasamy et al., "Multi-fidelity Bayesian Optimisation with Continuous
Approximations" (ICML 2017), appendix on experiments, with all of its fidelities equal to z. Inputs
lie in the unit cube, shape `(N, D)`; results have shape `(N,)`, and smaller is better.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HARTMANN3_OPTIMUM = -3.8627797873326
HARTMANN6_OPTIMUM = -3.3223680114155
BRANIN_OPTIMUM = 10 / (8 * math.pi)

_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_ALPHA_BIAS = 0.1

_SCALES3 = np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]])
_CENTRES3 = 1e-4 * np.array(
    [[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]]
)
_SCALES6 = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_CENTRES6 = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann3(points: Array, z: float) -> Array:
    return _hartmann(points, z, _SCALES3, _CENTRES3)


def hartmann6(points: Array, z: float) -> Array:
    return _hartmann(points, z, _SCALES6, _CENTRES6)


def _hartmann(points: Array, z: float, scales: Array, centres: Array) -> Array:
    """-sum_i (alpha_i - 0.1 (1 - z)) exp(-sum_j A_ij (x_j - P_ij)^2)."""
    alpha = _ALPHA - _ALPHA_BIAS * (1 - z)
    distances = np.einsum("ij,nij->ni", scales, (points[:, None, :] - centres) ** 2)
    return -np.exp(-distances) @ alpha


def branin(points: Array, z: float) -> Array:
    """(x_2 - b(z) x_1^2 + c(z) x_1 - 6)^2 + 10 (1 - t(z)) cos x_1 + 10, where x_1 runs from -5 to
    10 and x_2 from 0 to 15.

    b(z) = 5.1 / (4 pi^2) - 0.01 (1 - z), c(z) = 5 / pi - 0.1 (1 - z), t(z) = 1 / (8 pi) + 0.05
    (1 - z): the paper's numbers. The code that its authors published later has t less biased, 1 /
    (8 pi) + 0.005 (1 - z).
    """
    first, second = 15 * points[:, 0] - 5, 15 * points[:, 1]
    b = 5.1 / (4 * math.pi**2) - 0.01 * (1 - z)
    c = 5 / math.pi - 0.1 * (1 - z)
    t = 1 / (8 * math.pi) + 0.05 * (1 - z)
    return (second - b * first**2 + c * first - 6) ** 2 + 10 * (1 - t) * np.cos(first) + 10
