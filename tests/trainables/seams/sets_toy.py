"""Toys with a term that compares the samples of a batch with each other (`Term.splits`)."""

from __future__ import annotations

import torch

from trainables import toy
from trainables.api import Composite, Phase, Term

WHY = "it sorts them"
READS = ("train.validation_batch_size",)


def transport(prediction, batch, settings):
    """Squared Wasserstein distance of the predicted to the given y of a batch, times its size."""
    y, given = prediction["y"].float().sort(dim=0).values, batch["y"].sort(dim=0).values
    return (y - given).square().sum()


def transport_alone(prediction, batch, settings):
    return transport(prediction, batch, settings) / len(batch["y"])


def in_this_order(prediction, batch, settings):
    """The step from a sample to the one before it."""
    y = prediction["y"].float()
    return (y - y.roll(1, dims=0) - 3.0).square().sum()


class Sets(toy.Toy):
    """The toy whose second term is a distance of sets."""

    name = "tests:Sets"
    term = Term(transport, toy.count_samples, constant_count=True, splits=WHY, reads=READS)

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        terms = {**phase.composite.terms, "absolute": self.term}
        return [Phase("model", ("model",), phase.forward, Composite(terms, settings.loss))]


class Silent(Sets):
    term = Term(transport, toy.count_samples)


class Unread(Sets):
    term = Term(transport, toy.count_samples, splits=WHY)


class Mean(Sets):
    term = Term(transport_alone, toy.count_samples, splits=WHY, reads=READS)


class Ordered(Sets):
    term = Term(in_this_order, toy.count_samples, splits=WHY, reads=READS)


class NoSet(Sets):
    term = Term(toy.absolute, toy.count_samples, splits=WHY, reads=READS)


def share(batch, settings):
    return torch.tensor(1.0)


class Share(Sets):
    term = Term(transport, share, splits=WHY, reads=READS)
