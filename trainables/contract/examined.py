"""A system made ready to be examined: its short settings, data, modules and batches."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from losses.terms import Tensors
from metrics.metric import Column, Metric
from settings.flat import leaves, replace
from trainables.examination import examined_columns
from trainables.parts import Loaders, Phase
from trainables.stepping.devices import seed_torch
from trainables.stepping.inputs import batch_of, in_training
from trainables.stepping.train_settings import SystemSettings
from trainables.system import System

SHORT: Mapping[str, Any] = {
    "train.steps": 4,
    "train.report_every": 2,
    "train.tensorboard": False,
    "train.figures": False,
}
"""A training of two reports."""

SAMPLES = 4
"""In a batch that is looked at: two halves of more than one sample."""

_LOOKED_AT = 16
"""Validation samples among which those of one shape are looked for."""

_NUDGE = 0.02
_FORWARD_SEED = 5


@dataclass
class Examined:
    """A system with the settings under which it is looked at.

    Attributes:
        cache: a folder for what `prepare` makes.
        changes: settings above the system's `small` and `SHORT`.
    """

    system: System
    cache: Path = field(repr=False)
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.system.name

    @cached_property
    def settings(self) -> SystemSettings:
        values = {**short_of(self.system), **self.changes}
        return replace(self.system.Settings(), values)

    @cached_property
    def prepared(self) -> Any:
        return self.system.prepare(self.settings, self.cache)

    @cached_property
    def loaders(self) -> Loaders:
        return self.system.loaders(self.settings, self.prepared)

    @cached_property
    def declared(self) -> list[Phase]:
        """The phases as they are known without data."""
        return list(self.system.phases(self.settings, None))

    @cached_property
    def measures(self) -> tuple[Metric | Column, ...]:
        """The metrics and the columns of the examinations, as they are known without data."""
        metrics = self.system.metrics(self.settings, None)
        columns = examined_columns(self.system.examinations(self.settings, None), metrics)
        return (*metrics, *columns)

    def nodes(self) -> Iterator[tuple[Phase, str, str]]:
        """Every term: its phase, its name, its settings node (`loss.l1`)."""
        for phase in self.declared:
            for name in phase.composite.terms:
                yield phase, name, f"{phase.composite.prefix}.{name}"

    @cached_property
    def audited(self) -> SystemSettings:
        """The settings with every term on, and with something to do for each."""
        switches = {f"{node}.enabled": True for _, _, node in self.nodes()}
        return replace(self.settings, {**self.system.audit, **switches})

    def modules(self, settings: SystemSettings, seed: int = 0) -> dict[str, nn.Module]:
        """The modules a little off their start, where a residual or a score may be exactly 0. Each
        seed gives another state, as the trials of a sweep have.
        """
        prepared = self.prepared  # made on first use, with random numbers of its own
        seed_torch(seed, torch.cuda.is_available())
        built = self.system.build(settings, prepared)
        if built.ready is not None:
            built.ready(built.modules)
        with torch.no_grad():
            for module in built.modules.values():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.add_(_NUDGE * torch.randn_like(parameter))
        return built.modules

    def with_averages(
        self, settings: SystemSettings, modules: Mapping[str, nn.Module]
    ) -> dict[str, nn.Module]:
        """The modules as a forward finds them: with their moving averages, where there are some,
        beside them (`ema.<name>`, in eval mode).
        """
        if settings.train.ema_decay == 0.0:
            return dict(modules)
        averages = {f"ema.{name}": copy.deepcopy(module) for name, module in modules.items()}
        for average in averages.values():
            average.eval().requires_grad_(False)
        return {**modules, **averages}

    def has_the_network(self, settings: SystemSettings) -> bool:
        """Whether these settings build the same network as `settings`: modules of the same
        classes, for as many dimensions. Under the settings of another network a prediction means
        something else.
        """
        built = (self.system.build(tree, self.prepared) for tree in (self.settings, settings))
        network, asked = (
            {k: (type(m), {p.ndim for p in m.parameters()}) for k, m in b.modules.items()}
            for b in built
        )
        return network == asked

    def batch(self, settings: SystemSettings, validation: bool = False) -> dict[str, Tensor]:
        """The first `SAMPLES` samples."""
        loaders = self.system.loaders(settings, self.prepared)
        if validation:
            alike = alike_in_shape(loaders)
            return batch_of(
                loaders, "validation", [alike[i % len(alike)] for i in range(SAMPLES)]
            )
        indices = first(loaders, SAMPLES)
        return batch_of(loaders, "train", [(index, i) for i, index in enumerate(indices)])

    def predictions(
        self, settings: SystemSettings, modules: Mapping[str, nn.Module]
    ) -> Iterator[tuple[Phase, dict[str, Tensor], dict[str, Tensor]]]:
        """Phase, prediction and batch, phase after phase as in a step: the tensors that the system
        gives for its audit, or else the first training batch and the modules' forward.
        """
        audited = self.system.audit_tensors(settings, self.prepared)
        batch, modules = self.batch(settings), self.with_averages(settings, modules)
        for phase in self.system.phases(settings, self.prepared):
            if phase.name in audited:
                prediction, batch = map(dict, audited[phase.name])
            else:
                steps = settings.train.steps
                batch = in_training(phase, settings.train.seed, steps, steps)(batch)
                prediction = forward(phase, modules, batch, settings)
            yield phase, prediction, batch
            batch = {**batch, **phase.shared_outputs(prediction)}


def first(loaders: Loaders, count: int) -> list[int]:
    """The first training samples; where they have an order of their own, a micro-batch in it: not
    all samples need to fit into one.
    """
    data: Any = loaders.train
    if loaders.order is None:
        return [i % len(data) for i in range(count)]
    index = loaders.order(len(data), count)
    return [index(0, position) for position in range(count)]


def alike_in_shape(loaders: Loaders) -> list[int]:
    """Of the first validation samples those that fit into a batch with the very first: all of them
    where the system makes its batches itself (`Loaders.collate`).
    """
    fixed: Any = loaders.validation
    seen = range(min(_LOOKED_AT, len(fixed)))
    if loaders.collate is not None:
        return list(seen)
    shapes = [{key: np.shape(value) for key, value in fixed[index].items()} for index in seen]
    return [index for index in seen if shapes[index] == shapes[0]]


def fit_together(loaders: Loaders) -> bool:
    """Whether the first validation samples fit into one batch."""
    fixed: Any = loaders.validation
    return len(alike_in_shape(loaders)) == min(_LOOKED_AT, len(fixed))


def short_of(system: System) -> dict[str, Any]:
    """The system's small settings, for a training of two reports."""
    keys = leaves(system.Settings)  # a tree without `train` is a fault that a rule names
    return {**{key: value for key, value in SHORT.items() if key in keys}, **system.small}


def forward(
    phase: Phase, modules: Mapping[str, nn.Module], batch: Tensors, settings: SystemSettings
) -> dict[str, Tensor]:
    """A phase's prediction; dropout and noise draw the same numbers in every call."""
    seed_torch(_FORWARD_SEED, torch.cuda.is_available())
    prediction = phase.forward(modules, batch, settings)
    if not isinstance(prediction, Mapping):
        raise TypeError(
            f"the forward of phase {phase.name} returns a {type(prediction).__name__}, and the "
            "terms read named tensors: return a dict"
        )
    return dict(prediction)


def seed_everything(seed: int) -> None:
    """Seeds the global generators, which neither a sample nor a term may draw from."""
    seed_torch(seed, torch.cuda.is_available())
    np.random.seed(seed)
    random.seed(seed)


def same(one: Tensors, other: Tensors) -> bool:
    """Whether two sets of named tensors are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def cloned(tensors: Tensors) -> dict[str, Tensor]:
    """Copies without a gradient."""
    return {key: value.detach().clone() for key, value in tensors.items()}
