"""What each enhancement of the conditioner's document costs: seconds of a step and peak memory at
its network widths, against the 10:1 squares alone.

Images of 128 pixels in batches of 16, one process an arm (the arms of `benchmarks/arms`).
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring.commands import ROOT
from benchmarks.measuring.rows import Row, main, row

ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "multi_scale": ("multi_scale", {}),
    "perceptual": ("perceptual", {}),
    "consistency": ("consistency", {}),
    "stable_rank": ("stable_rank", {}),
    "spectral": ("spectral", {}),
    "all_softmax": ("all_fixed", {"loss.balancer.kind": "softmax"}),
    "all_gradnorm": ("all_fixed", {"loss.balancer.kind": "gradnorm"}),
}
"""Row -> the arm of docs/findings/conditioner.md, and what is changed in it."""

SIZES = {
    "model.filters": (32, 64, 128, 256),
    "data.image_size": 128,
    "data.count": 64,
    "train.batch_size": 16,
    # Every image is augmented, so that the second view is needed at every step.
    "augment.outer_probability": 1.0,
    "augment.inner_probability": 1.0,
}
ROUNDS, STEPS = 3, 4


def measure() -> Iterator[Row]:
    """The arms take turns; medians over rounds, of processes that are warmed up."""
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ("baseline", *ARMS)}
    for _ in range(ROUNDS):
        for arm, values in found.items():
            ran = subprocess.run(
                [sys.executable, "-m", "benchmarks.term_overhead", "--arm", arm],
                cwd=ROOT,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            values.append(tuple(json.loads(ran.stdout.splitlines()[-1])))
    middle = {
        arm: [statistics.median(column) for column in zip(*values, strict=True)]
        for arm, values in found.items()
    }
    for arm in ARMS:
        for column, (name, unit) in enumerate((("step", "s"), ("peak_memory", "MiB"))):
            value, peer = middle[arm][column], middle["baseline"][column]
            yield row(f"term_overhead/{arm}/{name}", value, unit, "10:1 squares alone", peer)


def _one_arm(arm: str) -> None:
    import torch

    from benchmarks.measuring.steps import loop_steps
    from settings.files import read_settings_file
    from trainables.system import load_system

    torch.set_num_threads(1)
    own: dict[str, Any] = {}
    if arm != "baseline":
        name, changes = ARMS[arm]
        path = ROOT / "benchmarks/arms/conditioner" / f"{name}.yaml"
        own = {**read_settings_file(path, arm=True).values, **changes}
    with tempfile.TemporaryDirectory() as folder:
        run = loop_steps(load_system("conditioner"), {**own, **SIZES}, Path(folder), STEPS)
        seconds = run()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, peak_mib]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        _one_arm(sys.argv[2])
    else:
        main(measure, __doc__)
