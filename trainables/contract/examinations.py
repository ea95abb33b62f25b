"""The rules of an examination, on untrained modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from settings.flat import leaves
from trainables.contract.examined import Examined
from trainables.contract.fault import Fault
from trainables.contract.keys import declares, guilty
from trainables.examination import Examination
from trainables.reporting.evaluate import in_eval
from trainables.reporting.examine import exam_of, share_of, values_of
from trainables.stepping.devices import make_accelerator
from trainables.stepping.train_settings import SystemSettings

_WORKERS = (2, 3)
"""Numbers of workers that the cases are cut for."""

Take = Callable[[Examination, range, SystemSettings], dict[str, Tensor]]
"""The sums of some cases of an examination under some settings, of the same modules."""


def examines_case_by_case(examined: Examined) -> Iterator[Fault]:
    """The columns of an examination are the same each time, and depend neither on how its cases
    are cut for workers nor on a key that they do not declare, as the weights of the loss.
    """
    take = _taker(examined)
    for examination in examined.system.examinations(examined.settings, examined.prepared):
        faults = list(_cut(examination, take, examined.settings))
        yield from faults or _read(examined, examination, take)


def _taker(examined: Examined) -> Take:
    own = examined.settings
    modules = examined.with_averages(own, examined.modules(own))
    accelerator, loaders = make_accelerator(own.train), examined.loaders
    modules = {name: module.to(accelerator.device) for name, module in modules.items()}
    phase = examined.system.phases(own, examined.prepared)[0]

    def take(
        examination: Examination, cases: range, settings: SystemSettings
    ) -> dict[str, Tensor]:
        name = examination.name
        exam = exam_of(modules, loaders, "validation", own, accelerator, name, cases, phase)
        with in_eval(modules):
            return share_of(
                examination, examination.run, dataclasses.replace(exam, settings=settings)
            )

    return take


def _cut(examination: Examination, take: Take, settings: SystemSettings) -> Iterator[Fault]:
    every = range(examination.cases)
    whole = take(examination, every, settings)
    for workers in (1, *_WORKERS):
        cuts = (every[rank::workers] for rank in range(min(workers, examination.cases)))
        shares = [take(examination, cases, settings) for cases in cuts]
        for name, vector in whole.items():
            parts = [share[name] for share in shares]
            if any(part.shape != vector.shape for part in parts) or not _close(
                sum(parts[1:], parts[0]), vector
            ):
                times = "a second time" if workers == 1 else f"cut for {workers} workers"
                yield Fault(
                    f"examination {examination.name}",
                    "its sums over all cases are those of its shares, added up",
                    f"the sums of val.{name} are others {times}",
                    "Measure each of `exam.cases` by itself, draw from `exam.generator(case)`, "
                    "and return sums with their count",
                )
                return


def _read(examined: Examined, examination: Examination, take: Take) -> Iterator[Fault]:
    settings, every = examined.settings, range(examination.cases)
    whole = values_of(examination, take(examination, every, settings))
    for column in examination.columns:
        name = f"val.{column.name}"

        def differs(tree: SystemSettings, name: str = name) -> bool:
            """Whether it does under other settings, from which `examinations` may make it anew."""
            others = examined.system.examinations(tree, examined.prepared)
            same = next(other for other in others if other.name == examination.name)
            value = values_of(same, take(same, range(same.cases), tree))[name]
            pair = (torch.tensor(float("nan") if x is None else x) for x in (value, whole[name]))
            return not _close(*pair)

        undeclared = [key for key in leaves(type(settings)) if not declares(column.reads, key)]
        for key in guilty(undeclared, settings, differs, False, examined.has_the_network):
            yield Fault(
                f"examination {examination.name}",
                "`Column.reads` lists every key that changes what it measures",
                f"{key} changes {name} and is not in reads={column.reads}",
                f'Add "{key}": a search over it cannot be judged by this column',
            )


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two measurements are the same but for rounding."""
    return torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (examines_case_by_case,)
