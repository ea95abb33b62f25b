"""The examinations of a system (`trainables.examination`): when they are due, each worker's share,
and their columns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from losses.terms import Tensors
from metrics.metric import Column, Metric
from settings.stop_reasons import STOP_REASON
from trainables.examination import SHOWN, Exam, Examination, Examine, examined_columns
from trainables.parts import Loaders, Phase
from trainables.reporting.evaluate import in_eval, joined, value_of
from trainables.run import LocalRun, Report
from trainables.stepping.devices import fixed_draws, to_device
from trainables.stepping.inputs import batch_of, in_validation
from trainables.stepping.train_settings import SystemSettings, Tree
from trainables.system import PreparedT, System, offers

SECONDS = "train.examination_seconds"
"""The time of a report's examinations, 0 where none ran; a system without any has no such column.
It is part of the training's `seconds`, as that of validation is.
"""


class Examiner(Generic[Tree, PreparedT]):
    """Runs the examinations of a training where they are due.

    Every `train.examine_every` reports they are, at the last step of a segment, at the rungs of a
    sweep that one of their columns decides, and where the training ends by itself: a function of
    the step, so that a resumed training examines at the same ones. In other reports their columns
    are None.

    Attributes:
        columns: that every report has.
        measures: these, after the system's metrics.
        is_due: whether the last report has examined.
        idle: columns that the last report has not measured, and those made of them.
    """

    def __init__(
        self,
        system: System[Tree, PreparedT],
        settings: Tree,
        prepared: PreparedT,
        run: LocalRun,
        loaders: Loaders,
        accelerator: Accelerator,
        phase: Phase,
    ) -> None:
        self.examinations = tuple(system.examinations(settings, prepared))
        metrics = system.metrics(settings, prepared)
        self.columns = examined_columns(self.examinations, metrics)
        self.measures: tuple[Metric | Column, ...] = (*metrics, *self.columns)
        self.system, self.settings, self.run = system, settings, run
        self.loaders, self.accelerator, self.phase = loaders, accelerator, phase
        self.is_due, self.idle = False, frozenset[str]()
        declared = {f"val.{column.name}" for column in self.columns}
        made = {each.column for each in run.derived if declared.intersection(each.of)}
        self._all = frozenset(declared | made)
        self._decides = not self._all.isdisjoint(run.read)

    def look(
        self, step: int, last: int, modules: Mapping[str, nn.Module]
    ) -> dict[str, float | str | None]:
        """The columns of the report of a step, None where it is not due.

        Args:
            last: the last step of the segment.
            modules: as validation sees them.
        """
        train = self.settings.train
        between = train.report_every * train.examine_every
        is_told = between > 0 and step % between == 0
        self.is_due = is_told or step == last or (self._decides and step in self.run.rungs)
        self.idle = frozenset() if self.is_due else self._all
        if not self.examinations:
            return {}
        if not self.is_due:
            return {**dict.fromkeys(f"val.{column.name}" for column in self.columns), SECONDS: 0.0}
        return self._examine(modules)

    def finish(
        self, report: Report, modules: Mapping[str, nn.Module]
    ) -> dict[str, float | str | None]:
        """What a report lacks that turns out to be the last one: the training ends by itself."""
        if self.is_due or STOP_REASON not in report:
            return {}
        self.is_due, self.idle = True, frozenset()
        if not self.examinations:
            return {}
        columns = self._examine(modules)
        return {**columns, **self.run.derive({**report, **columns})}

    def _examine(self, modules: Mapping[str, nn.Module]) -> dict[str, float | str | None]:
        began, loaders = time.perf_counter(), self.loaders
        accelerator, settings = self.accelerator, self.settings
        columns = examine(
            accelerator, self.examinations, modules, loaders, "validation", settings, self.phase
        )
        return {**columns, SECONDS: round(time.perf_counter() - began, 4)}

    def drawings(
        self, modules: Mapping[str, nn.Module], report: Report
    ) -> Iterator[tuple[str, Tensor]]:
        """The figures of the last report by name, none where it has not examined: `val.samples`,
        the system's picture of the first validation samples, its charts of the report, and
        `<examination>.<figure>`.
        """
        if not self.is_due:
            return
        if offers(self.system, "picture"):
            size = len(self.loaders.validation)  # type: ignore[arg-type]  # map-style by contract
            fit = min(size, self.settings.train.validation_batch_size)
            exam = self._shown(modules, "val.samples", fit)
            with in_eval(modules), _undisturbed(exam):
                batch = exam.batch(exam.cases)
                with exam.autocast():
                    prediction = self.phase.forward(modules, batch, self.settings)
                image = self.system.picture(prediction, batch)
            yield "val.samples", image
        yield from self.system.charts(self.settings, report).items()
        for each in self.examinations:
            if each.draw is not None:
                exam = self._shown(modules, each.name, each.cases)
                with in_eval(modules), _undisturbed(exam):
                    images = each.draw(exam)
                yield from ((f"{each.name}.{name}", image) for name, image in images.items())

    def _shown(self, modules: Mapping[str, nn.Module], name: str, cases: int) -> Exam:
        """What a drawing is given: the first cases."""
        few = range(min(SHOWN, cases))
        accelerator, settings = self.accelerator, self.settings
        return exam_of(
            modules, self.loaders, "validation", settings, accelerator, name, few, self.phase
        )


def exam_of(
    modules: Mapping[str, nn.Module],
    loaders: Loaders,
    split: str,
    settings: SystemSettings,
    accelerator: Accelerator,
    name: str,
    cases: range,
    phase: Phase,
) -> Exam:
    """What an examination of these modules is given, on the accelerator's device.

    Args:
        phase: the first one, whose schedules a batch has.
    """
    device, told = accelerator.device, in_validation(phase)

    def fetch(indices: Sequence[int]) -> Tensors:
        batch = batch_of(loaders, split, indices)
        return told(to_device(batch, device, settings.train.channels_last))

    return Exam(
        modules, loaders, split, settings, cases, device, accelerator.autocast, fetch, name
    )


def examine(
    accelerator: Accelerator,
    examinations: Sequence[Examination],
    modules: Mapping[str, nn.Module],
    loaders: Loaders,
    split: str,
    settings: SystemSettings,
    phase: Phase,
) -> dict[str, float | None]:
    """Columns `val.<column>` of every examination; None where nothing was counted or the value is
    not finite. Called on every rank, each of which takes every world-th case.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    found: dict[str, float | None] = {}
    with in_eval(modules):
        for each in examinations:
            cases = range(rank, each.cases, world)
            exam = exam_of(
                modules, loaders, split, settings, accelerator, each.name, cases, phase
            )
            sums = share_of(each, each.run, exam) if cases else {}
            found |= values_of(each, _reduced(accelerator, each, sums))
    return found


def share_of(examination: Examination, run: Examine, exam: Exam) -> dict[str, Tensor]:
    """The sums with their count by column, of the cases of one worker.

    Raises:
        ValueError: they are not of the declared columns.
    """
    with _undisturbed(exam):
        measured = run(exam)
    names = [column.name for column in examination.columns]
    if set(measured) != set(names):
        raise ValueError(
            f"examination {examination.name} declares the columns {', '.join(names)} and its run "
            f"returns {', '.join(measured) or 'none'}: return (sums, count) for each of them."
        )
    whose = f"examination {examination.name}, column"
    return {name: joined(measured[name], f"{whose} {name},") for name in names}


def values_of(examination: Examination, sums: Mapping[str, Tensor]) -> dict[str, float | None]:
    """The columns from such sums over all cases."""
    return {f"val.{c.name}": _value(c, sums) for c in examination.columns}


def _value(column: Column, sums: Mapping[str, Tensor]) -> float | None:
    vector = sums.get(column.name)
    return None if vector is None else value_of(column, vector.cpu())


def _reduced(
    accelerator: Accelerator, examination: Examination, sums: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The sums of all ranks. One without a case of its own learns their sizes from the first."""
    if accelerator.num_processes == 1:
        return dict(sums)
    names = [column.name for column in examination.columns]
    sizes = [[sums[name].numel() for name in names] if sums else None]
    if examination.cases < accelerator.num_processes:
        broadcast_object_list(sizes)
    lengths = sizes[0] or []
    zeros = torch.zeros(sum(lengths), dtype=torch.float64, device=accelerator.device)
    ours = torch.cat([sums[name].to(zeros.device) for name in names]) if sums else zeros
    whole = accelerator.reduce(ours, reduction="sum")
    return dict(zip(names, torch.split(whole.cpu(), lengths), strict=True))


@contextmanager
def _undisturbed(exam: Exam) -> Iterator[None]:
    """Without gradients and with draws that are always the same. What a backward of the
    examination's own leaves in the parameters is dropped, for the next step would add it to its
    gradient; those that it has frozen learn again.
    """
    parameters = {id(p): p for module in exam.modules.values() for p in module.parameters()}
    before = [(p, p.grad, p.requires_grad) for p in parameters.values()]
    for parameter in parameters.values():
        parameter.grad = None
    try:
        with torch.no_grad(), fixed_draws(exam.device):
            yield
    finally:
        for parameter, gradient, learns in before:
            parameter.grad = gradient
            parameter.requires_grad_(learns)
