"""What a balancer adds to a step: each kind, in the demo size of hdr_patch, against fixed weights.

Gradients are compared at the last layer (`Phase.shared`), as GradNorm's paper does;
`gradnorm_all_parameters` compares them at every parameter.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measuring.rows import Row, main, row
from benchmarks.measuring.steps import loop_steps
from data.hdr.dataset import Prepared
from losses.balancers.settings import KINDS, BalancerSettings
from trainables.hdr_patch import HdrPatch, HdrPatchSettings
from trainables.parts import Phase

BLOCKS = 12

EVERY_PARAMETER = "gradnorm_all_parameters"


class EveryParameter(HdrPatch):
    """hdr_patch whose terms are compared at all parameters."""

    def phases(self, settings: HdrPatchSettings, prepared: Prepared | None) -> Sequence[Phase]:
        return [replace(phase, shared=None) for phase in super().phases(settings, prepared)]


def measure() -> Iterator[Row]:
    """All take blocks of one interval in turn, so that whatever else the machine does meets all,
    and every block has one look at the gradients; medians.
    """
    torch.set_num_threads(1)
    names, steps = (*KINDS, EVERY_PARAMETER), BalancerSettings().interval
    with tempfile.TemporaryDirectory() as folder:
        blocks = {}
        for name in names:
            system = EveryParameter() if name == EVERY_PARAMETER else HdrPatch()
            kind = name.removesuffix("_all_parameters")
            changes = {"loss.balancer.kind": kind}
            blocks[name] = loop_steps(system, changes, Path(folder) / name, steps)
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(BLOCKS):
            for name, run in blocks.items():
                times[name].append(run())
    step = {name: 1000 * statistics.median(found) for name, found in times.items()}
    for name in names[1:]:
        yield row(f"balancer_overhead/{name}", step[name], "ms", "fixed", step["fixed"])


if __name__ == "__main__":
    main(measure, __doc__)
