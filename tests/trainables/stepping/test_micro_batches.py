"""What goes to the device, and when."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.micro_batches import MicroBatches

CPU = torch.device("cpu")


class Moves(TorchFunctionMode):
    """Writes down each tensor that goes to the device, by its size."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and "non_blocking" in (kwargs or {}):
            self.events.append(len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["Toy", "ToyGan"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_micro_batches_go_to_the_device_one_by_one(toys, tmp_path, name, accumulate):
    """x and y before the forward that reads them; a single batch stays for the second phase."""
    system = getattr(toys, name)()
    tree = toys.settings(system, train__accumulate=accumulate)
    training, events = Training(system, tree, LocalRun(tmp_path), None), []
    for update in training.updates:
        forward = update.phase.forward
        update.phase = replace(
            update.phase,
            forward=lambda *given, forward=forward: events.append("forward") or forward(*given),
        )
    sizes = [2, 5, 7][:accumulate]
    with Moves(events):
        training.one_step([{"x": torch.rand(n, 1), "y": torch.rand(n, 1)} for n in sizes])
    once = [event for n in sizes for event in (n, n, "forward")]
    later = {1: ["forward"], 3: once}[accumulate]
    assert events == once + (later if name == "ToyGan" else [])


def test_one_gives_way_to_the_next():
    batches = MicroBatches([{"x": torch.rand(2, 3, 2, 2)} for _ in range(2)], CPU, True)
    iterator = iter(batches)
    first = weakref.ref(next(iterator)["x"])
    assert first() is not None
    next(iterator)
    assert first() is None


def test_what_is_shared_is_beside_what_the_loader_made():
    host = [{"x": torch.rand(2, 1)} for _ in range(2)]
    batches = MicroBatches(host, CPU)
    shared = [{"model.y": torch.full((2, 1), float(index))} for index in range(2)]
    batches.share(shared)
    assert len(batches) == 2
    for found in (batches.host, list(batches)):
        for batch, given, more in zip(found, host, shared, strict=True):
            assert list(batch) == ["x", "model.y"]
            assert batch["x"] is given["x"] and batch["model.y"] is more["model.y"]
    assert list(host[0]) == ["x"], "the loader's own batch is left alone"
