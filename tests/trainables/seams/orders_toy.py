"""Toys whose training samples have an order of their own (`Loaders.order`)."""

from __future__ import annotations

import torch

from trainables.api import Loaders, grouped, stratified
from trainables.toy import Line, Toy


class Long(Line):
    """The line, whose training samples are one, two or three points long."""

    def length(self, index):
        return 1 + index % 3

    def __getitem__(self, key):
        sample = super().__getitem__(key)
        return {name: value.expand(self.length(key[0]), 1) for name, value in sample.items()}


class Grouped(Toy):
    """Samples of three lengths, which fit into no batch together."""

    name = "tests:Grouped"

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        train = Long(settings.data, 1, settings.data.samples)
        lengths = [train.length(index) for index in range(len(train))]
        return Loaders(train, loaders.validation, order=grouped(lengths))


class Ungrouped(Grouped):
    """The same samples in any order."""

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        return Loaders(loaders.train, loaders.validation)


class Stratified(Toy):
    """One sample left of the middle to three right of it."""

    name = "tests:Stratified"

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        sides = (loaders.train.x[:, 0] > 0.0).tolist()
        order = stratified(sides, {False: 1, True: 3})
        return Loaders(loaders.train, loaders.validation, order=order)


class Counting(Toy):
    """The order counts how often it was asked."""

    name = "tests:Counting"

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)

        def order(size, batch):
            asked = iter(range(1 << 30))
            return lambda seed, position: next(asked) % size

        return Loaders(loaders.train, loaders.validation, order=order)


class Beyond(Toy):
    """The order gives a sample that there is not, and one that is no whole number."""

    name = "tests:Beyond"
    strange = 64

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)

        def order(size, batch):
            return lambda seed, position: self.strange if position % 50 == 49 else 0

        return Loaders(loaders.train, loaders.validation, order=order)


class BeyondTensor(Beyond):
    strange = torch.tensor(3)
