"""The one training loop. The step is its only clock; it knows no system and no ray.

    while step < last, it has not ended and has time:   # `Training.run_to_end`
        for phase in phases:                            # `stepping.update.take_step`
            counts = over all micro-batches and ranks, by which a term's sum becomes its mean
            for batch in the step's micro-batches:      # each goes to the device in its turn
                terms = phase.terms of phase.forward(modules, batch)
                backward of sum(weight * sum of term / count), the gradients added up
            clip the gradient; one that is not finite ends the training (fp16: skips the update);
                above train.finite_check_every=1 it is looked at later, yet before a report
            optimizer.step(); show the terms to the balancer; hand shared outputs to later phases
                (only after the next phase's gradient where that phase ignores updates)
        step += 1; update the moving averages, but of what was skipped
        if step % report_every == 0 or step == last:    # `Training._report`
            report = means of the terms since the last one, validation, examinations where they
                are due, health, whether it ends
            append it to the trial's file, save a checkpoint where one is due, tell the decider
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Generic

import torch
from torch import nn

from losses.terms import Tensors
from metrics.health_signs import number
from settings.flat import flatten
from settings.paths import TrainingPaths
from settings.stop_reasons import STOP_REASON
from trainables.checkpoints import begin, checkpoint, contents, external, initial
from trainables.checkpoints.restore import built_for, data_external
from trainables.optimizing.average import averages
from trainables.optimizing.optimizer import OptimizerSettings, make_optimizer, parameter_groups
from trainables.parts import Built, Phase
from trainables.reporting.cuts import cut_warnings
from trainables.reporting.evaluate import Worst, evaluate, weighted_validation
from trainables.reporting.examine import Examiner
from trainables.reporting.figures import Figures
from trainables.reporting.measure import check_splits, final_test
from trainables.reporting.metadata import write_metadata
from trainables.reporting.resources import Resources
from trainables.reporting.tensorboard import open_board
from trainables.reporting.watch import Watch, goes_on
from trainables.run import LocalRun, Report
from trainables.stepping import devices
from trainables.stepping.batches import Share, train_loader, validation_loader
from trainables.stepping.devices import make_accelerator
from trainables.stepping.inputs import check_schedules, step_seed
from trainables.stepping.micro_batches import MicroBatches
from trainables.stepping.not_finite import NonFiniteError, Unseen
from trainables.stepping.train_settings import Tree
from trainables.stepping.update import PhaseUpdate, take_step
from trainables.system import PreparedT, System

CHECKPOINTS_LENT = 3
"""Checkpoints at the ends of segments that a trial keeps for others to begin from: who waits for
one is at most one segment behind.
"""


def fit(
    system: System[Tree, PreparedT], settings: Tree, run: LocalRun, prepared: PreparedT
) -> Report:
    """Trains until `train.steps`, the segment's end, the end of the run's budget, or until the
    training ends by itself, and returns the last report, which then says why (`stop_reason`).

    A training that was interrupted and resumed gives the numbers of an undisturbed one: all that
    is random is a function of (seed, step, rank), the rest is in the checkpoint.

    Raises:
        NonFiniteError: a term or gradient is not finite; nothing was updated, or above
            `train.finite_check_every=1` nothing reported or stored.
        CheckpointError: resume found only damaged checkpoints, or those of another system.
        SettingsError: a precision that this machine computes in another one; no compiler; no test
            split to measure.
        ValueError: fewer samples to validate than workers.
    """
    training = Training(system, settings, run, prepared)
    try:
        report = training.run_to_end()
    finally:
        training.close()
    if training.is_to_be_tested:
        training.accelerator.wait_for_everyone()  # one rank writes the checkpoints that all read
        final_test(system, settings, prepared, run)
    return report


class Training(Generic[Tree, PreparedT]):
    """The state of one trial between two steps."""

    def __init__(
        self, system: System[Tree, PreparedT], settings: Tree, run: LocalRun, prepared: PreparedT
    ) -> None:
        self.system, self.settings, self.run = system, settings, run
        self.train, self.flat = settings.train, flatten(settings)
        self.accelerator = make_accelerator(self.train)
        self.prepared = prepared
        self.loaders = system.loaders(settings, prepared)
        check_splits(system.name, self.loaders, self.train.test, self.accelerator)
        self.phases = list(system.phases(settings, prepared))
        check_schedules(self.phases, settings)
        self.metrics = list(system.metrics(settings, prepared))
        self._seed(-1)
        self.folder = TrainingPaths(run.directory).checkpoints
        follows = begin.meta_of_start(run, self.folder, system.name)
        built = built_for(system, settings, prepared, follows)
        self.built_meta = dict(built.meta)
        device = self.accelerator.device
        data_of = data_external(system, settings, prepared, built, follows)
        self.external = external.held(built, data_of, self.phases, follows)
        self.init_from = follows.get("init_from", {})
        if not follows:
            self.init_from = initial.begun(system, settings, built, self._warn)
        self.modules = {name: module.to(device) for name, module in built.modules.items()}
        for module in self.modules.values():
            devices.lay_out(module, self.train.channels_last)
        self.wrapped = {
            name: devices.wrap(self.accelerator, module, self.train)
            for name, module in self.modules.items()
        }
        self.ema = averages(
            self.modules, self.train.ema_decay, self.train.ema_start, self.train.ema_every
        )
        self.updates = [self._make_update(phase, built) for phase in self.phases]
        self.unseen = Unseen()
        self.step, self.seconds = 0, 0.0
        self.last_report: dict[str, float | str | None] = {}
        self.best: tuple[int, float] | None = None
        self.examiner = Examiner(
            system, settings, prepared, run, self.loaders, self.accelerator, self.phases[0]
        )
        measures, health = self.examiner.measures, system.health(settings)
        self.watch = Watch(settings, self.phases, measures, run.objective, health, self._warn)
        self.board = open_board(system, settings, run.directory / "tensorboard")
        self.figures = Figures(system, settings, run, self.board)
        self.resources = Resources(device, self.train.count_flops)

    def run_to_end(self) -> Report:
        inherited = (self.run.resume or self.run.start is not None) and self._restore()
        last = self.last_step
        if self.last_report and not inherited:
            self.run.tell_again(self.last_report)
        if self.step >= last or self.has_ended:
            return self.last_report
        self._describe()
        self.figures.begin(self.step)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if self.step == 0:
            for text in cut_warnings(self.phases, self.modules, self.train, world):
                self._warn(text)
        share = Share(self.train.batch_size, self.train.accumulate, world, rank)
        loading = self.train.loading(gpu=self.accelerator.device.type == "cuda")
        loader = train_loader(self.loaders, share, self.train.seed, self.step, last, loading)
        batches = iter(loader)
        began = time.perf_counter() - self.seconds
        budget = self.run.budget
        budget.begin()
        while self.step < last and not (self.has_ended or budget.is_over):
            with self.resources.counting(self.step):
                self.one_step([next(batches) for _ in range(self.train.accumulate)])
            if self._is_reported(self.step):
                self.seconds = time.perf_counter() - began
                self._report()
        return self.last_report

    @property
    def last_step(self) -> int:
        """The step at which this segment ends."""
        return min(self.train.steps, self.run.stop_step or self.train.steps)

    @property
    def has_ended(self) -> bool:
        """Whether the training has ended by itself."""
        return STOP_REASON in self.last_report

    @property
    def is_to_be_tested(self) -> bool:
        """Whether the training is at its end, and asked to look at the test split there."""
        at_end = self.step >= self.train.steps or self.has_ended
        return self.train.test and at_end

    def one_step(self, batches: Sequence[Tensors]) -> None:
        """Every phase's update on this rank's micro-batches."""
        micro = MicroBatches(batches, self.accelerator.device, self.train.channels_last)
        every, after = self.train.finite_check_every, self.step + 1
        self._seed(self.step)
        try:
            is_reported = self._is_reported(after)
            is_looked_at = after % every == 0 or is_reported
            take_step(self.updates, micro, self.step, self.unseen, is_looked_at, is_reported)
        except NonFiniteError:
            raise
        except Exception as error:
            self.unseen.look()  # what is not finite may be the cause
            if self.train.compile and isinstance(error, RuntimeError):
                devices.explain_compiler(error)
            raise
        self.step = after
        skipped = {name for u in self.updates if u.was_skipped for name in u.phase.modules}
        for name, average in self.ema.items():
            if name not in skipped:
                average.update(self.modules[name], after)

    def _is_reported(self, step: int) -> bool:
        return step % self.train.report_every == 0 or step == self.last_step

    def _report(self) -> None:
        report: dict[str, float | str | None] = {"step": self.step}
        report["seconds"] = round(self.seconds, 4)
        for update in self.updates:
            report.update(update.interval.report(self.step))
        report.update(self.resources.report(self.step))
        worst = self.figures.worst("val.worst_batch", self.phases[0], self.step)
        modules = self.validated
        report.update(self.validate(worst))
        report.update(self.examiner.look(self.step, self.last_step, modules))
        report.update(weighted_validation(report, self.phases))
        report.update(self.run.derive(report))
        report.update(self.watch.look(report, self.last_report, self.examiner.idle))
        report.update(self.examiner.finish(report, modules))
        self._pass_on(report)
        self.last_report = report
        if self.run.is_main and self.train.tensorboard:
            self.board.write(report)
        drawings = self.examiner.drawings(modules, report)
        self.figures.draw(drawings, self.step, self.best and self.best[0], worst)
        self.run.budget.look(self.accelerator.num_processes)
        self.run.report(report, self._save_where_due)

    def _pass_on(self, report: Report) -> None:
        """Tells the learning rates that wait for it the objective of a report which has one."""
        if self.watch.objective is None or self.watch.objective[0] in self.examiner.idle:
            return
        column, mode = self.watch.objective
        for update in self.updates:
            update.rate.look(number(report, column), mode)

    @property
    def validated(self) -> dict[str, nn.Module]:
        """The modules as validation sees them: moving averages; last weights are `last.*`."""
        averages = {name: average.module for name, average in self.ema.items()}
        newest = {f"last.{name}": self.modules[name] for name in self.ema}
        return {**self.modules, **averages, **self.teachers, **newest}

    def validate(self, worst: Worst | None = None) -> dict[str, float | None]:
        """The validation columns of the model as it is now: its moving average where there is
        one.
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        batches = validation_loader(self.loaders, self.train.validation_batch_size, world, rank)
        modules = self.validated
        read = None if self.train.measure_idle_terms else self.watch.read | self.run.read
        measured = self.phases, self.metrics, batches, self.settings
        return evaluate(self.accelerator, modules, *measured, worst, read)

    def _seed(self, step: int) -> None:
        """Seeds by (seed, step, rank) what a forward draws from torch's generators (dropout)."""
        value = step_seed(self.train.seed, step, self.accelerator.process_index)
        devices.seed_everything(value, self.accelerator.device)

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The moving averages by the names under which a forward finds them, beside the modules:
        in eval mode, without gradients.
        """
        return {f"ema.{name}": average.module for name, average in self.ema.items()}

    def _describe(self) -> None:
        if self.run.is_main:
            write_metadata(
                self.run.directory,
                self.system.name,
                self.train.precision,
                self.accelerator,
                self.modules,
                self.loaders,
                self.prepared,
                self.init_from,
            )

    def _warn(self, message: str) -> None:
        if self.run.is_main:
            self.run.warn(message)

    def _make_update(self, phase: Phase, built: Built) -> PhaseUpdate:
        node: OptimizerSettings = getattr(self.settings, phase.optimizer)
        groups = parameter_groups(
            self.modules, phase.modules, node, built.no_decay, built.groups
        )
        optimizer = self.accelerator.prepare_optimizer(make_optimizer(node, groups))
        return PhaseUpdate(
            phase,
            self.accelerator,
            self.modules,
            self.wrapped,
            optimizer,
            self.settings,
            node,
            self.teachers,
        )

    def _save_where_due(self) -> None:
        if self._note_best() or self._is_checkpoint_due:
            self._save()

    @property
    def _is_checkpoint_due(self) -> bool:
        """Whether a report has a checkpoint that is not the best one: by the settings, or because
        the training may end here.
        """
        train, step = self.train, self.step
        intervals = (train.report_every * train.checkpoint_every, train.keep_every)
        is_told = any(interval and step % interval == 0 for interval in intervals)
        ends_here = self.has_ended or self.run.budget.is_over
        return is_told or step in (*self.run.rungs, self.last_step) or ends_here

    def _save(self) -> None:
        meta = {
            "system": self.system.name,
            "settings": self.flat,
            "built": self.built_meta,
            "external": external.stored(self.run.directory, self.modules, self.external),
            "init_from": self.init_from,
            "report": dict(self.last_report),
            "seconds": self.seconds,
            "best": self.best,
            "watch": self.watch.state(),
            "start": begin.label(self.run.start),
            "ends_segment": self.step == self.last_step,
        }
        tensors = contents.tensors_of(self.modules, self.ema, self.external)
        state = contents.state_of(self.updates, self.accelerator)
        checkpoint.save(self.folder, self.step, tensors, state, meta)
        best = self.best[0] if self.best else None
        ends = CHECKPOINTS_LENT if self.run.lends_checkpoints else 0
        rungs = self.run.rungs if self.run.keeps_rungs else ()
        checkpoint.prune(self.folder, best, self.train.keep_every, ends, rungs)

    def _note_best(self) -> bool:
        """Whether the last report is better than all before it."""
        if self.run.objective is None:
            return False
        column, mode = self.run.objective
        value = number(self.last_report, column)
        sign = 1.0 if mode == "min" else -1.0
        if value is None or (self.best and not sign * value < sign * self.best[1]):
            return False
        self.best = (self.step, value)
        return True

    def _restore(self) -> bool:
        """Loads the checkpoint that the segment goes on from. Returns whether it is another
        trial's.
        """
        stored = begin.find(self.run, self.folder, self.system.name, self.train.external)
        if stored is None:
            if self.run.is_main and self.run.reports is not None:
                self.run.reports.truncate_after(0)
            return False
        contents.load_tensors(self.modules, self.ema, stored.tensors)
        contents.load_state(self.updates, self.accelerator, stored.state)
        self.external = stored.external
        self.step, self.last_report = stored.step, dict(stored.meta["report"])
        reason = str(self.last_report.get(STOP_REASON, ""))
        if reason and goes_on(reason, stored.meta["settings"], self.flat):
            del self.last_report[STOP_REASON]
        if "watch" in stored.meta:
            self.watch.load(stored.meta["watch"])
        self.seconds = stored.meta["seconds"]
        self.best = tuple(stored.meta["best"]) if stored.meta["best"] else None
        inherited = begin.is_taken_over(stored, self.run)
        if self.run.is_main and self.run.reports is not None:
            last = None if inherited else {"segment": self.run.segment, **self.last_report}
            self.run.reports.truncate_after(self.step, last)
        if inherited:
            self.best = None  # the best step of a life whose checkpoints are in another folder
            if self.run.is_main:
                self._note_best()
                self._save()
        if self.run.start is not None and self.run.is_main:
            begin.forget_others(self.folder, self.run.start)
        return inherited

    def close(self) -> None:
        """Releases what the next trial in this process needs."""
        self.board.close()
        if self.train.compile:
            torch.compiler.reset()  # what was compiled holds the modules
        self.updates, self.modules, self.wrapped, self.ema = [], {}, {}, {}
        # A full collection costs 0.1 s: only where it frees a GPU.
        if self.accelerator.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
