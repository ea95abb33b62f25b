"""How long a user waits: from the command to the first report of a sweep, and for `--help`."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.commands import ROOT, scratch, timed
from benchmarks.rows import Row, main, row

RUNS = 5
DEMO = ("hdr_patch", "train.report_every=10")


def measure() -> Iterator[Row]:
    """Warm runs: the first of each is not counted (byte code, file cache, prepared data)."""
    with scratch() as folder:
        seconds = [_first_report(folder / f"sweep-{run}") for run in range(RUNS + 1)]
    name = "start_up/first_report"
    yield row(name, statistics.median(seconds[1:]), "s", "none: a bound of 12 s", 12.0)
    helps = [timed(["-m", "ray_jobs.sweep", "--help"]) for _ in range(RUNS + 1)]
    imported = [timed(["-c", "import ray"]) for _ in range(RUNS + 1)]
    value, peer = statistics.median(helps[1:]), statistics.median(imported[1:])
    yield row("start_up/help", value, "s", "import ray alone", peer)


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


if __name__ == "__main__":
    main(measure, __doc__)
