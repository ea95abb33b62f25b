"""The examination `flicker`: how much of a filled hole's change from frame to frame is not that of
the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.files import Float32
from data.hdr.consecutive import Pair, has_pairs, pairs
from data.hdr.settings import DataSettings
from metrics import hdr_measures
from trainables.api import Column, Exam, Examination, Reference, Tensors

PAIRS = 4
"""Pairs of frames that are looked at: two forwards each of a window of `SIDE_IN_CROPS` crops."""

SIDE_IN_CROPS = 2

Predict = Callable[[Tensors], Tensors]


def flicker_examination() -> Examination:
    column = Column(
        name="flicker",
        unit="nat",
        mode="min",
        help="mean |step of log(radiance + metric.epsilon) to the next frame, less the target's| "
        "along the motion, in what is or was a hole",
        reads=("metric.epsilon", "data.*"),
    )
    return Examination("flicker", PAIRS, (column,), _of_network)


def with_flicker(reference: Reference) -> Reference:
    """The reference, whose predictions are looked at as those of a network are."""
    measure = partial(_flicker, reference.predict)
    return Reference(reference.predict, reference.about, examine={"flicker": measure})


def missing_pairs(settings: DataSettings) -> list[str]:
    """Why validation has no flicker, in words; empty where it has one."""
    if has_pairs(settings, "validation"):
        return []
    return [
        "val.flicker stays empty: validation has no two consecutive frames of one shot with the "
        "motion between them (motion/motion-<id>, see docs/hdr_patch.md)."
    ]


def _of_network(exam: Exam) -> dict[str, tuple[Tensor, Tensor]]:
    model: Any = exam.modules["model"]

    def predict(batch: Tensors) -> Tensors:
        with exam.autocast():
            return model(model.completed(batch))

    return _flicker(predict, exam)


def _flicker(predict: Predict, exam: Exam) -> dict[str, tuple[Tensor, Tensor]]:
    data, epsilon = exam.settings.data, exam.settings.metric.epsilon
    frames = pairs(data, exam.split, PAIRS, SIDE_IN_CROPS * data.crop)
    sums, count = (torch.zeros((), dtype=torch.float64, device=exam.device) for _ in range(2))
    for case in exam.cases:
        if case < len(frames):
            more = _of_pair(predict, frames[case], epsilon, exam.device)
            sums, count = sums + more[0], count + more[1]
    return {"flicker": (sums, count)}


def _of_pair(
    predict: Predict, pair: Pair, epsilon: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    before, after = (_batch(frame, device) for frame in (pair.before, pair.after))
    predicted = predict(before)["radiance"], predict(after)["radiance"]
    return hdr_measures.flicker(predicted, before, after, epsilon)


def _batch(frame: Mapping[str, Float32], device: torch.device) -> dict[str, Tensor]:
    return {part: torch.from_numpy(plane)[None].to(device) for part, plane in frame.items()}
