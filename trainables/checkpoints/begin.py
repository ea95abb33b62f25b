"""The beginning of a segment: the trial's own newest checkpoint, or the checkpoint of another
trial, whose weights it takes over under settings and a seed of its own.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.checkpoints import checkpoint
from trainables.checkpoints.checkpoint import Checkpoint
from trainables.checkpoints.error import CheckpointError, ExternalError
from trainables.run import LocalRun


def label(start: Path | None) -> str | None:
    """The name that a checkpoint gives to the one its segment began from, of another trial:
    `0003/step-00000040`, which stays true where the sweep's directory is moved.
    """
    return None if start is None else f"{start.parent.parent.name}/{start.name}"


def find(run: LocalRun, folder: Path, system: str, moved: str = "") -> Checkpoint | None:
    """The checkpoint that this segment goes on from; None for a trial that begins.

    A segment with `run.start` has its own checkpoints once it has been under way: those that name
    this start. All others in the folder belong to the training that the trial gave up.

    Args:
        moved: `train.external`.

    Raises:
        CheckpointError: all that could be read is damaged, or of another system; or its external
            modules cannot be had.
    """
    if run.start is None:
        return checkpoint.newest_good(folder, system, run.warn, moved)
    for path in reversed(checkpoint.available(folder)):
        try:
            if checkpoint.read_meta(path).get("start") == label(run.start):
                return checkpoint.load(path, system, moved)
        except ExternalError:
            raise
        except CheckpointError as error:
            run.warn(f"{error} Falling back to the previous one.")
    return checkpoint.load(run.start, system, moved)


def meta_of_start(run: LocalRun, folder: Path, system: str) -> Mapping[str, Any]:
    """The meta of the checkpoint that this segment goes on from; {} for a trial that begins, and
    where `find` will raise.
    """
    goes_on = run.resume or run.start is not None
    paths = list(reversed(checkpoint.available(folder))) if goes_on else []
    for path in paths if run.start is None else [*paths, run.start]:
        with contextlib.suppress(CheckpointError):
            meta = checkpoint.read_meta(path)
            if run.start in (None, path) or meta.get("start") == label(run.start):
                return meta if meta["system"] == system else {}
    return {}


def is_taken_over(stored: Checkpoint, run: LocalRun) -> bool:
    """Whether the checkpoint is another trial's, so that nothing of this segment has been trained
    yet.
    """
    return stored.path == run.start


def forget_others(folder: Path, start: Path) -> None:
    """Deletes the checkpoints of the training that a trial gave up for `start`: the trial must not
    fall back to one of them.
    """
    for path in checkpoint.available(folder):
        origin = None
        with contextlib.suppress(CheckpointError):
            origin = checkpoint.read_meta(path).get("start")
        if origin != label(start):
            shutil.rmtree(path, ignore_errors=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads moments and counts. The numbers that the settings give (rates, decays, weight decay)
    stay as they are, for a segment may have settings of its own.
    """
    numbers = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, set_here in zip(optimizer.param_groups, numbers, strict=True):
        group.update(set_here)
