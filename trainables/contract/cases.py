"""A loss term with tensors to look at it, for the rules of terms.

`raw` [B, n] are the numbers that the prediction of B samples is made of.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from losses.terms import Tensors, Term
from settings.schema import Settings
from trainables.contract.examined import Examined, cloned, forward
from trainables.parts import Phase
from trainables.stepping.train_settings import SystemSettings

_TOLERANCE = 2e-5, 1e-5
"""Relative and absolute, of sums that are added in another order."""


@dataclass(frozen=True)
class TermCase:
    """A term with tensors to look at it.

    Attributes:
        node: its settings node, such as `loss.l1`; "" where the tree has none.
        settings: the system's tree, with the term on.
        predict: `predict(batch, settings, raw) -> prediction`.
        others: further `raw`, at which the term must keep its lower bound.
        under: the term that other settings make, where terms are made from settings.
        compares: whether the prediction means the same under other settings.
    """

    name: str
    node: str
    term: Term
    settings: SystemSettings
    batch: Tensors
    raw: Tensor
    predict: Callable[[Tensors, Any, Tensor], Tensors]
    others: tuple[Tensor, ...] = ()
    under: Callable[[Any], Term] | None = None
    compares: Callable[[Any], bool] = lambda settings: True

    @property
    def subject(self) -> str:
        return f"term {self.name}"

    def prediction(self, raw: Tensor | None = None, settings: Settings | None = None) -> Tensors:
        tree = self.settings if settings is None else settings
        return self.predict(self.batch, tree, self.raw if raw is None else raw)

    def predictions(self, noises: Sequence[float]) -> Iterator[Tensors]:
        """The prediction with noise of these standard deviations: as it is, the best pairs of a
        set may be those of its samples.
        """
        generator = torch.Generator().manual_seed(1)
        for noise in noises:
            raw = self.raw.detach()
            yield self.prediction(raw + noise * torch.randn(raw.shape, generator=generator))

    def measured(self, prediction: Tensors, settings: Settings | None = None) -> list[float]:
        """Sum and count."""
        tree = self.settings if settings is None else settings
        term = self.term if self.under is None or settings is None else self.under(settings)
        with torch.no_grad():
            return [float(x) for x in term(prediction, self.batch, tree)]

    def of(self, samples: Sequence[int], prediction: Tensors) -> list[float]:
        """Sum and count over these samples of the batch and of its prediction."""
        at = list(samples)
        part = replace(self, batch={k: v[at] for k, v in self.batch.items()})
        return part.measured({k: v[at] for k, v in prediction.items()})

    def over_parts(self, edges: Sequence[int], prediction: Tensors) -> list[float]:
        """Sums and counts over the parts of the batch between these edges, added up."""
        parts = [self.of(range(*ends), prediction) for ends in pairwise(edges)]
        return [sum(values) for values in zip(*parts, strict=True)]


def is_near(value: float, reference: float) -> bool:
    """Whether two sums are equal but for the order in which they were added."""
    relative, absolute = _TOLERANCE
    return abs(value - reference) <= relative * abs(reference) + absolute


def term_cases(examined: Examined) -> Iterator[TermCase]:
    """Every term of a system, on what `Examined.predictions` gives."""
    settings = examined.audited
    modules = examined.modules(settings)
    for phase, prediction, batch in examined.predictions(settings, copy.deepcopy(modules)):
        predict = _Made(examined, phase.name, copy.deepcopy(modules), settings, cloned(prediction))
        for name, term in phase.composite.terms.items():
            node = f"{phase.composite.prefix}.{name}"
            yield TermCase(
                name=name,
                node=node,
                term=term,
                settings=settings,
                batch=batch,
                raw=predict.raw,
                predict=predict,
                under=functools.partial(predict.term, name),
                compares=examined.has_the_network,
            )


@dataclass(frozen=True)
class _Made:
    """The prediction of a phase, made of raw numbers, or under other settings by the phase's
    forward.
    """

    examined: Examined
    phase: str
    modules: Mapping[str, nn.Module]
    settings: SystemSettings
    prediction: Tensors

    @property
    def moving(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.prediction.items() if v.is_floating_point()}

    @property
    def raw(self) -> Tensor:
        return torch.cat([v.reshape(len(v), -1).float() for v in self.moving.values()], dim=1)

    def under(self, settings: SystemSettings) -> Phase:
        """The phase that other settings make."""
        phases = self.examined.system.phases(settings, self.examined.prepared)
        return next(phase for phase in phases if phase.name == self.phase)

    def term(self, name: str, settings: SystemSettings) -> Term:
        return self.under(settings).composite.terms[name]

    def __call__(self, batch: Tensors, settings: SystemSettings, raw: Tensor) -> Tensors:
        if settings is not self.settings:
            with torch.no_grad():
                modules = copy.deepcopy(self.modules)
                modules = self.examined.with_averages(settings, modules)
                return forward(self.under(settings), modules, batch, settings)
        sizes = [v[0].numel() for v in self.moving.values()]
        parts = zip(self.moving.items(), raw.split(sizes, dim=1), strict=True)
        return {**self.prediction, **{k: part.view_as(v).to(v.dtype) for (k, v), part in parts}}
