"""What `fit` adds to a step: the loop on each system's demo size against a bare torch loop of the
same step.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measuring.bare import bare_steps
from benchmarks.measuring.rows import Row, main, row
from benchmarks.measuring.steps import DEMOS, loop_steps
from trainables.system import load_system

BLOCKS, STEPS = 30, 5


def measure() -> Iterator[Row]:
    """Both take blocks of steps in turn, so that whatever else the machine does meets both;
    medians.
    """
    torch.set_num_threads(1)
    for name in DEMOS:
        system = load_system(name)
        with tempfile.TemporaryDirectory() as folder:
            blocks = {
                "ours": loop_steps(system, {}, Path(folder), STEPS),
                "bare": bare_steps(system, {}, STEPS),
            }
            times: dict[str, list[float]] = {side: [] for side in blocks}
            for _ in range(BLOCKS):
                for side, run in blocks.items():
                    times[side].append(run())
        value, peer = (1000 * statistics.median(times[side]) for side in ("ours", "bare"))
        peer_name = "bare torch loop, same terms and batches"
        yield row(f"loop_overhead/{name}", value, "ms", peer_name, peer)


if __name__ == "__main__":
    main(measure, __doc__)
