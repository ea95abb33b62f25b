"""What the readers of every format share: their error, their arrays, the order of names."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class DataError(ValueError):
    """A file or folder that is not what the layout says: which one, what was expected, what was
    found.
    """


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts digits as numbers: img2 before img10. A name is cut at its numbers and compared part
    by part; where only leading zeros differ (1, 01), by its text.
    """
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
