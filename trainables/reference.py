"""What a trained network has to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from losses.terms import Tensors


@dataclass(frozen=True)
class Reference:
    """Something that needs no training, or next to none: the input as the output, the mean, a
    nearest neighbour, a linear model.

    Attributes:
        predict: `predict(batch) -> prediction` of the first phase, as its forward makes it, for
            the metrics; what it leaves out is not measured.
        about: what it is, in a few words.
    """

    predict: Callable[[Tensors], Tensors]
    about: str
