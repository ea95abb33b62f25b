"""Measures of a model that are no sums over validation batches: samples of a diffusion model,
trajectories of an ODE, an inversion, the Dice of a network trained on what it makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losses.terms import Tensors
from metrics.metric import Column, Metric
from settings.schema import SettingsError
from trainables.parts import Loaders, Modules

SHOWN = 8
"""Cases that figures are drawn of: the first ones, the same in every trial of a sweep."""


@dataclass(frozen=True)
class Exam:
    """What an examination is given.

    Attributes:
        modules: in eval mode on `device`: the moving averages where there are some, also as
            `ema.<module>`, with the last weights in `last.<module>`.
            Gradients are off; `torch.enable_grad()` puts them on, and what a backward leaves in
            the parameters is dropped afterwards.
        loaders, split: the data, and which part of it is looked at: validation or test.
        settings: the system's whole tree.
        cases: of this worker; those of all workers together are 0, 1, ... up to
            `Examination.cases`.
        autocast: `with exam.autocast():` computes in `train.precision`.
        fetch: makes a batch of samples of the split, as validation does, on the device.
        name: of the examination, from which the seeds of its cases come.
    """

    modules: Modules
    loaders: Loaders
    split: str
    settings: Any
    cases: range
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    fetch: Callable[[Sequence[int]], Tensors]
    name: str

    def batch(self, cases: Iterable[int]) -> Tensors:
        """The samples of the split for these cases on the device, case c being sample c of them in
        turn.
        """
        samples: Any = getattr(self.loaders, self.split)
        indices = [case % len(samples) for case in cases]
        return self.fetch(indices)

    def seed(self, case: int) -> int:
        """The seed of all that is random about a case: alike in every trial, at every step and for
        any number of workers.
        """
        digest = hashlib.sha256(f"{self.name}/{case}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def generator(self, case: int) -> torch.Generator:
        """A generator with that seed, on the CPU, so that every machine draws the same."""
        return torch.Generator().manual_seed(self.seed(case))


Examine = Callable[[Exam], Mapping[str, tuple[Tensor, Tensor]]]
"""`examine(exam) -> {column: (sums, count)}` of the exam's cases, as `Metric.measure` gives them:
float64 sums (a scalar or a vector) and the count that they are divided by.
"""


@dataclass(frozen=True)
class Examination:
    """Some columns `val.<column>` that are measured together, each worker on its share of a fixed
    number of cases. Sums and counts are added over the workers.

    Attributes:
        name: for messages, seeds and figures.
        cases: how many there are; a case may be a sample, a trajectory, or a whole experiment.
        columns: declared as metrics are.
        run: measures cases, each by itself: the sums of two shares are those of both, added up.
        draw: `draw(exam) -> {figure: image}` [3, H, W] in [0, 1], of the first `SHOWN` cases on
            the first worker alone; None where nothing is drawn.
    """

    name: str
    cases: int
    columns: Sequence[Column]
    run: Examine
    draw: Callable[[Exam], Mapping[str, Tensor]] | None = None


def examined_columns(
    examinations: Sequence[Examination], metrics: Sequence[Metric]
) -> tuple[Column, ...]:
    """The columns of a system's examinations.

    Raises:
        SettingsError: a column has the name of a metric, of another column or of a term; two
            examinations have one name, or one has no case.
    """
    taken = {metric.name: "a metric" for metric in metrics}
    names: set[str] = set()
    for each in examinations:
        if each.cases < 1 or each.name in names:
            raise SettingsError(
                f"examination {each.name} has {each.cases} cases, and there are "
                f"{sum(other.name == each.name for other in examinations)} of that name: give it "
                "1 case or more and, for the seeds of its cases, a name of its own."
            )
        names.add(each.name)
        for column in each.columns:
            is_term = column.name.startswith(("loss.", "critic."))
            owner = "the column of a term" if is_term else taken.get(column.name)
            if owner is not None:
                raise SettingsError(
                    f"examination {each.name} measures val.{column.name}, which is {owner}: give "
                    "its column another name."
                )
            taken[column.name] = f"a column of {each.name} already"
    return tuple(column for each in examinations for column in each.columns)
