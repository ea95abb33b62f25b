"""Whether a reused process grows: resident memory over 50 trials of one sweep in one actor."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring.commands import scratch, timed
from benchmarks.measuring.rows import Row, main, row
from data.hdr.dataset import Prepared
from trainables.hdr_patch.system import HdrPatch, HdrPatchSettings
from trainables.parts import Built

TRIALS = 50
LOG = "WEIGHBRIDGE_MEMORY_LOG"
SPACE = "optimizer.lr: {log_uniform: [0.0001, 0.01]}\n"
SMALL = ("train.steps=6", "train.report_every=3", "model.width=4", "data.crop=32", "data.frames=8")


class Measured(HdrPatch):
    """hdr_patch that notes the process and its resident memory each time a trial begins."""

    name = "benchmarks.actor_memory:Measured"

    def build(self, settings: HdrPatchSettings, prepared: Prepared) -> Built:
        import psutil

        note = {"pid": os.getpid(), "rss": psutil.Process().memory_info().rss}
        with Path(os.environ[LOG]).open("a") as file:
            file.write(json.dumps(note) + "\n")
        return super().build(settings, prepared)


def measure() -> Iterator[Row]:
    """Growth of the last 25 trials: mean of the last five against the five after the 25th."""
    with scratch() as folder:
        (folder / "space.yaml").write_text(SPACE)
        os.environ[LOG] = str(folder / "memory.jsonl")
        arguments = ["--space", str(folder / "space.yaml"), "--dir", str(folder / "sweep")]
        arguments += ["--trials", str(TRIALS), "--max-concurrent", "1", "--scheduler", "none"]
        timed(["-m", "ray_jobs.sweep", Measured.name, *SMALL, "--sampler", "random", *arguments])
        notes = [json.loads(line) for line in (folder / "memory.jsonl").read_text().splitlines()]
    if len({note["pid"] for note in notes}) != 1:
        raise RuntimeError("the trials did not share one process")
    memory = [note["rss"] for note in notes]
    middle, last = statistics.mean(memory[25:30]), statistics.mean(memory[-5:])
    yield row("actor_memory/growth", 100 * (last / middle - 1), "%", "none: a bound of 2 %", None)
    yield row("actor_memory/resident", last / 2**30, "GiB", "none", None)


if __name__ == "__main__":
    main(measure, __doc__)
