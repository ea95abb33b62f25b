"""A Composite keeps a loss as named terms: it weighs them, sums them for the gradient, and loses
none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from losses.schedules import schedule_factor
from losses.terms import RESERVED_NAMES, Tensors, Term, TermSettings
from settings.schema import SettingsError


class Balancer(Protocol):
    """Another way to make the weights: it may look at the terms of earlier steps."""

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        """The weights to apply at `step`, given those of the settings and schedules."""
        ...

    def observe(self, terms: Mapping[str, float], step: int) -> None:
        """Global means of the measured terms over the steps since the last report, at `step`.

        Called once a report, on every rank alike; `weights` is called once a step.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class FixedWeights:
    """The weights as the settings and schedules give them."""

    def weights(self, base: Mapping[str, float], step: int) -> dict[str, float]:
        return dict(base)

    def observe(self, terms: Mapping[str, float], step: int) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class Weighed:
    """One micro-batch: the scalar to back-propagate, and each active term's plain sum
    (detached).
    """

    total: Tensor
    sums: dict[str, Tensor]


class Composite:
    """The terms of one phase with their weights.

    Args:
        terms: name -> term, in the order of the columns.
        settings: the node with one `TermSettings` a term, by the same names.
        prefix: the settings key of that node, which is also the prefix of the columns (`loss`,
            `critic`).
        balancer: makes the weights from the settings' ones; fixed where None.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        settings: Any,
        prefix: str = "loss",
        balancer: Balancer | None = None,
    ) -> None:
        for name in terms:
            if name in RESERVED_NAMES or "." in name:
                raise SettingsError(
                    f"a term must not be called {name!r}: the columns use that name."
                )
            if not isinstance(getattr(settings, name, None), TermSettings):
                raise SettingsError(f"term {name!r} has no settings node {prefix}.{name}.")
        self.terms = dict(terms)
        self.settings = settings
        self.prefix = prefix
        self.balancer: Balancer = balancer or FixedWeights()

    def weights(self, step: int, steps: int) -> dict[str, float]:
        """The weight of every term as applied at `step` of `steps`; 0 for a term that is off."""
        base = {}
        for name in self.terms:
            term: TermSettings = getattr(self.settings, name)
            factor = schedule_factor(term.schedule, step, steps)
            base[name] = term.weight * factor if term.enabled else 0.0
        return self.balancer.weights(base, step)

    def counts(self, batch: Tensors, settings: Any) -> Tensor:
        """Every term's count on a batch, float64 [terms], in the order of `terms`."""
        values = [torch.as_tensor(term.count(batch, settings)) for term in self.terms.values()]
        return torch.stack([value.detach().double() for value in values])

    def weigh(
        self,
        prediction: Tensors,
        batch: Tensors,
        settings: Any,
        weights: Mapping[str, float],
        denominators: Mapping[str, float],
    ) -> Weighed:
        """Sum over the terms of `weight * sum / denominator`; a term of weight or denominator 0
        is skipped.

        Args:
            denominators: the global count of each term over all micro-batches and ranks, divided
                by the number of ranks where gradients are averaged over them.
        """
        total: Tensor | None = None
        sums: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            if weights[name] == 0.0 or denominators[name] == 0.0:
                continue
            value = term.sum(prediction, batch, settings)
            sums[name] = value.detach()
            share = value * (weights[name] / denominators[name])
            total = share if total is None else total + share
        if total is None:
            total = sum((value.sum() * 0.0 for value in prediction.values()), torch.zeros(()))
        return Weighed(total=total, sums=sums)

    @torch.no_grad()
    def measure(self, prediction: Tensors, batch: Tensors, settings: Any) -> tuple[Tensor, Tensor]:
        """(sums, counts) of every term, active or not, float64 [terms] each: for validation."""
        sums = [term.sum(prediction, batch, settings).double() for term in self.terms.values()]
        return torch.stack(sums), self.counts(batch, settings)
