"""What `fit` adds to a step: the loop on the demo size of hdr_patch against a bare torch loop of
the same step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Row, main, row
from ray_jobs.verb import cache_directory
from settings.flat import replace
from trainables.batches import Share, train_loader
from trainables.loop import Training
from trainables.optimizer import make_optimizer, parameter_groups
from trainables.run import LocalRun
from trainables.system import load_system

BLOCKS, STEPS = 30, 5


def measure() -> Iterator[Row]:
    """Both take blocks of steps in turn, so that whatever else the machine does meets both;
    medians.
    """
    torch.set_num_threads(1)
    system = load_system("hdr_patch")
    settings = replace(system.Settings(), {"hdr.prefill": "push_pull", "train.steps": 10_000})
    prepared = system.prepare(settings, cache_directory())
    with tempfile.TemporaryDirectory() as folder:
        training = Training(system, settings, LocalRun(Path(folder)), prepared)
        ours = _block(training._one_step, system, settings, prepared)
        bare = _block(_bare_step(system, settings, prepared), system, settings, prepared)
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(BLOCKS):
            times["ours"].append(ours())
            times["bare"].append(bare())
        training.close()
    value, peer = (1000 * statistics.median(times[name]) / STEPS for name in ("ours", "bare"))
    yield row("loop_overhead/step", value, "ms", "bare torch loop, same terms and batches", peer)


def _block(
    step: Callable[[list[Any]], Any], system: Any, settings: Any, prepared: Any
) -> Callable[[], float]:
    share = Share(settings.train.batch_size, 1)
    loader = train_loader(system.loaders(settings, prepared), share, 0, 0, 10_000, 0)
    batches = iter(loader)
    for _ in range(STEPS):
        step([next(batches)])

    def run() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            step([next(batches)])
        return time.perf_counter() - began

    return run


def _bare_step(system: Any, settings: Any, prepared: Any) -> Callable[[list[Any]], None]:
    """The step as a notebook would write it: forward, weighted sum of means, backward, clip,
    update.
    """
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

    return step


if __name__ == "__main__":
    main(measure, __doc__)
