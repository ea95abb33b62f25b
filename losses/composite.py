"""A loss as named terms: a Composite weights them, sums them for the gradient, and reports each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from losses.balancers.base import Balancer, FixedWeights
from losses.balancers.settings import BalancerSettings, make_balancer
from losses.schedules import last_change_step, schedule_factor
from losses.terms import RESERVED_NAMES, Tensors, Term, TermSettings
from settings.schema import Settings, SettingsError


@dataclass(frozen=True)
class Weighed:
    """One micro-batch: the scalar to back-propagate, each active term's plain sum (detached), and
    its share of the total, with the graph.
    """

    total: Tensor
    sums: dict[str, Tensor]
    shares: dict[str, Tensor] = field(default_factory=dict)


class Composite:
    """The terms of one phase with their weights.

    Args:
        terms: name -> term, in the order of the columns.
        settings: the node with one `TermSettings` per term, by the same names.
        prefix: the settings key of that node, which is also the prefix of the columns (`loss`,
            `critic`).
        balancer: computes the weights; None takes the one that the settings' node `balancer` asks
            for, or fixed weights where there is no such node.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        settings: Settings,
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
        self.balancer: Balancer = balancer or self._make_balancer()

    def _make_balancer(self) -> Balancer:
        node = getattr(self.settings, "balancer", None)
        if not isinstance(node, BalancerSettings):
            return FixedWeights()
        on = {name: term for name, term in self.terms.items() if self._is_on(name)}
        weights = {name: float(getattr(self.settings, name).weight) for name in on}
        try:
            return make_balancer(node, on, weights, self.terms)
        except SettingsError as error:
            raise SettingsError(f"{self.prefix}.{error}") from error

    def _is_on(self, name: str) -> bool:
        term: TermSettings = getattr(self.settings, name)
        return term.is_on

    def weights(self, step: int, steps: int) -> dict[str, float]:
        """The weight of every term as applied at `step` of `steps`; 0 for a term that is off."""
        weighted = getattr(self.balancer, "keeps_weight_of", self.terms)
        base = {}
        for name in self.terms:
            term: TermSettings = getattr(self.settings, name)
            weight = term.weight if name in weighted else 1.0
            factor = schedule_factor(term.schedule, step, steps)
            base[name] = weight * factor if self._is_on(name) else 0.0
        return self.balancer.weights(base, step)

    def last_change_steps(self, steps: int) -> dict[str, int]:
        """For each term that is on, the step of `steps` from which its schedule changes no more.
        What a balancer does is no schedule: it has no end.
        """
        on = {name: getattr(self.settings, name) for name in self.terms if self._is_on(name)}
        return {name: last_change_step(term.schedule, steps) for name, term in on.items()}

    def counts(
        self, batch: Tensors, settings: object, names: Iterable[str] | None = None
    ) -> Tensor:
        """The count on a batch of each of these terms (of all where None, in the order of
        `terms`), float64 [terms]; on the device of those that are not on the CPU.
        """
        chosen = self.terms.values() if names is None else [self.terms[name] for name in names]
        values = [torch.as_tensor(term.count(batch, settings)) for term in chosen]
        device = next((v.device for v in values if v.device.type != "cpu"), torch.device("cpu"))
        return torch.stack([value.detach().to(device, torch.float64) for value in values])

    def weigh(
        self,
        prediction: Tensors,
        batch: Tensors,
        settings: object,
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
        shares: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            if weights[name] == 0.0 or denominators[name] == 0.0:
                continue
            value = term.sum(prediction, batch, settings)
            sums[name] = value.detach()
            shares[name] = value * (weights[name] / denominators[name])
            total = shares[name] if total is None else total + shares[name]
        if total is None:
            total = sum((value.sum() * 0.0 for value in prediction.values()), torch.zeros(()))
        return Weighed(total=total, sums=sums, shares=shares)

    def idle(self, read: Collection[str]) -> frozenset[str]:
        """The terms that are off and whose column `val.<prefix>.<term>` is not among those."""
        off = [name for name in self.terms if not self._is_on(name)]
        return frozenset(name for name in off if f"val.{self.prefix}.{name}" not in read)

    @torch.no_grad()
    def measure(
        self,
        prediction: Tensors,
        batch: Tensors,
        settings: object,
        idle: Collection[str] = (),
    ) -> tuple[Tensor, Tensor]:
        """(sums, counts) of every term, active or not, float64 [terms] each: for validation.

        Args:
            idle: terms that are not asked: sum and count are 0.
        """
        asked = [(at, name) for at, name in enumerate(self.terms) if name not in idle]
        sums = [self.terms[name].sum(prediction, batch, settings).double() for _, name in asked]
        device = next(iter(prediction.values())).device
        measured = torch.zeros(2, len(self.terms), dtype=torch.float64, device=device)
        if asked:
            places = [at for at, _ in asked]
            counts = self.counts(batch, settings, [name for _, name in asked])
            measured[0, places] = torch.stack(sums).to(device)
            measured[1, places] = counts.to(device)
        return measured[0], measured[1]
