"""Which fields a network was trained on: a hash of each, so that others can be told from them."""

from __future__ import annotations

import base64
import hashlib

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_BYTES = 8
"""Of a hash. Two of a million fields share one with a probability of 3e-8."""


def hashes_of(fields: np.ndarray, indices: np.ndarray) -> Hashes:
    """A hash of the values in float32 of each chosen field, of any file format, in their order."""
    values = (np.ascontiguousarray(fields[index], np.float32) for index in indices)
    found = (hashlib.blake2b(value.tobytes(), digest_size=_BYTES).digest() for value in values)
    return np.frombuffer(b"".join(found), "<u8")


def packed(hashes: Hashes) -> str:
    """The set of them as text, 11 characters each."""
    return base64.b64encode(np.unique(hashes).astype("<u8").tobytes()).decode()


def unpacked(text: str) -> Hashes:
    return np.frombuffer(base64.b64decode(text), "<u8")
