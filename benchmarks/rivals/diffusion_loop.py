"""What training the demo of `diffusion` costs against a loop that a notebook would hold: MONAI's
UNet, its RFlowScheduler, torch's AdamW, clipping and moving average, on the same batches. CPU
seconds of a step on one thread and peak memory, of slices and of volumes.

Both sides have the same layers. Ours draws noise and times by the samples' seeds, keeps the
losses of every term, watches for what is not finite and follows a learning rate; the other does
not.

Then what each regulariser adds to a step of slices: its step over the plain one, in turn;
`--regularisers` measures these alone.

    python -m benchmarks.rivals.diffusion_loop --json
    python -m benchmarks.rivals.diffusion_loop --regularisers --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring.peaks import peak_mib, peak_of
from benchmarks.measuring.rows import Row, row, show

CASES: Mapping[str, Mapping[str, Any]] = {
    "slices": {},
    "volumes": {"model.spatial_dims": 3, "train.batch_size": 2},
}
"""Name -> what is changed in the demo."""

REGULARISERS: Mapping[str, Mapping[str, Any]] = {
    "curriculum": {"strategy.curriculum.enabled": True},
    "jitter": {"strategy.jitter.enabled": True},
    "min_snr": {"strategy.min_snr.enabled": True},
    "input_noise": {"regulariser.input_noise.enabled": True},
    "feature_noise": {"regulariser.feature_noise.enabled": True},
    "self_conditioning": {"regulariser.self_conditioning.enabled": True},
    "consistency": {"loss.consistency.enabled": True},
    "gradient_noise": {"optimizer.noise.eta": 0.01},
    "sam": {"optimizer.sam.radius": 0.05},
    "no_average": {"train.ema_decay": 0.0},
    "score_aug": {"score_aug.enabled": True},
    "score_aug_v2": {"score_aug.enabled": True, "score_aug.kind": "v2"},
    "sda": {"loss.sda.enabled": True},
    "regional": {"loss.regional.enabled": True},
    "perceptual": {"loss.perceptual.enabled": True},
    "checkpointing": {"model.checkpointing": True},
}
"""Name -> what is changed in the demo; the weights of terms change no cost."""

SIDES = ("ours", "monai")
BLOCKS, STEPS = 16, 2

REGULARISER_BLOCKS = 8
"""Of one step: what is asked is whether a step costs one or two of the plain ones."""


def against_monai() -> Iterator[Row]:
    """Milliseconds: medians over blocks of steps in turn; the ratio is the median over pairs of
    blocks. Memory: a process each.
    """
    import torch

    from benchmarks.measuring.steps import in_turn

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


def of_regularisers() -> Iterator[Row]:
    """Milliseconds of a step with and without each; the ratio is with over without, the median
    over pairs of steps.
    """
    import torch

    from benchmarks.measuring.steps import in_turn

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        plain = steps_of("ours", {}, Path(folder) / "plain", 1)
        for name, changes in REGULARISERS.items():
            changed = steps_of("ours", changes, Path(folder) / name, 1)
            times = in_turn({"with": changed, "plain": plain}, REGULARISER_BLOCKS)
            pairs = zip(times["with"], times["plain"], strict=True)
            ratio = statistics.median(one / other for one, other in pairs)
            one, other = (1000 * statistics.median(times[side]) for side in ("with", "plain"))
            yield Row(f"diffusion_loop/{name}/step", one, "ms", "the plain step", other, ratio)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--regularisers", action="store_true", help="their rows alone")
    args = parser.parse_args()
    parts = (of_regularisers,) if args.regularisers else (against_monai, of_regularisers)
    for part in parts:
        for printed in part():
            show(printed, args.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(*sys.argv[2:4])
    else:
        main()
