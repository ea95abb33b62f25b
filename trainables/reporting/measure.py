"""A checkpoint measured: on the validation set, or on samples that no decision looks at."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from settings.atomic_file import atomic_file
from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import built_for, fill, load_validated, stripped
from trainables.parts import Loaders
from trainables.reporting.evaluate import Worst, evaluate
from trainables.reporting.examine import examine
from trainables.reporting.figures import Figures
from trainables.reporting.tensorboard import open_board
from trainables.run import LocalRun
from trainables.stepping import devices
from trainables.stepping.batches import validation_loader
from trainables.stepping.devices import make_accelerator
from trainables.stepping.train_settings import Tree
from trainables.system import PreparedT, System


def check_trainable(loaders: Loaders) -> None:
    """Raises `SettingsError` for data that are to measure on alone."""
    if loaders.untrainable:
        raise SettingsError(loaders.untrainable)


def check_splits(system: str, loaders: Loaders, test: bool, accelerator: Accelerator) -> None:
    """Refuses, before the first step, data that are not for training, and those of which the first
    report or the final test could not be made.

    Raises:
        SettingsError: the data is not for training, or there is to be a test, and the system's
            data has no test split.
        ValueError: a split has fewer samples than there are workers.
    """
    check_trainable(loaders)
    if test:
        check_has_test(system, loaders, "train.test=true")
    for split in ("validation", "test") if test else ("validation",):
        validation_loader(loaders, 1, accelerator.num_processes, accelerator.process_index, split)


def check_has_test(system: str, loaders: Loaders, asked: str) -> None:
    """Refuses data without a test split.

    Args:
        asked: what asks for one.

    Raises:
        SettingsError: it has none.
    """
    if loaders.test is None:
        raise SettingsError(
            f"{asked} measures the test split at the end, and the data of {system} has none. Give "
            f"it one, or leave {asked} out."
        )


def evaluate_checkpoint(
    system: System[Tree, PreparedT],
    settings: Tree,
    prepared: PreparedT,
    path: Path,
    split: str = "validation",
    worst: Worst | None = None,
) -> dict[str, float | None]:
    """The validation columns of a checkpoint, or the same of the split `test`, from its moving
    average where it has one. Each of several workers measures its share.

    Raises:
        SettingsError: the system's data has no test split.
    """
    loaders = loaders_of(system, settings, prepared, split)
    accelerator = make_accelerator(settings.train)
    modules = modules_of(system, settings, prepared, path, accelerator)
    size = settings.train.validation_batch_size
    world, rank = accelerator.num_processes, accelerator.process_index
    batches = validation_loader(loaders, size, world, rank, split)
    phases, metrics = system.phases(settings, prepared), system.metrics(settings, prepared)
    with devices.fixed_draws(accelerator.device):
        columns = evaluate(accelerator, modules, phases, metrics, batches, settings, worst)
    examinations = system.examinations(settings, prepared)
    return columns | examine(
        accelerator, examinations, modules, loaders, split, settings, phases[0]
    )


def loaders_of(
    system: System[Tree, PreparedT], settings: Tree, prepared: PreparedT, split: str
) -> Loaders:
    """The loaders of data that has such a split.

    Raises:
        SettingsError: it has none.
    """
    loaders = system.loaders(settings, prepared)
    if getattr(loaders, split) is None:
        raise SettingsError(
            f"the data of {system.name} has no {split} split under these settings. Leave out "
            f"--{split} to measure the validation, or name data that has one, of samples that the "
            "training has not seen (data.*=...)."
        )
    return loaders


def modules_of(
    system: System[Tree, PreparedT],
    settings: Tree,
    prepared: PreparedT,
    path: Path,
    accelerator: Accelerator,
) -> dict[str, nn.Module]:
    """The modules of a checkpoint as validation sees them, on the accelerator's device: with the
    weights of the moving average where there is one, also under the names `ema.<module>`, and the
    last weights under `last.<module>`.
    """
    stored = checkpoint.load(path, system.name, settings.train.external)
    built = built_for(system, settings, prepared, stored.meta)
    modules = {name: module.to(accelerator.device) for name, module in built.modules.items()}
    load_validated(modules, stored.tensors)
    for module in modules.values():
        devices.lay_out(module, settings.train.channels_last)
    averaged = {key.split(".")[1] for key in stored.tensors if key.startswith("ema.")}
    if averaged:
        newest = {f"last.{name}": copy.deepcopy(modules[name]) for name in sorted(averaged)}
        for name, module in newest.items():
            kept_as = f"module.{name.removeprefix('last.')}."
            fill(module, stripped(stored.tensors, kept_as), f"module {name}")
        modules |= {f"ema.{name}": module for name, module in modules.items()} | newest
    return modules


def final_test(
    system: System[Tree, PreparedT], settings: Tree, prepared: PreparedT, run: LocalRun
) -> None:
    """Measures the best and the newest checkpoint on the test split: into `test.json`, and into
    TensorBoard as `test_best.<metric>` and `test_latest.<metric>`. Called on every rank.

    No report has these numbers: a sweep that could see them would choose by them.
    """
    board = open_board(system, settings, run.directory / "tensorboard")
    figures = Figures(system, settings, run, board)
    measured: dict[str, dict[str, float | None]] = {}
    for name, best in (("test_best", True), ("test_latest", False)):
        path = checkpoint.find(run.directory, best=best)
        step = checkpoint.step_of(path)
        phase = system.phases(settings, prepared)[0]
        worst = figures.worst(f"{name}.worst_batch", phase, step)
        columns = evaluate_checkpoint(system, settings, prepared, path, "test", worst)
        measured[name] = {f"{name}.{key.removeprefix('val.')}": v for key, v in columns.items()}
        if run.is_main and settings.train.tensorboard:
            board.write({"step": step, **measured[name]})
        figures.draw((), step, worst=worst)
    board.close()
    if not run.is_main:
        return
    merged = {key: value for columns in measured.values() for key, value in columns.items()}
    with atomic_file(run.directory / "test.json") as scratch:
        scratch.write_text(json.dumps(merged, indent=1) + "\n")
