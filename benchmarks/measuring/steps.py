"""Training steps of a system, to be timed in blocks that take turns with their peers'."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray_jobs.verb import cache_directory
from settings.flat import replace
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader
from trainables.system import System

Clock = Callable[[], float]

MANY = 10_000
"""Steps of the training that blocks are cut from."""

DEMOS: Mapping[str, Mapping[str, Any]] = {
    "hdr_patch": {"hdr.prefill": "push_pull"},
    "conditioner": {},
}
"""What is changed in each system's demo size."""


def prepared_settings(system: System, changes: Mapping[str, Any]) -> tuple[Any, Any]:
    """(settings, prepared) of a long training without files."""
    long = {**DEMOS.get(system.name, {}), "train.steps": MANY, "train.tensorboard": False}
    settings = replace(system.Settings(), {**long, **changes})
    return settings, system.prepare(settings, cache_directory())


def batches_of(system: System, settings: Any, prepared: Any) -> Iterator[Any]:
    share = Share(settings.train.batch_size, 1)
    loaders = system.loaders(settings, prepared)
    return iter(train_loader(loaders, share, 0, 0, MANY))


def undisturbed_clock() -> Clock:
    """CPU seconds of this process, into which the machine's other work does not enter; where there
    is a GPU, which they leave out, seconds of the wall.
    """
    import torch

    return time.perf_counter if torch.cuda.is_available() else time.process_time


def timed_steps(
    step: Callable[[list[Any]], Any],
    batches: Iterator[Any],
    steps: int,
    clock: Clock = time.perf_counter,
) -> Callable[[], float]:
    """A function that takes `steps` steps and returns the seconds of one; warmed up. Drawing the
    batches is not timed.
    """

    def run() -> float:
        drawn = [[next(batches)] for _ in range(steps)]
        began = clock()
        for batch in drawn:
            step(batch)
        return (clock() - began) / steps

    run()
    return run


def loop_steps(
    system: System,
    changes: Mapping[str, Any],
    directory: Path,
    steps: int,
    clock: Clock = time.perf_counter,
) -> Callable[[], float]:
    """Steps of the one loop."""
    settings, prepared = prepared_settings(system, changes)
    training = Training(system, settings, LocalRun(directory), prepared)
    batches = batches_of(system, settings, prepared)
    return timed_steps(training.one_step, batches, steps, clock)


def validations(
    system: System, changes: Mapping[str, Any], directory: Path
) -> Callable[[], float]:
    """A function that validates and returns the seconds of it; warmed up."""
    settings, prepared = prepared_settings(system, changes)
    training = Training(system, settings, LocalRun(directory), prepared)

    def run() -> float:
        began = time.perf_counter()
        training.validate()
        return time.perf_counter() - began

    run()
    return run


def in_turn(sides: Mapping[str, Callable[[], float]], blocks: int) -> dict[str, list[float]]:
    """The seconds of every block of each side; they take turns, and the first one changes, so that
    whatever else the machine does meets both.
    """
    times: dict[str, list[float]] = {side: [] for side in sides}
    for order in _orders(tuple(sides), blocks):
        for side in order:
            times[side].append(sides[side]())
    return times


def _orders(sides: tuple[str, ...], blocks: int) -> Iterator[tuple[str, ...]]:
    for block in range(blocks):
        yield sides if block % 2 == 0 else sides[::-1]
