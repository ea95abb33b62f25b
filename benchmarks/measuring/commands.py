"""Running a verb as a user does, timed from the command to what is looked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SPACE = """\
loss.squared.weight: {log_uniform: [0.01, 10]}
optimizer.lr: {log_uniform: [0.001, 1]}
"""
TRIVIAL = (
    "trainables.toy:Toy",
    "train.steps=5",
    "train.report_every=1",
    "train.tensorboard=false",
    "--sampler",
    "random",
    "--scheduler",
    "none",
)
"""The trivial trial: five "epochs" of one step, validation, report and checkpoint at each."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards; short, for the sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="wb-"))
    (folder / "space.yaml").write_text(SPACE)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def timed(arguments: Sequence[str]) -> float:
    """Wall seconds of `python ARGUMENTS`; raises where it fails."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def sweep(folder: Path, name: str, *arguments: str) -> list[str]:
    """The command line of a sweep of the trivial trial."""
    space = str(folder / "space.yaml")
    target = str(folder / name)
    return ["-m", "ray_jobs.sweep", *TRIVIAL, "--space", space, "--dir", target, *arguments]
