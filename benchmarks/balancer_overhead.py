"""What a balancer adds to a step: each kind, in the demo size of hdr_patch, against fixed weights.

Also gradnorm with only the last layer as shared parameters (`gradnorm_last_layer`), which is how
its paper takes the gradients.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.rows import Row, main, row
from losses.balancers import KINDS
from ray_jobs.verb import cache_directory
from settings.flat import replace
from trainables.batches import Share, train_loader
from trainables.hdr_patch import HdrPatch
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.system import Phase

BLOCKS = 12
"""Blocks of one interval each: every block has one look at the gradients."""

LAST_LAYER = "gradnorm_last_layer"


class LastLayer(HdrPatch):
    """hdr_patch whose terms are compared at the parameters of its last layer."""

    def phases(self, settings: Any, prepared: Any) -> Sequence[Phase]:
        (phase,) = super().phases(settings, prepared)
        own = phase.modules, phase.forward, phase.composite, phase.optimizer
        return [Phase(phase.name, *own, shared=last_parameters)]


def last_parameters(modules: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    return list(modules["model"].parameters())[-2:]


def measure() -> Iterator[Row]:
    """All take blocks of steps in turn, so that whatever else the machine does meets all;
    medians.
    """
    torch.set_num_threads(1)
    names = (*KINDS, LAST_LAYER)
    with tempfile.TemporaryDirectory() as folder:
        blocks = {name: _block(name, Path(folder) / name) for name in names}
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(BLOCKS):
            for name, run in blocks.items():
                times[name].append(run())
    step = {name: 1000 * statistics.median(found) for name, found in times.items()}
    for name in names[1:]:
        yield row(f"balancer_overhead/{name}", step[name], "ms", "fixed", step["fixed"])


def _block(name: str, directory: Path) -> Callable[[], float]:
    """Trains for one interval and returns the seconds of a step."""
    system: Any = LastLayer() if name == LAST_LAYER else HdrPatch()
    kind = "gradnorm" if name == LAST_LAYER else name
    changes = {
        "hdr.prefill": "push_pull",
        "train.steps": 10_000,
        "train.tensorboard": False,
        "loss.balancer.kind": kind,
    }
    settings = replace(system.Settings(), changes)
    prepared = system.prepare(settings, cache_directory())
    training = Training(system, settings, LocalRun(directory), prepared)
    share = Share(settings.train.batch_size, 1)
    loader = train_loader(system.loaders(settings, prepared), share, 0, 0, 10_000, 0)
    batches, steps = iter(loader), settings.loss.balancer.interval

    def run() -> float:
        drawn = [[next(batches)] for _ in range(steps)]
        began = time.perf_counter()
        for batch in drawn:
            training._one_step(batch)
        return (time.perf_counter() - began) / steps

    run()  # warm-up
    return run


if __name__ == "__main__":
    main(measure, __doc__)
