"""Examinations of a training of npt: each converted layer by itself, over real tokens of windows
of the split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.metric import mean
from metrics.npt import (
    correlation,
    deviation_of_moments,
    effective_rank,
    importance,
    moments,
    share,
)
from models.npt.llama import TeacherError, read_config
from trainables.api import Column, Exam, Examination
from trainables.npt.forward import convert, of
from trainables.npt.settings import NptSettings

_CASES = 8
"""Windows that are looked at, spread over the split."""

Sums = dict[str, tuple[Tensor, Tensor]]
"""Of each column the sums and their count."""

_OF_LAYER: Mapping[str, tuple[str, Callable[[Tensor, float], float]]] = {
    "direct_error": ("squared error of m, share of the square of its target", share),
    "attention_cosine": ("cosine of v_a and a, mean over tokens", mean),
    "scalar_std": ("deviation of s over tokens", deviation_of_moments),
    "importance_correlation": ("correlation over tokens of s and log(|a| / |h|)", correlation),
    "change_rank": ("effective rank of sum_k s v_b over a window's tokens, mean", mean),
    "v_a_norm": ("|v_a|, mean over pairs and tokens", mean),
    "v_b_norm": ("|v_b|, mean over pairs and tokens", mean),
    "change_norm": ("|sum_k s v_b|, mean over tokens", mean),
}
"""Measure -> what it is, and what makes it of its sums."""

_OF_ALL = ("importance_correlation", "change_rank", "change_norm")
"""Those that also have a column of their own, a mean over layers; the others are metrics."""


def layers_of(settings: NptSettings, known: int | None) -> tuple[int, ...]:
    """The converted layers, of a teacher with `known` ones. Where that is not known and the
    teacher's folder is on another machine, none.
    """
    node = settings.teacher
    if known is None and node.path:
        try:
            known = int(read_config(Path(node.path).expanduser())["num_hidden_layers"])
        except TeacherError:
            return ()
    return settings.model.chosen(known or node.layers)


def examinations(layers: tuple[int, ...]) -> tuple[Examination, ...]:
    columns = [
        Column(measure, "", None, f"{_OF_LAYER[measure][0]} and layers", _OF_LAYER[measure][1])
        for measure in _OF_ALL
    ]
    columns += [
        Column(f"{measure}_{at}", "", None, f"{about}; layer {at}", finish, detail=True)
        for at in layers
        for measure, (about, finish) in _OF_LAYER.items()
    ]
    return (Examination("layers", _CASES, columns, _examine),)


def _examine(exam: Exam) -> Sums:
    sums: Sums = {}
    length = len(getattr(exam.loaders, exam.split))
    layers = of(exam.modules).layers
    batch = exam.fetch([case * length // _CASES % length for case in exam.cases])
    with exam.autocast():
        prediction = convert(exam.modules, batch, exam.settings)
    for row, real in enumerate(batch["mask"]):
        per_layer = [
            _of_layer({name: prediction[name][row, place][real] for name in _READ})
            for place in range(len(layers))
        ]
        for at, measured in zip(layers, per_layer, strict=True):
            for measure, one in measured.items():
                _add(sums, f"{measure}_{at}", *one)
        for measure in _OF_ALL:
            totals, counts = map(torch.stack, zip(*(m[measure] for m in per_layer), strict=True))
            if measure == "importance_correlation":
                _add(sums, measure, totals.flatten(), counts[0])
            else:
                _add(sums, measure, totals.sum(), counts.sum())
    return sums


_READ = ("mlp", "target", "encoded", "attention", "hidden", "scalar", "change", "v_a", "v_b")


def _of_layer(made: Mapping[str, Tensor]) -> Sums:
    """Of the real tokens of one window in one layer: every measure of `_OF_LAYER`."""
    x = {name: value.double() for name, value in made.items()}
    tokens = torch.tensor(len(x["mlp"]), dtype=torch.float64)
    error, size = (x["mlp"] - x["target"]).square().sum(), x["target"].square().sum()
    of_scalar = moments(x["scalar"][:, 0], importance(x["attention"], x["hidden"]))
    rank = effective_rank(x["change"])
    is_known = rank.isfinite()
    return {
        "direct_error": (torch.stack([error, size]), tokens),
        "attention_cosine": (
            F.cosine_similarity(x["encoded"], x["attention"], dim=-1).sum(),
            tokens,
        ),
        "scalar_std": (of_scalar, tokens),
        "importance_correlation": (of_scalar, tokens),
        "change_rank": (torch.where(is_known, rank, 0.0), is_known.double()),
        **{
            f"{name}_norm": (x[name].norm(dim=-1).mean(dim=-1).sum(), tokens)
            for name in ("v_a", "v_b")
        },
        "change_norm": (x["change"].norm(dim=-1).sum(), tokens),
    }


def _add(sums: Sums, column: str, total: Tensor, count: Tensor) -> None:
    total, count = total.cpu(), count.cpu()
    before = sums.get(column)
    sums[column] = (total, count) if before is None else (before[0] + total, before[1] + count)
