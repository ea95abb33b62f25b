"""A segment of a trial as Ray runs it: a `TorchTrainer` around the training loop."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray_jobs.engine import nodes
from settings.paths import SweepPaths


@dataclass(frozen=True)
class SweepContext:
    """What is constant over a sweep; it travels to the trial's process once.

    Attributes:
        settings: the base configuration by dotted key; a trial's own values come on top.
        document: the own values of the documented point, by dotted key; empty without one.
        directory: of the sweep, on storage that every node sees.
        session: of the driver; a trial of an earlier session must not write any more.
        objective: (column, mode) that names a trial's best checkpoint.
        columns: of a report that the driver's decisions read.
        cpus, gpus: of each worker.
        derived: columns that each report gets beside its own, as `Combined.to_json`.
        lends_checkpoints: whether trials may begin from each other's checkpoints.
        rungs: steps at which trials are compared, each with a checkpoint.
        keeps_rungs: whether trials keep their checkpoints at rungs.
    """

    system: str
    settings: dict[str, Any]
    directory: str
    cache: str
    session: str
    objective: tuple[str, str]
    columns: tuple[str, ...]
    workers: int
    cpus: float
    gpus: float
    derived: tuple[dict[str, Any], ...] = ()
    lends_checkpoints: bool = False
    rungs: tuple[int, ...] = ()
    keeps_rungs: bool = False
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return Path(self.directory)

    @property
    def paths(self) -> SweepPaths:
        return SweepPaths(self.root)

    def checkpoint(self, trial: int, step: int) -> Path:
        """The path of a trial's checkpoint of a step."""
        from trainables.checkpoints.checkpoint import at_step

        return at_step(self.paths.trial(trial).checkpoints, step)


def run_segment(config: Mapping[str, Any], context: SweepContext) -> None:
    """Trains a segment, as Tune's function.

    An error is written to the trial's `error.txt`, its cause as the last line, and raised for
    Tune.

    Args:
        config: the trial's own values by dotted key, and `job`.
    """
    job = dict(config["job"])
    paths = context.paths.trial(job["trial"])
    folder = paths.root
    folder.mkdir(parents=True, exist_ok=True)
    paths.error.unlink(missing_ok=True)
    payload = {
        "context": asdict(context),
        "job": job,
        "sampled": {key: value for key, value in config.items() if key != "job"},
    }
    nodes.note(folder, job["segment"])
    with _output_to(paths.output):
        try:
            _run(payload, context, job)
        except Exception as error:  # error.txt has whatever a system raised; Tune gets it too
            if context.workers > 1:
                nodes.await_loss(folder, job["segment"])
            cause = root_cause(error)
            if type(cause).__name__ != "SupersededError":
                line = " ".join(f"{type(cause).__name__}: {cause}".split())
                with contextlib.suppress(OSError):  # the directory may be what is gone
                    paths.error.write_text(f"{traceback.format_exc()}\n{line}\n")
            raise


def _run(payload: dict[str, Any], context: SweepContext, job: Mapping[str, Any]) -> None:
    from ray_jobs.engine import groups

    if context.workers == 1:
        groups.local_trainer(train_one, payload).fit()
        return
    group = groups.Group(
        name=f"trial-{job['trial']:04d}-{job['segment']}",
        workers=context.workers,
        cpus=context.cpus,
        gpus=context.gpus,
        mark=groups.mark_of(context.session, job["trial"], job["segment"]),
        scratch=context.root / "tune" / "groups",
    )
    trainer = groups.group_trainer(train_one_rank, payload, group)
    groups.fit_group(trainer, group.mark, _ReportTail(context, job).pass_on)


def train_one(payload: dict[str, Any]) -> None:
    """Trains a trial of one worker, inside Tune's actor."""
    import torch

    from trainables.run import TuneRun

    torch.set_num_threads(max(1, int(payload["context"]["cpus"])))
    _fit(payload, TuneRun, {"earlier": lambda: _earlier(payload)})


def _earlier(payload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The reports that an earlier attempt has made at the rungs of this segment."""
    from results.store import complete_lines

    context, job = SweepContext(**payload["context"]), payload["job"]
    path = context.paths.reports_of(job["trial"])
    if not job["rungs"] or not path.exists():
        return
    for line in complete_lines(path.read_bytes())[0]:
        report = json.loads(line)
        if report["step"] in job["rungs"]:
            yield report


def train_one_rank(payload: dict[str, Any]) -> None:
    """Trains one rank of a worker group."""
    import ray.train

    from trainables.run import WorkerRun

    rank = ray.train.get_context().get_world_rank()
    context = SweepContext(**payload["context"])
    paths, segment = context.paths.trial(payload["job"]["trial"]), payload["job"]["segment"]
    nodes.note(paths.root, segment, f"rank-{rank}")
    with _output_to(paths.output) if rank == 0 else contextlib.nullcontext():
        _fit(payload, WorkerRun, {"rank": rank})


def _fit(payload: dict[str, Any], make_run: Any, extra: dict[str, Any]) -> None:
    from metrics.combined import Combined
    from results.store import ReportWriter
    from settings.files import write_settings
    from settings.flat import flatten, replace
    from trainables.loop import fit
    from trainables.run import owner_check
    from trainables.system import load_system

    context, job = SweepContext(**payload["context"]), payload["job"]
    system = load_system(context.system)
    set_imports_apart()
    values = {**context.settings, **payload["sampled"], "train.seed": job["seed"]}
    settings = replace(system.Settings(), values)
    paths = context.paths.trial(job["trial"])
    run = make_run(
        directory=paths.root,
        reports=ReportWriter(context.paths.reports_of(job["trial"])),
        objective=tuple(context.objective),
        columns=tuple(context.columns),
        derived=tuple(Combined.from_json(node) for node in context.derived),
        resume=job["resume"],
        stop_step=job["stop_step"],
        segment=job["segment"],
        start=context.checkpoint(*job["start"]) if job.get("start") else None,
        lends_checkpoints=context.lends_checkpoints,
        rungs=tuple(context.rungs),
        keeps_rungs=context.keeps_rungs,
        still_owner=owner_check(context.paths.lock, context.session),
        **extra,
    )
    if run.is_main:
        write_settings(paths.settings, flatten(settings))
    prepared = prepare_once(system, settings, Path(context.cache))
    try:
        fit(system, settings, run, prepared)
    finally:
        run.reports.close()
    if job.get("measures") and run.is_main:
        measure_references_once(context)


@functools.cache
def set_imports_apart() -> None:
    """Takes what this process has imported, which lives as long as it does, out of what the
    garbage collector goes through: 3 to 4 ms of each of the shortest trials.
    """
    gc.freeze()


def measure_references_once(context: SweepContext) -> None:
    """Measures the references on the validation samples, with the sweep's fixed settings, into
    `references.json`. What goes wrong is written to a file of its own: it is no fault of the trial
    whose process this is.
    """
    from settings.atomic_file import atomic_file

    try:
        found = references_of(context, "validation")
        with atomic_file(context.paths.references) as scratch:
            scratch.write_text(json.dumps(found) + "\n")
    except Exception:  # whatever a system raises
        with contextlib.suppress(OSError):
            context.paths.references_error.write_text(traceback.format_exc())


def references_of(context: SweepContext, split: str) -> dict[str, Any]:
    """What the references measure on a split, fitted with the sweep's fixed settings."""
    from settings.flat import replace
    from trainables.reporting.references import measure_references
    from trainables.system import load_system

    system = load_system(context.system)
    settings = replace(system.Settings(), context.settings)
    document = replace(settings, context.document)
    prepared = prepare_once(system, settings, Path(context.cache))
    return measure_references(system, settings, prepared, split, document)


_prepared: dict[tuple[str, str], Any] = {}


def prepare_once(system: Any, settings: Any, cache: Path) -> Any:
    """The result of `system.prepare`, cached for the next trial in this process with equal values
    of `prepare_reads`.
    """
    from settings.files import settings_hash
    from settings.match import matching

    key = (system.name, settings_hash(matching(settings, system.prepare_reads)))
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = system.prepare(settings, cache)
    return _prepared[key]


class _ReportTail:
    """Passes what a worker group's rank 0 writes on to Tune.

    A group does not wait for decisions, so a driver that died may lack some of its trial's
    reports. A resumed segment therefore passes on all reports up to its checkpoint again; those
    that the driver has already change nothing there.
    """

    def __init__(self, context: SweepContext, job: Mapping[str, Any]) -> None:
        from trainables.checkpoints import checkpoint

        self.path = context.paths.reports_of(job["trial"])
        self.context, self.segment = context, job["segment"]
        self.began = time.monotonic()
        self.position, self.inode, self.known_step = 0, 0, 0
        if job["resume"]:
            saved = checkpoint.available(context.paths.trial(job["trial"]).checkpoints)
            self.known_step = checkpoint.step_of(saved[-1]) if saved else 0

    def pass_on(self) -> None:
        """Passes on the new reports; raises SystemExit where a scheduler has stopped the trial."""
        from ray import tune

        from trainables.run import decision_part

        for report in self._new_reports():
            part = decision_part(report, self.context.columns)
            tune.report({**part, "segment_seconds": time.monotonic() - self.began})

    def _new_reports(self) -> Iterator[Mapping[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self.inode or status.st_size < self.position:
                self.position = 0  # the resumed trial has dropped later reports: a new file
            self.inode = status.st_ino
            file.seek(self.position)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        for line in whole.splitlines():
            report = json.loads(line)
            if report.get("segment") == self.segment or report["step"] <= self.known_step:
                yield report


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirects what the trial prints to its own log."""
    with (
        path.open("a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def root_cause(error: BaseException) -> BaseException:
    """The first error below the wrappers that Ray puts around it."""
    current = error
    while True:
        below = getattr(current, "cause", None) or current.__cause__
        failures = getattr(current, "worker_failures", None)
        if isinstance(failures, dict) and failures:
            below = next(iter(failures.values()))
        if not isinstance(below, BaseException) or below is current:
            return current
        current = below
