"""What loader processes bring and cost: steps a second of each demo, the drawing of its batches
included, against a training that draws them itself (`train.loader_workers=0`).

`drawing` is the CPU time of drawing a batch beside that of its step: what processes can take away.
Rows with pinned memory need a GPU and are left out without one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.rows import Row, main, row
from benchmarks.measuring.steps import DEMOS, MANY, prepared_settings
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader
from trainables.system import load_system

ROUNDS, WARM_UP, STEPS = 5, 6, 14

CASES: Mapping[str, Mapping[str, Any]] = {
    "workers_1": {"train.loader_workers": 1},
    "workers_2": {"train.loader_workers": 2},
    "workers_2_prefetch_1": {"train.loader_workers": 2, "train.loader_prefetch": 1},
    "workers_2_prefetch_8": {"train.loader_workers": 2, "train.loader_prefetch": 8},
    "workers_2_pinned": {"train.loader_workers": 2, "train.loader_pin_memory": True},
}
ALONE = "workers_0"


def measure() -> Iterator[Row]:
    """All cases in turn, each with fresh processes; medians."""
    torch.set_num_threads(1)
    pins = torch.cuda.is_available()
    cases = {ALONE: {}, **{k: v for k, v in CASES.items() if pins or not k.endswith("pinned")}}
    for name in DEMOS:
        rates: dict[str, list[float]] = {case: [] for case in cases}
        with tempfile.TemporaryDirectory() as folder:
            trainings = {case: _training(name, more, Path(folder)) for case, more in cases.items()}
            for _ in range(ROUNDS):
                for case, training in trainings.items():
                    rates[case].append(_rate(training))
            drawing, stepping = _cpu_milliseconds(trainings[ALONE])
        yield row(f"loaders/{name}/drawing", drawing, "ms", "the step", stepping)
        alone = statistics.median(rates.pop(ALONE))
        for case, found in rates.items():
            yield row(
                *(f"loaders/{name}/{case}", statistics.median(found), "steps/s"),
                *("train.loader_workers=0", alone),
                higher_is_better=True,
            )


def _training(name: str, changes: Mapping[str, Any], folder: Path) -> Training:
    system = load_system(name)
    settings, prepared = prepared_settings(system, changes)
    return Training(system, settings, LocalRun(folder), prepared)


def _batches(training: Training) -> Iterator[Any]:
    train, on_gpu = training.train, training.accelerator.device.type == "cuda"
    share = Share(train.batch_size, 1)
    return iter(train_loader(training.loaders, share, 0, 0, MANY, train.loading(on_gpu)))


def _cpu_milliseconds(training: Training) -> tuple[float, float]:
    """Of drawing a batch, and of its step."""
    batches, drawing, stepping = _batches(training), [], []
    for _ in range(STEPS):
        began = time.process_time()
        batch = next(batches)
        drawn = time.process_time()
        training.one_step([batch])
        drawing.append(1000 * (drawn - began))
        stepping.append(1000 * (time.process_time() - drawn))
    return statistics.median(drawing), statistics.median(stepping)


def _rate(training: Training) -> float:
    """Steps a second once the processes have made what they make ahead."""
    batches, on_gpu = _batches(training), training.accelerator.device.type == "cuda"
    began = 0.0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            began = _now(on_gpu)
        training.one_step([next(batches)])
    return STEPS / (_now(on_gpu) - began)


def _now(on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(measure, __doc__)
