"""A module that moves by what it has seen, through a step of two phases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.gathered import GathersOverUpdate
from trainables.parts import Built
from trainables.toy import ToyGan


class Counting(GathersOverUpdate):
    """A line that counts the samples of its updates, and the updates."""

    def __init__(self):
        super().__init__()
        self.linear, self.pending = nn.Linear(1, 1), 0
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

    def forward(self, x):
        if self.training and self.is_heard:
            self.pending += len(x)
        return self.linear(x)

    def take_in(self):
        self.seen += torch.tensor([self.pending, 1])
        self.pending = 0

    def forget(self):
        self.pending = 0


class Counted(ToyGan):
    """Its critic looks at the model's output for itself."""

    name = "tests:Counted"
    ignores_updates = False

    def build(self, settings, prepared):
        return Built({**super().build(settings, prepared).modules, "model": Counting()})

    def phases(self, settings, prepared):
        model, critic = super().phases(settings, prepared)
        return [model, replace(critic, ignores_updates=self.ignores_updates)]


@pytest.mark.parametrize("radius", [0.0, 0.1])
@pytest.mark.parametrize("ignores_updates", [False, True])
def test_it_gathers_once_in_the_forwards_of_its_own_phase_alone(
    toys, tmp_path, ignores_updates, radius
):
    """The second pass of SAM has the samples of the first."""
    system = Counted()
    system.ignores_updates = ignores_updates
    cut = {"train__batch_size": 4, "train__accumulate": 2, "optimizer__sam__radius": radius}
    toys.train(system, tmp_path, stop=4, **cut)
    tensors = toys.train(system, tmp_path, resume=True, **cut).tensors
    assert tensors["module.model.seen"].tolist() == [12 * 8, 12]
