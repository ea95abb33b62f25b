"""Seeds derived from one master seed. Each depends on its name and number alone, and not on the
order in which seeds are asked for.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: str | int) -> int:
    """A seed of 32 bits (what numpy's RandomState and torch take) for a named part of a sweep.

    `derive(7, "trial", 12)` is the same in every process, on every platform and Python version;
    parts that merely concatenate alike ("a", 11 and "a1", 1) differ. SHA-256 of the parts with
    their lengths.
    """
    text = "".join(f"{len(part)}:{part}" for part in map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big")
