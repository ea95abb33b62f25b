"""The rules of a system in the loop: it learns, resumes exactly, keeps its columns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from metrics.health import SIGNS
from settings.flat import leaves, replace
from settings.paths import TrainingPaths
from trainables.checkpoints import checkpoint
from trainables.contract.examined import Examined, first, fit_together, same
from trainables.contract.fault import Fault
from trainables.loop import fit
from trainables.optimizing.optimizer import factors_of
from trainables.parts import Loaders
from trainables.reporting import resources
from trainables.reporting.examine import SECONDS
from trainables.reporting.measure import evaluate_checkpoint
from trainables.reporting.watch import watched
from trainables.run import LocalRun, Report
from trainables.stepping.gradients import compared_columns
from trainables.stepping.inputs import SCHEDULE
from trainables.stepping.train_settings import SystemSettings
from trainables.system import System

_LEARN_STEPS = 10


class _Repeated(Dataset):
    """The first samples of a set, each always drawn with the same seed."""

    def __init__(self, data: Any, indices: Sequence[int]) -> None:
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return self.data[(self.indices[key[0]], 0)]


class _OneBatch:
    """A system that trains on one batch and validates on few samples."""

    def __init__(self, system: System) -> None:
        self._system = system

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def loaders(self, settings: SystemSettings, prepared: object) -> Loaders:
        loaders = self._system.loaders(settings, prepared)
        train = _Repeated(loaders.train, first(loaders, settings.train.batch_size))
        validation: Any = loaders.validation
        few = Subset(validation, range(min(2, len(validation))))
        return Loaders(train, few, loaders.collate)


class _Quiet(LocalRun):
    """A run without warnings: how ill the short training is does not matter here."""

    def warn(self, message: str) -> None:
        return


def trained(
    examined: Examined,
    directory: Path,
    settings: SystemSettings | None = None,
    *,
    system: System | None = None,
    resume: bool = False,
    stop: int | None = None,
) -> list[Report]:
    """The reports of a short training in a directory."""
    run = _Quiet(directory, resume=resume, stop_step=stop)
    tree = examined.settings if settings is None else settings
    fit(system or examined.system, tree, run, examined.prepared)
    return list(run.history)


def newest(directory: Path) -> Path:
    """The last checkpoint of a training."""
    return checkpoint.available(TrainingPaths(directory).checkpoints)[-1]


def without_time(report: Report) -> dict[str, Any]:
    """A report without the columns that differ from training to training."""
    timed = ("seconds", SECONDS)
    return {column: value for column, value in report.items() if column not in timed}


def learns_one_batch(examined: Examined) -> Iterator[Fault]:
    """Ten steps on one batch bring the first phase's total down. Rate and weights are constant,
    for other totals do not compare.
    """
    constant = {f"{node}.schedule.kind": "constant" for _, _, node in examined.nodes()}
    balancers = {f"{phase.composite.prefix}.balancer.kind" for phase in examined.declared}
    changes = {
        "train.steps": _LEARN_STEPS,
        "train.report_every": 1,
        "train.checkpoint_every": _LEARN_STEPS,
        "optimizer.schedule": "constant",
        "optimizer.warmup": 0.0,
        **constant,
        **dict.fromkeys(balancers & leaves(examined.system.Settings).keys(), "fixed"),
    }
    settings = replace(examined.settings, changes)
    prefix = examined.declared[0].composite.prefix
    with tempfile.TemporaryDirectory() as folder:
        history = trained(examined, Path(folder), settings, system=_OneBatch(examined.system))
    totals: Any = [report[f"train.{prefix}.total"] for report in history]
    if min(totals[-3:]) >= totals[0] or sum(totals[-3:]) >= sum(totals[:3]):
        yield Fault(
            "training",
            f"{_LEARN_STEPS} steps on one batch bring the total of the first phase down",
            f"it goes from {totals[0]:.4g} to {totals[-1]:.4g}",
            "Look at the learning rate, at what is detached, and at the sign of the terms",
        )


def resumes_exactly(
    examined: Examined, changes: Mapping[str, Any] | None = None
) -> Iterator[Fault]:
    """A training that was stopped half way and resumed ends with the same tensors and the same
    report; its last checkpoint evaluates to that report.
    """
    settings = replace(examined.settings, changes or {})
    half = settings.train.report_every
    with tempfile.TemporaryDirectory() as folder:
        whole_at, part_at = Path(folder, "whole"), Path(folder, "part")
        whole = trained(examined, whole_at, settings)[-1]
        trained(examined, part_at, settings, stop=half)
        part = trained(examined, part_at, settings, resume=True)[-1]
        tensors = [_tensors(examined, path) for path in (whole_at, part_at)]
        measured = evaluate_checkpoint(
            examined.system, settings, examined.prepared, newest(part_at)
        )
    differ = [key for key in tensors[0] if not torch.equal(tensors[0][key], tensors[1][key])]
    if not same(*tensors):
        yield Fault(
            "training",
            "a resumed training equals an uninterrupted one to the bit",
            f"{len(differ)} tensors of the last checkpoint differ, such as {differ[:1]}",
            "Keep what changes over steps in buffers of a module, and draw from samples' seeds",
        )
    reports = without_time(whole), without_time(part)
    if reports[0] != reports[1]:
        columns = [key for key, value in reports[0].items() if reports[1].get(key) != value]
        yield Fault(
            "training",
            "a resumed training reports what an uninterrupted one does",
            f"{', '.join(columns[:3])} differ",
            "Keep what changes over steps in buffers of a module",
        )
    reported = {key: value for key, value in part.items() if key.startswith("val.")}
    if measured != reported:
        columns = [key for key, value in reported.items() if measured.get(key) != value]
        yield Fault(
            "training",
            "a checkpoint evaluates to what its training reported",
            f"{', '.join(columns[:3])} differ",
            "Keep all that a forward reads in the modules and the settings",
        )


def _tensors(examined: Examined, directory: Path) -> Mapping[str, Tensor]:
    return checkpoint.load(newest(directory), examined.name).tensors


def columns_of(examined: Examined) -> set[str]:
    """The columns of every report, by the declarations alone."""
    columns = {"step", "seconds"}
    settings = examined.settings
    health, train = examined.system.health(settings), settings.train
    columns |= set(resources.columns(train.count_flops, gpu=torch.cuda.is_available()))
    for phase in examined.declared:
        prefix = phase.composite.prefix
        measured = ("grad_norm", "grad_norm_mean", "lr", "skipped_steps")
        columns |= {f"{phase.column_prefix}.{name}" for name in measured}
        groups = factors_of(getattr(settings, phase.optimizer))
        columns |= {f"{phase.column_prefix}.lr.{group}" for group in groups}
        asked = compared_columns(phase.composite.terms) if train.term_gradients else []
        columns |= {f"train.{prefix}.{column}" for column in asked}
        columns |= {f"train.{prefix}.total", f"train.{prefix}.validation_total"}
        columns |= {f"{phase.column_prefix}.{SCHEDULE}{key}" for key in phase.schedules}
        for name in phase.composite.terms:
            column = f"train.{prefix}.{name}"
            columns |= {f"val.{prefix}.{name}", column, f"{column}.weight", f"{column}.share"}
        if health is not None:
            signs = {f"health.{watched(phase).named(sign)}" for sign in SIGNS}
            signs |= {f"health.{sign.name}" for sign in health.measured}
            columns |= signs | {f"{sign}.warned" for sign in signs}
    if examined.system.examinations(settings, None):
        columns.add(SECONDS)
    return columns | {f"val.{measure.name}" for measure in examined.measures}


def keeps_every_column(examined: Examined) -> Iterator[Fault]:
    """Reports have all columns with every term on and with the first of each phase only; a term
    that is off is still validated.
    """
    for everything in (True, False):
        switches = {
            f"{node}.enabled": everything or name == next(iter(phase.composite.terms))
            for phase, name, node in examined.nodes()
        }
        short = {"train.steps": 2, "train.report_every": 1, "train.checkpoint_every": 2}
        settings = replace(examined.settings, {**examined.system.audit, **switches, **short})
        with tempfile.TemporaryDirectory() as folder:
            history = trained(examined, Path(folder), settings)
        for report in history:
            yield from _columns(examined, report, switches)


def _columns(
    examined: Examined, report: Report, switches: Mapping[str, bool]
) -> Iterator[Fault]:
    wrong = sorted(report.keys() ^ columns_of(examined))
    for column in wrong:
        there = column in report
        yield Fault(
            f"column {column}",
            "reports have the columns of the declared phases, terms and metrics",
            "it is there and not declared" if there else "it is missing",
            "Let phases and metrics declare the same with and without `prepared`",
        )
    for key, on in switches.items():
        term = key.removesuffix(".enabled")
        if wrong or key in examined.system.audit:
            continue
        is_trained = on and report[f"train.{term}.weight"] != 0.0  # a schedule may begin late
        for column, is_measured in ((f"val.{term}", True), (f"train.{term}", is_trained)):
            if (report[column] is not None) != is_measured:
                yield Fault(
                    f"term {term}",
                    "validation measures every term, training those that weigh something",
                    f"{column} has {'no' if is_measured else 'a'} value with "
                    f"{key}={str(on).lower()}",
                    "Count something in every batch",
                )


def validates_alike_in_any_batches(examined: Examined) -> Iterator[Fault]:
    """A checkpoint's measures do not depend on the size of the validation's batches, but for terms
    that say so. Samples of several shapes fit into no other batches than those of one.
    """
    if not fit_together(examined.loaders):
        return
    nodes = examined.nodes()
    excepted = {f"val.{node}" for at, name, node in nodes if at.composite.terms[name].splits}
    with tempfile.TemporaryDirectory() as folder:
        trained(examined, Path(folder), stop=examined.settings.train.report_every)
        singly, in_fives = (
            evaluate_checkpoint(
                examined.system,
                replace(examined.settings, {"train.validation_batch_size": size}),
                examined.prepared,
                newest(Path(folder)),
            )
            for size in (1, 5)
        )
    for column, value in singly.items():
        if column not in excepted and not _close(value, in_fives[column]):
            yield Fault(
                f"column {column}",
                "what validation measures does not depend on the size of its batches",
                f"{value} in batches of 1, {in_fives[column]} in batches of 5",
                "Return sums and counts that add up, and use nothing of the other samples",
            )


def _close(value: float | None, reference: float | None) -> bool:
    if value is None or reference is None:
        return value is reference
    pair = torch.tensor([value, reference], dtype=torch.float64)
    return torch.allclose(pair[0], pair[1], rtol=1e-4, atol=1e-6, equal_nan=True)


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (
    learns_one_batch,
    resumes_exactly,
    keeps_every_column,
    validates_alike_in_any_batches,
)
