"""What `fit` adds to a step: the loop on each system's demo size against a bare torch loop of the
same step.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Row, main, row
from benchmarks.steps import DEMOS, batches_of, loop_steps, prepared_settings, timed_steps
from trainables.optimizer import make_optimizer, parameter_groups
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
                "bare": _bare_steps(system),
            }
            times: dict[str, list[float]] = {side: [] for side in blocks}
            for _ in range(BLOCKS):
                for side, run in blocks.items():
                    times[side].append(run())
        value, peer = (1000 * statistics.median(times[side]) for side in ("ours", "bare"))
        peer_name = "bare torch loop, same terms and batches"
        yield row(f"loop_overhead/{name}", value, "ms", peer_name, peer)


def _bare_steps(system: Any) -> Callable[[], float]:
    """The step as a notebook would write it: forward, weighted sum of means, backward, clip,
    update.
    """
    settings, prepared = prepared_settings(system, {})
    torch.manual_seed(0)
    built = system.build(settings, prepared)
    phase = system.phases(settings, prepared)[0]
    composite = phase.composite
    weights = {name: weight for name, weight in composite.weights(0, 1).items() if weight}
    groups = parameter_groups(
        built.modules, phase.modules, settings.optimizer.weight_decay, built.no_decay
    )
    optimizer = make_optimizer(settings.optimizer, groups)
    parameters = list(built.modules["model"].parameters())

    def step(batches: list[Any]) -> None:
        batch = batches[0]
        optimizer.zero_grad(set_to_none=True)
        prediction = phase.forward(built.modules, batch, settings)
        total = torch.zeros(())
        for name, weight in weights.items():
            value, count = composite.terms[name](prediction, batch, settings)
            total = total + weight * value / count.clamp(min=1)
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.train.clip_norm)
        optimizer.step()

    return timed_steps(step, batches_of(system, settings, prepared), STEPS)


if __name__ == "__main__":
    main(measure, __doc__)
