"""The training of one system within the `prepare` of another: of an autoencoder, of a teacher."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from settings.paths import TrainingPaths
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.run import LocalRun, Report
from trainables.stepping.train_settings import SystemSettings
from trainables.system import System


def train_within(
    system: System,
    settings: SystemSettings,
    prepared: Any,
    directory: Path,
    *,
    name: str,
    column: str,
    shown: str,
    resume: bool = False,
) -> Path:
    """Trains in `directory`, and says at each report how far it is. The caller keeps what it needs
    of the newest checkpoint, whose path this is, and removes the directory.

    Args:
        name: what is trained, in words.
        column, shown: of the report, and how it is said: "val.psnr_db", "{:.1f} dB".
        resume: go on from the last checkpoint there.

    Raises:
        RuntimeError: in a worker of a group (`refuse_group`).
    """
    refuse_group(name)

    def report(columns: Report) -> None:
        value = columns.get(column)
        quality = shown.format(value) if isinstance(value, float) else "not measured"
        say(f"{name}: step {columns['step']}, {quality}")

    run = LocalRun(directory, resume=resume, on_report=report)
    fit(system, settings, run, prepared)
    return checkpoint.available(TrainingPaths(directory).checkpoints)[-1]


def refuse_group(name: str) -> None:
    """Refuses to train in a worker of a group: each would train one of its own, or wait for the
    others within a lock.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise RuntimeError(
            f"the {name} is not in the cache, and a worker of a group cannot train it. Prepare on "
            "one process first, with WEIGHBRIDGE_CACHE on a folder that all machines share."
        )


def say(text: str) -> None:
    """Writes to standard error: standard output belongs to the verbs, which may print JSON."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
