"""What training the demo of `style_flow` by the one loop costs against a bare torch loop of the
same network, integration, terms and batches: CPU seconds of a step on one thread. And the peak
memory of steps through 20 steps of the flow, with and without checkpointing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring.peaks import peak_mib, peak_of
from benchmarks.measuring.rows import Row, main, row

BLOCKS, STEPS = 16, 2
LONG = {"flow.steps": 20}


def measure() -> Iterator[Row]:
    """The step; then memory, a process each: whole, and above what it held before its steps."""
    from benchmarks.measuring.bare import against_bare
    from trainables.system import load_system

    yield against_bare("style_flow_loop/step", load_system("style_flow"), STEPS, BLOCKS)
    for since in ("process", "first_step"):
        kept, every = (
            peak_of("benchmarks.rivals.style_flow_loop", checkpointing, since)
            for checkpointing in ("true", "false")
        )
        name = f"style_flow_loop/peak_memory_of_{since}"
        yield row(name, kept, "MiB", "the same without checkpointing, n = 20", every)


def training_peak_mib(checkpointing: bool, since: str) -> float:
    """Of this process through two steps of training: all of it, or what it grew by."""
    from benchmarks.measuring.steps import batches_of, prepared_settings
    from trainables.loop import Training
    from trainables.run import LocalRun
    from trainables.system import load_system

    system = load_system("style_flow")
    changes = {**LONG, "flow.checkpointing": checkpointing}
    settings, prepared = prepared_settings(system, changes)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(system, settings, LocalRun(Path(folder)), prepared)
        batches = batches_of(system, settings, prepared)
        before = peak_mib() if since == "first_step" else 0.0
        for _ in range(2):
            training.one_step([next(batches)])
        return peak_mib() - before


def _peak(checkpointing: str, since: str) -> None:
    import torch

    torch.set_num_threads(1)
    print(json.dumps(training_peak_mib(checkpointing == "true", since)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(*sys.argv[2:4])
    else:
        main(measure, __doc__)
