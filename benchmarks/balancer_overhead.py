"""What looking at the gradients of the terms adds to a step, in the demo size: each kind of
balancer against fixed weights; and `train.term_gradients`, which looks once an interval.

Gradients are compared at the last layer (`Phase.shared`), as GradNorm's paper does;
`..._all_parameters` compares them at every parameter, as `field_vae` does, which names no layer.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measuring.rows import Row, main, row
from benchmarks.measuring.steps import loop_steps
from data.hdr.dataset import Prepared
from losses.balancers.settings import KINDS, BalancerSettings
from trainables.compression.system import Compression
from trainables.conditioner.field_vae import FieldVae
from trainables.conditioner.system import Conditioner
from trainables.hdr_patch.system import HdrPatch, HdrPatchSettings
from trainables.parts import Phase
from trainables.system import System

BLOCKS = 12

INTERVAL, INTERVALS = 40, 4
"""Steps between two reports, and how many of these stretches are timed."""

EVERY_PARAMETER = "gradnorm_all_parameters"


class EveryParameter(HdrPatch):
    """hdr_patch whose terms are compared at all parameters."""

    def phases(self, settings: HdrPatchSettings, prepared: Prepared | None) -> Sequence[Phase]:
        return [replace(phase, shared=None) for phase in super().phases(settings, prepared)]


def measure() -> Iterator[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        yield from _balancers(Path(folder))
        yield from _reports(Path(folder))


def _balancers(folder: Path) -> Iterator[Row]:
    """Every block has one look at the gradients."""
    names, steps = (*KINDS, EVERY_PARAMETER), BalancerSettings().interval
    blocks = {}
    for name in names:
        system = EveryParameter() if name == EVERY_PARAMETER else HdrPatch()
        changes = {"loss.balancer.kind": name.removesuffix("_all_parameters")}
        blocks[name] = loop_steps(system, changes, folder / name, steps)
    step = _in_turn(blocks, BLOCKS)
    for name in names[1:]:
        yield row(f"balancer_overhead/{name}", step[name], "ms", "fixed", step["fixed"])


def _reports(folder: Path) -> Iterator[Row]:
    """Every block has one step before a report."""
    systems: dict[str, System] = {
        "hdr_patch": HdrPatch(),
        "hdr_patch_all_parameters": EveryParameter(),
        "conditioner": Conditioner(),
        "compression": Compression(),
        "field_vae": FieldVae(),
    }
    for name, system in systems.items():
        blocks = {}
        for asked in (False, True):
            changes = {"train.term_gradients": asked, "train.report_every": INTERVAL}
            place = folder / f"{name}-{asked}"
            blocks[str(asked)] = loop_steps(system, changes, place, INTERVAL)
        step = _in_turn(blocks, INTERVALS)
        yield row(f"term_gradients/{name}", step["True"], "ms", "without", step["False"])


def _in_turn(blocks: Mapping[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """Milliseconds of a step: all take blocks in turn, so that whatever else the machine does
    meets all; medians.
    """
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(turns):
        for name, run in blocks.items():
            times[name].append(run())
    return {name: 1000 * statistics.median(found) for name, found in times.items()}


if __name__ == "__main__":
    main(measure, __doc__)
