"""What a system objects to before a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """An objection to settings and data, made before a training.

    Attributes:
        text: what is wrong and the way out.
        hopeless: no training with these settings can work; `train` refuses it, a sweep runs and
            marks it.
    """

    text: str
    hopeless: bool = False
