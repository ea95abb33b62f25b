"""The random split into samples for training, for validation and for a test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def random_split(
    count: int, validation_share: float, seed: int, fold: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of both splits of `count` >= 2 samples, each ascending and of at least one. The
    validation of another fold has other samples, as long as there are some.
    """
    order = np.random.default_rng(seed).permutation(count)
    cut = min(max(1, round(validation_share * count)), count - 1)
    order = np.roll(order, -fold * cut)
    return np.sort(order[cut:]), np.sort(order[:cut])


def take_test(
    place: str, train: NDArray[np.int64], count: int, test_share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The samples to train on, and `test_share` of all `count` for a test, which are no longer
    among them, each ascending: the validation is the same with and without a test.

    Raises:
        ValueError: none would be left to train on; `place` names the data.
    """
    wanted = round(test_share * count)
    if not wanted:
        return train, np.array([], dtype=np.int64)
    if wanted >= len(train):
        raise ValueError(
            f"{place}: data.test_share={test_share:g} takes {wanted} of the {len(train)} samples "
            "to train on, and none is left. Lower it, or data.validation_share."
        )
    order = np.random.default_rng((seed, 1)).permutation(np.unique(train))
    return np.sort(order[wanted:]), np.sort(order[:wanted])
