"""A net with dropout, running statistics and two groups of parameters, for what is done to an
update.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from trainables.api import Built, OptimizerSettings, RateSettings, setting
from trainables.toy import Toy, ToySettings


@dataclass(frozen=True, kw_only=True)
class Rates(RateSettings):
    head: float = setting(1.0, "of the last layer", low=0.0, high=100.0)


@dataclass(frozen=True, kw_only=True)
class GroupedOptimizer(OptimizerSettings):
    rate: Rates = field(default_factory=Rates)


@dataclass(frozen=True, kw_only=True)
class GroupedSettings(ToySettings):
    optimizer: GroupedOptimizer = field(
        default_factory=lambda: GroupedOptimizer(lr=0.03, schedule="constant", weight_decay=0.1)
    )


class Net(nn.Module):
    def __init__(self, dropout, normed):
        super().__init__()
        self.first = nn.Linear(1, 8)
        self.norm = nn.BatchNorm1d(8) if normed else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.first(x)).tanh()))


class Grouped(Toy):
    """The head has a learning rate of its own."""

    name = "tests:Grouped"
    Settings = GroupedSettings
    normed = False
    patterns = ("model.head.*",)

    def build(self, settings, prepared):
        net = Net(settings.model.dropout, self.normed)
        return Built(modules={"model": net}, groups={"head": self.patterns})


class Normed(Grouped):
    """The same, with running statistics."""

    name = "tests:Normed"
    normed = True


class ShortNet(Net):
    def forward(self, x):
        return super().forward(x.to(self.first.weight.dtype)).float()


class Short(Grouped):
    """The same as `Grouped`, with weights in bf16."""

    name = "tests:Short"

    def build(self, settings, prepared):
        net = ShortNet(settings.model.dropout, self.normed).to(torch.bfloat16)
        return Built(modules={"model": net}, groups={"head": self.patterns})
