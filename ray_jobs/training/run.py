"""One training whose settings are resolved: the checks before it, and where it runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.verb import INTERRUPTED, PROJECT, cache_directory, tell_data
from settings.command import command
from settings.paths import TrainingPaths
from settings.warning import warn
from settings.words import counted

if TYPE_CHECKING:
    from trainables.run import Budget
    from trainables.stepping.train_settings import SystemSettings
    from trainables.system import System


@dataclass(frozen=True)
class Place:
    """Where a training runs: in this process, or in a worker group of Ray Train.

    Attributes:
        workers: of the group; 1 for this process.
        cpus, gpus: of each worker of a group.
        address: of the cluster that the group runs on; None for one on this machine.
        ray: whether a training in this process runs inside a `TorchTrainer` as well.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None
    ray: bool = True

    @property
    def words(self) -> list[str]:
        """The options that name this place on a command line."""
        if self.workers == 1:
            return [] if self.ray else ["--no-ray"]
        given = {"workers": self.workers, "cpus": self.cpus, "gpus": self.gpus}
        words = [f"--{name} {value:g}" for name, value in given.items()]
        return words if self.address is None else [*words, f"--address {self.address}"]


@dataclass(frozen=True)
class Ready:
    """A training that has passed its checks.

    Attributes:
        parts: its stretches, one without a timeline (`ray_jobs.training.timeline`).
        prepared: what the system's `prepare` has made.
    """

    system: Any
    resolved: Any
    parts: Sequence[Any]
    prepared: Any


def made_ready(system: Any, resolved: Any, force: bool) -> Ready:
    """Prepares the data, prints its counts and warnings, and runs the pre-flight.

    Raises:
        SettingsError: the data is not for training; the pre-flight finds the training hopeless,
            and `force` is not set.
    """
    from ray_jobs.training import timeline
    from trainables.reporting.measure import check_trainable

    parts = timeline.parts_of(system, resolved)
    prepared = system.prepare(resolved.settings, cache_directory())
    loaders = system.loaders(resolved.settings, prepared)
    check_trainable(loaders)
    tell_data(loaders)
    _preflight(system, [part.settings for part in parts], prepared, force)
    return Ready(system, resolved, parts, prepared)


def train(
    place: Place, ready: Ready, directory: Path, resume: bool, budget: Budget
) -> Mapping[str, Any]:
    """Trains to the end, or to that of the budget, and returns the last report. A resume that
    fails before its first report leaves the stored settings as they were.
    """
    from settings.files import write_settings
    from settings.flat import flatten

    directory.mkdir(parents=True, exist_ok=True)
    paths = TrainingPaths(directory)
    flat, path, before = flatten(ready.resolved.settings), paths.settings, None
    if resume and path.exists():
        _say_changes(path, flat)
        before = path.read_bytes(), _size(paths.reports)
    write_settings(path, flat, timeline=ready.resolved.timeline)
    try:
        return _run(place, ready, directory, resume, budget)
    except Exception:  # whatever ends it before a report: the settings stay, and it is raised on
        if before is not None and _size(paths.reports) == before[1]:
            path.write_bytes(before[0])
        raise


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say_changes(path: Path, settings: Mapping[str, Any]) -> None:
    """Prints the settings that a resumed training changes: any may, and its reports before and
    after then differ in what they mean.
    """
    from settings.files import read_settings

    before = read_settings(path)
    for key, value in settings.items():
        if key in before and before[key] != value:
            print(f"goes on with another {key}: {before[key]} -> {value}", flush=True)


def stopped(place: Place, seconds: float, directory: Path, at: str, force: bool) -> int:
    """Says where its budget has stopped a training, and how to go on; the exit status."""
    words = ["--resume", "--dir", shlex.quote(str(directory)), *place.words]
    words += ["--force"] if force else []
    print(
        f"\nstopped {at} (time budget of {seconds:g} s). Go on by\n"
        f"  {command('train')} {' '.join(words)} --time-budget {seconds:g}"
    )
    return INTERRUPTED


def print_report(
    report: Mapping[str, Any], system: System, settings: SystemSettings, directory: Path
) -> None:
    """Prints what matters of a report, one column a line, and where the rest is: the objective
    first, measures that are no part of another one (`Metric.detail`), terms, and the health signs
    that have warned; of those but the objective what has a value.
    """
    from trainables.configured import Configured

    columns = {key: value for key, value in report.items() if key.startswith("val.")}
    measures = Configured(system, settings).measures
    details = {f"val.{each.name}" for each in measures if each.detail}
    objective = objective_of(system, settings)[0]
    shown = {objective: columns.get(objective)}
    shown |= {k: v for k, v in columns.items() if v is not None and k not in details}
    left = columns.keys() - shown.keys()
    warned = (key for key, value in report.items() if key.endswith(".warned") and value)
    signs = [key.removesuffix(".warned") for key in warned]
    shown |= {sign: report.get(sign) for sign in signs}
    width = max(map(len, shown))
    for key, value in shown.items():
        end = "  (has warned)" if key in signs else ""
        print(f"  {key:<{width}}  {'-' if value is None else format(value, '.6g')}{end}")
    if left:
        empty = sum(columns[key] is None for key in left)
        without = f", {empty} of them without a value" if empty else ""
        rest = counted(len(left), "further column")
        print(f"{rest}{without}: the last line of {TrainingPaths(directory).reports}")
    print(f"beside what needs no training: {command('evaluate')} {shlex.quote(str(directory))}")


def is_cut(settings: SystemSettings, report: Mapping[str, Any]) -> bool:
    """Whether a training with that last report was stopped before its end, by its budget."""
    from settings.stop_reasons import STOP_REASON

    return int(report["step"]) < settings.train.steps and not report.get(STOP_REASON)


def why_failed(system: System, settings: SystemSettings, report: Mapping[str, Any]) -> str:
    """Why a training with that last report has failed: its objective has no value there; "" where
    it has one, or where a health check has ended the training.
    """
    from metrics.health_signs import number
    from settings.stop_reasons import PATIENCE, STOP_REASON, no_objective

    column = objective_of(system, settings)[0]
    ended = report.get(STOP_REASON) or PATIENCE
    if not ended.startswith(PATIENCE) or number(report, column) is not None:
        return ""
    return no_objective([column], int(report["step"]))


def objective_of(system: System, settings: SystemSettings) -> tuple[str, str]:
    """Column and direction that decide the best checkpoint: the system's first measure that has
    one.
    """
    from trainables.configured import Configured

    measures = Configured(system, settings).measures
    return next((f"val.{each.name}", each.mode) for each in measures if each.mode is not None)


def _preflight(system: Any, settings: Sequence[Any], prepared: Any, force: bool) -> None:
    from losses.schedules import unread
    from settings.schema import SettingsError

    of_each = [unread(tree) for tree in settings]
    for text in of_each[0]:
        if all(text in texts for texts in of_each):  # of a timeline: throughout
            warn(text)
    every = [finding for tree in settings for finding in system.preflight(tree, prepared)]
    findings = list(dict.fromkeys(every))
    hopeless = [finding.text for finding in findings if finding.hopeless]
    for finding in findings:
        if not finding.hopeless or force:
            warn(finding.text)
    if hopeless and not force:
        raise SettingsError(f"{' '.join(hopeless)} To train all the same, add --force.")


def _run(
    place: Place, ready: Ready, directory: Path, resume: bool, budget: Budget
) -> Mapping[str, Any]:
    from ray_jobs.training.timeline import train_parts, trained_step
    from trainables.loop import fit

    system, parts = ready.system, ready.parts
    moved = parts[0].settings.train.external
    trained = trained_step(directory, system.name, moved) if resume and len(parts) > 1 else 0
    say = _line(objective_of(system, parts[0].settings)[0])

    def train_part(part: Any, resume: bool) -> Any:
        if place.workers > 1:
            return _run_group(place, system.name, part, directory, resume, budget)
        run = _local_run(directory, system, part, resume, say, budget)
        try:
            return fit(system, part.settings, run, ready.prepared)
        finally:
            run.reports.close()

    def train_all() -> Mapping[str, Any]:
        return train_parts(parts, train_part, resume=resume, trained=trained, budget=budget)

    if not place.ray or place.workers > 1:
        return train_all()
    from ray_jobs.engine.groups import local_trainer

    reports = []

    def loop(config: dict) -> None:
        reports.append(train_all())

    local_trainer(loop, {}).fit()
    return reports[-1]


def _local_run(
    directory: Path, system: Any, part: Any, resume: bool, say: Any, budget: Budget
) -> Any:
    """The run of a part in this process; `say` prints its reports."""
    from results.store import ReportWriter
    from trainables.run import LocalRun

    return LocalRun(
        directory,
        reports=ReportWriter(TrainingPaths(directory).reports),
        objective=objective_of(system, part.settings),
        resume=resume,
        stop_step=part.stop_step,
        on_report=say,
        budget=budget,
    )


def _line(column: str) -> Any:
    said = 0

    def say(report: Any) -> None:
        nonlocal said
        if said and report["step"] <= said:
            return  # a stretch begins with the report of its checkpoint
        said = report["step"]
        value = report.get(column)
        shown = "not measured" if value is None else f"{value:.5g}"
        print(f"step {report['step']:>7}  {column} {shown}  {report['seconds']:.1f} s", flush=True)

    return say


def _run_group(
    place: Place, name: str, part: Any, directory: Path, resume: bool, budget: Budget
) -> Mapping[str, Any]:
    """Trains a part as a worker group of Ray Train, and returns its last report."""
    import json

    from ray_jobs.engine import cluster, groups
    from ray_jobs.engine.trial import root_cause
    from settings.flat import flatten

    cluster.connect(place.address, PROJECT)
    cluster.check_fit(cluster.Demand(place.workers, place.cpus, place.gpus), may_grow=False)
    cluster.check_shared_directory(directory)
    group = groups.Group(
        name="train",
        workers=place.workers,
        cpus=place.cpus,
        gpus=place.gpus,
        mark=groups.mark_of(str(directory.resolve()), os.getpid(), 0),
        scratch=(directory / "tune").resolve(),
    )
    config = {
        "system": name,
        "settings": flatten(part.settings),
        "directory": str(directory.resolve()),
        "cache": str(cache_directory()),
        "resume": resume,
        "stop_step": part.stop_step,
        "ends": budget.ends,
    }
    try:
        groups.fit_group(groups.group_trainer(_train_one_rank, config, group), group.mark)
    except Exception as error:  # of a system, on a rank: any; Ray's wrapping is taken off
        cause = root_cause(error)
        raise RuntimeError(f"{type(cause).__name__}: {cause}") from error
    lines = TrainingPaths(directory).reports.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for before, row in zip([{"seconds": 0.0}, *rows], rows, strict=False):
        budget.note(row["seconds"] - before["seconds"])
    return rows[-1]


def _train_one_rank(config: dict[str, Any]) -> None:
    import ray.train

    from results.store import ReportWriter
    from settings.flat import replace
    from trainables.loop import fit
    from trainables.run import Budget, WorkerRun
    from trainables.system import load_system

    system = load_system(config["system"])
    settings = replace(system.Settings(), config["settings"])
    directory = Path(config["directory"])
    rank = ray.train.get_context().get_world_rank()
    run = WorkerRun(
        directory,
        reports=ReportWriter(TrainingPaths(directory).reports),
        objective=objective_of(system, settings),
        resume=config["resume"],
        stop_step=config["stop_step"],
        rank=rank,
        budget=Budget(config["ends"]),
    )
    fit(system, settings, run, system.prepare(settings, Path(config["cache"])))
