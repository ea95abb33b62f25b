"""What training the demo of `diffusion` costs against a loop that a notebook would hold: MONAI's
UNet, its RFlowScheduler, torch's AdamW, clipping and moving average, on the same batches. CPU
seconds of a step on one thread and peak memory, of slices and of volumes.

Both sides have the same layers. Ours draws noise and times by the samples' seeds, keeps the
losses of every term, watches for what is not finite and follows a learning rate; the other does
not.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring.peaks import peak_mib, peak_of
from benchmarks.measuring.rows import Row, main, row

CASES: Mapping[str, Mapping[str, Any]] = {
    "slices": {},
    "volumes": {"model.spatial_dims": 3, "train.batch_size": 2},
}
"""Name -> what is changed in the demo."""

SIDES = ("ours", "monai")
BLOCKS, STEPS = 16, 2


def measure() -> Iterator[Row]:
    """Milliseconds: medians over blocks of steps in turn; the ratio is the median over pairs of
    blocks. Memory: a process each.
    """
    import torch

    from benchmarks.rivals.monai_flow import in_turn

    torch.set_num_threads(1)
    peer = "bare loop with MONAI's UNet and RFlowScheduler"
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            steps = {side: steps_of(side, CASES[name], Path(folder)) for side in SIDES}
            times = in_turn(steps, BLOCKS)
        pairs = zip(times["monai"], times["ours"], strict=True)
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        ours, theirs = (1000 * statistics.median(times[side]) for side in SIDES)
        yield Row(f"diffusion_loop/{name}/step", ours, "ms", peer, theirs, ratio)
        ours, theirs = (peak_of("benchmarks.rivals.diffusion_loop", s, name) for s in SIDES)
        yield row(f"diffusion_loop/{name}/peak_memory", ours, "MiB", peer, theirs)


def steps_of(
    side: str, changes: Mapping[str, Any], folder: Path, steps: int = STEPS
) -> Callable[[], float]:
    """A function that takes `steps` steps and returns the seconds of one; warmed up."""
    from benchmarks.measuring.steps import (
        batches_of,
        loop_steps,
        prepared_settings,
        timed_steps,
        undisturbed_clock,
    )
    from benchmarks.rivals.monai_flow import training_step
    from trainables.system import load_system

    system, clock = load_system("diffusion"), undisturbed_clock()
    if side == "ours":
        return loop_steps(system, changes, folder, steps, clock)
    settings, prepared = prepared_settings(system, changes)
    space = prepared.space(settings.space)
    step = training_step(settings, space.shift.float(), space.scale.float())
    return timed_steps(step, batches_of(system, settings, prepared), steps, clock)


def _peak(side: str, name: str) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps_of(side, CASES[name], Path(folder))()
    print(json.dumps(peak_mib()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(*sys.argv[2:4])
    else:
        main(measure, __doc__)
