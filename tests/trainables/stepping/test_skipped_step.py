"""A step that a gradient scaler skips, on the CPU: the scaler is a stand-in, all else is the
loop's own. test_loop_gpu.py has the real one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.not_finite import spread_overflow
from trainables.toy import ToyGan


class Scaled:
    """An accelerator that says it has a gradient scaler."""

    scaler = object()

    def __init__(self, accelerator):
        self.accelerator = accelerator

    def __getattr__(self, name):
        return getattr(self.accelerator, name)


class HandsOn(ToyGan):
    def phases(self, settings, prepared):
        first, critic = super().phases(settings, prepared)
        return [replace(first, shares_outputs=("y",)), critic]


def test_it_leaves_nothing_frozen_and_still_hands_on(toys, tmp_path):
    training = Training(HandsOn(), toys.settings(ToyGan), LocalRun(tmp_path), None)
    update = training.updates[0]
    update.accelerator = Scaled(update.accelerator)
    update.optimizer.step = lambda: None  # what a scaler does with an overflow
    sample = training.loaders.train[(0, 1)]
    batch = {name: torch.stack([value, value]) for name, value in sample.items()}
    batch["y"] = torch.full_like(batch["y"], math.inf)
    (shared,) = update([batch], 0)
    assert list(shared) == ["model.y"]
    assert (update.interval.skipped, update.overflows.in_a_row) == (1, 1)
    parameters = [p for module in training.modules.values() for p in module.parameters()]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize("total", [math.inf, math.nan, 1.0])
def test_an_infinite_loss_with_a_finite_gradient_shows_in_the_gradient(total):
    first, second = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    second.grad = torch.ones(2)
    spread_overflow(SimpleNamespace(num_processes=1), [first, second], torch.tensor(total))
    assert first.grad is None
    assert torch.equal(second.grad, torch.ones(2)) == math.isfinite(total)
    assert bool(torch.isfinite(second.grad).all()) == math.isfinite(total)
