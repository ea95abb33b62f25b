"""What training the demo of `npt` by the one loop costs against a bare torch loop of the same
networks, terms and batches: CPU seconds of a step on one thread.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.measuring.rows import Row, main

BLOCKS, STEPS = 24, 2
SIDES = ("ours", "bare")


def measure() -> Iterator[Row]:
    """Milliseconds: medians over blocks of steps in turn; the ratio is the median over pairs of
    blocks.
    """
    import torch

    from benchmarks.rivals.monai_flow import in_turn

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        times = in_turn({side: steps_of(side, Path(folder)) for side in SIDES}, BLOCKS)
    pairs = zip(times["bare"], times["ours"], strict=True)
    ratio = statistics.median(bare / ours for bare, ours in pairs)
    ours, bare = (1000 * statistics.median(times[side]) for side in SIDES)
    peer = "bare torch loop, same networks, terms and batches"
    yield Row("npt_loop/step", ours, "ms", peer, bare, ratio)


def steps_of(
    side: str, folder: Path, changes: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[], float]:
    """A function that takes a block of steps and returns the seconds of one; warmed up."""
    from benchmarks.measuring.bare import bare_steps
    from benchmarks.measuring.steps import loop_steps, undisturbed_clock
    from trainables.npt.system import Npt

    system, clock = Npt(), undisturbed_clock()
    if side == "bare":
        return bare_steps(system, changes, STEPS, clock)
    return loop_steps(system, changes, folder, STEPS, clock)


if __name__ == "__main__":
    main(measure, __doc__)
