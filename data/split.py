"""The random split into samples for training and for validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def random_split(
    count: int, validation_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of both splits of `count` >= 2 samples, each ascending and of at least one."""
    order = np.random.default_rng(seed).permutation(count)
    cut = min(max(1, round(validation_share * count)), count - 1)
    return np.sort(order[cut:]), np.sort(order[:cut])
