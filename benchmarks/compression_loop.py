"""What training an autoencoder of images by `fit` costs against a bare loop of the same network,
terms and batches: seconds of a step and peak memory, in 2-D and 3-D, with and without a critic.

The bare loop is what a notebook would hold: the networks, torch's optimizers and clipping; with
a critic the images that it judges are those of the same step.
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

GAN = {"discriminator.enabled": True, "loss.adversarial.enabled": True}
VOLUMES = {"model.spatial_dims": 3, "train.batch_size": 2}
CASES: Mapping[str, Mapping[str, Any]] = {
    "vae_2d": {},
    "vae_2d_gan": GAN,
    "vae_3d": VOLUMES,
    "vae_3d_gan": {**VOLUMES, **GAN},
    "vqvae_2d_gan": {"model.kind": "vqvae", **GAN},
    "dcae_2d": {"model.kind": "dcae"},
}
"""Name -> what is changed in the demo."""

SIDES = ("ours", "bare")
BLOCKS, STEPS = 15, 4

Steps = Callable[[], float]
"""Takes a few steps and returns the seconds of one."""


def measure() -> Iterator[Row]:
    """Seconds: blocks of steps in turn, so that whatever else the machine does meets both;
    medians. Memory: a process each.
    """
    import torch

    torch.set_num_threads(1)
    peer = "bare loop of the same network, terms and batches"
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            sides = {side: _steps_of(side, name, Path(folder)) for side in SIDES}
            times: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(BLOCKS):
                for side, run in sides.items():
                    times[side].append(run())
        ours, bare = (1000 * statistics.median(times[side]) for side in SIDES)
        yield row(f"compression_loop/{name}/step", ours, "ms", peer, bare)
        ours, bare = (peak_of("benchmarks.compression_loop", side, name) for side in SIDES)
        yield row(f"compression_loop/{name}/peak_memory", ours, "MiB", peer, bare)


def _steps_of(side: str, name: str, folder: Path) -> Steps:
    from benchmarks.measuring.bare import bare_steps
    from benchmarks.measuring.steps import loop_steps
    from trainables.system import load_system

    system = load_system("compression")
    if side == "ours":
        return loop_steps(system, CASES[name], folder, STEPS)
    return bare_steps(system, CASES[name], STEPS)


def _peak(side: str, name: str) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _steps_of(side, name, Path(folder))()
    print(json.dumps(peak_mib()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(*sys.argv[2:4])
    else:
        main(measure, __doc__)
