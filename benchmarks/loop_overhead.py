"""What `fit` adds to a step: the loop on each system's demo size against a bare torch loop of the
same step; and what its validation saves without the terms that are off.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from benchmarks.measuring.bare import bare_steps
from benchmarks.measuring.rows import Row, main, row
from benchmarks.measuring.steps import DEMOS, loop_steps, validations
from trainables.system import load_system

BLOCKS, STEPS = 30, 5
VALIDATIONS = 9


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
            value, peer = _medians_ms(blocks, BLOCKS)
            peer_name = "bare torch loop, same terms and batches"
            yield row(f"loop_overhead/{name}", value, "ms", peer_name, peer)
            looks = {
                key: validations(system, {"train.measure_idle_terms": key == "all"}, Path(folder))
                for key in ("on", "all")
            }
            value, peer = _medians_ms(looks, VALIDATIONS)
            name = f"loop_overhead/{name}/validation_without_idle_terms"
            yield row(name, value, "ms", "validation with all terms", peer)


def _medians_ms(runs: Mapping[str, Callable[[], float]], rounds: int) -> list[float]:
    """Of each; they take turns."""
    times: dict[str, list[float]] = {side: [] for side in runs}
    for _ in range(rounds):
        for side, run in runs.items():
            times[side].append(run())
    return [1000 * statistics.median(values) for values in times.values()]


if __name__ == "__main__":
    main(measure, __doc__)
