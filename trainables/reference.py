"""What a trained network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from losses.terms import Tensors
from trainables.examination import Examine


@dataclass(frozen=True)
class Reference:
    """Something that needs no training, or next to none: the input as the output, the mean, a
    nearest neighbour, a linear model.

    Attributes:
        predict: `predict(batch) -> prediction` of the first phase, as its forward makes it, for
            the metrics; what it leaves out is not measured.
        about: what it is, in a few words.
        measure: of what makes no such prediction, or more than one (a codec, whose rate is that of
            its file): `measure(batch) -> {metric: (sums, count)}` as `Metric.measure` gives them.
            A metric that it names is not taken from the prediction.
        examine: by the name of an examination, what takes the place of its `run`; an examination
            that is left out is not measured.
        costs: names of metrics, less being better, at which distortion is bought (a rate). A
            network that spends less of one is shown beside this, and neither is called better.
    """

    predict: Callable[[Tensors], Tensors]
    about: str
    measure: Callable[[Tensors], Mapping[str, tuple[Tensor, Tensor]]] = lambda batch: {}
    examine: Mapping[str, Examine] = field(default_factory=dict)
    costs: tuple[str, ...] = ()
