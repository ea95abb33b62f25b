"""How long a user waits: from the command to the first report of a sweep, for `--help`, and for
the list of the verbs.

The peer of the first report is what Ray and torch take for themselves: a cluster, and one Tune
trial that makes an optimizer and reports at once, without a model, data, or checks.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring.commands import ROOT, scratch, timed
from benchmarks.measuring.rows import Row, main, row
from settings.command import PROGRAM

RUNS = 5
DEMO = ("hdr_patch", "train.report_every=10")

SCRIPT = str(Path(sys.executable).with_name(PROGRAM))
TEXTS = {
    "help": ["-m", "ray_jobs.sweep", "--help"],
    "script_help": [SCRIPT, "sweep", "--help"],
    "verbs": [SCRIPT],
}
"""Row -> what is printed before anything starts."""

LEAST = """
import os, sys
import ray
ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
from ray import tune

mark = sys.argv[1]

def trial(config):
    import torch
    torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())
    tune.report({"value": 1.0})
    open(mark, "w").write("reported")

tune.Tuner(trial, run_config=tune.RunConfig(storage_path=sys.argv[2], verbose=0)).fit()
"""


def measure() -> Iterator[Row]:
    """Warm runs: the first of each is not counted (byte code, file cache, prepared data). Ours and
    the peer take turns.
    """
    ours, least = [], []
    with scratch() as folder:
        for run in range(RUNS + 1):
            least.append(_least(folder / f"least-{run}"))
            ours.append(_first_report(folder / f"sweep-{run}"))
    name, least_name = "start_up/first_report", "the least that Ray Tune and torch take"
    yield row(name, statistics.median(ours[1:]), "s", least_name, statistics.median(least[1:]))
    peer = _median(["-c", "import ray"])
    for name, arguments in TEXTS.items():
        yield row(f"start_up/{name}", _median(arguments), "s", "import ray alone", peer)


def _median(arguments: list[str]) -> float:
    """Seconds of a warm `python ARGUMENTS`."""
    return statistics.median([timed(arguments) for _ in range(RUNS + 1)][1:])


def _first_report(directory: Path) -> float:
    """Seconds until the first report of the demo sweep (its tenth step) is on disk."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "ray_jobs.sweep", *DEMO, "--dir", str(directory)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not any(path.stat().st_size for path in (directory / "reports").glob("*.jsonl")):
            if process.poll() is not None:
                raise RuntimeError(
                    f"the sweep ended with status {process.returncode} before it reported"
                )
            time.sleep(0.02)
        return time.perf_counter() - began
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=120)


def _least(folder: Path) -> float:
    """Seconds until a Tune trial that does nothing has reported."""
    folder.mkdir()
    mark = folder / "mark"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", LEAST, str(mark), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not mark.exists():
        if process.poll() is not None:
            raise RuntimeError(f"the peer ended with status {process.returncode}")
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    process.wait(timeout=120)
    return seconds


if __name__ == "__main__":
    main(measure, __doc__)
