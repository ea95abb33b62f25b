"""What the balancer of a phase is shown of the steps at which it looks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from losses.balancers.base import Observed
from losses.balancers.components import Components, summed
from models.draws import hash63
from trainables.parts import Phase
from trainables.stepping.gradients import TermGradients


class Balancing:
    """Shows a balancer the same numbers on every rank, so that its weights are the same.

    Args:
        modules: without wrappers, for `Phase.shared`.
        parameters: all that the phase updates.
    """

    def __init__(
        self,
        phase: Phase,
        accelerator: Accelerator,
        modules: Mapping[str, nn.Module],
        parameters: Sequence[nn.Parameter],
    ) -> None:
        self.balancer, self.accelerator = phase.composite.balancer, accelerator
        self.components: Components | None = getattr(self.balancer, "components", None)
        by_gradients = self.balancer.needs == "gradients"
        self.shared = shared_by_terms(phase, modules, parameters) if by_gradients else []

    def gradients_at(self, step: int) -> TermGradients | None:
        """Collects the gradient of every term at this step (of none where the balancer compares
        no gradients); None where the balancer does not look at the step.
        """
        if self.balancer.needs == "nothing" or step % self.balancer.interval:
            return None
        return TermGradients(self.accelerator, self.shared)

    def measured(
        self,
        sums: Mapping[str, Tensor],
        gradients: TermGradients,
        weights: Mapping[str, float],
    ) -> list[Tensor]:
        """What `show` takes, still on the device: each active term's sum over all ranks, and the
        norms of the gradients of the components. Asked before the optimizer's step, by all ranks.

        Args:
            weights: of each term in this step, which its gradient has in it.
        """
        within = self._within(gradients.vectors, weights)
        norms = gradients.norms(None if within is None else list(within.values()))
        if not sums:
            return [norms, norms]
        values = torch.stack([value.float() for value in sums.values()])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="sum")
        return [values, norms]

    def show(
        self,
        totals: Mapping[str, float],
        counts: Mapping[str, float],
        norms: Iterable[float],
        terms: Collection[str],
        weights: Mapping[str, float],
        seed: int,
        step: int,
    ) -> None:
        """Shows the step: the loss of each component, and the norm of its gradient without the
        weight that it was given.

        Args:
            totals, counts: of each active term, over all ranks.
            norms: as `measured` gave them.
            terms: whose gradients were collected.
            weights: of each term in this step.
        """
        if not totals:
            return
        losses = {name: total / counts[name] for name, total in totals.items()}
        within = self._within(terms, weights)
        if self.components is None or within is None:
            of_terms = zip(terms, norms, strict=True)
            named = {name: norm / weights[name] for name, norm in of_terms}
        else:
            losses = summed(self.components, losses)
            named = dict(zip(within, norms, strict=True))
        # Under fp16 one term's gradient may overflow where the sum of all does not; one such norm
        # in a moving average would never leave it.
        if not all(map(math.isfinite, named.values())):
            return
        # The draw of a balancer; the batches use the streams 1 to 3 of the same seed.
        draw = hash63(seed, 4, step)
        self.balancer.observe(Observed(losses, named, draw), step)

    def _within(
        self, terms: Collection[str], weights: Mapping[str, float]
    ) -> dict[str, dict[str, float]] | None:
        """Component -> term -> what its gradient, which has the applied weight in it, is
        multiplied by; None where every term is one by itself.
        """
        if self.components is None:
            return None
        shares = {
            name: {term: w / weights[term] for term, w in within.items() if term in terms}
            for name, within in self.components.items()
        }
        return {name: within for name, within in shares.items() if within}


def shared_by_terms(
    phase: Phase, modules: Mapping[str, nn.Module], parameters: Sequence[nn.Parameter]
) -> Sequence[nn.Parameter]:
    """The parameters with respect to which the gradients of the terms are compared."""
    if phase.shared is None:
        return parameters
    shared, updated = list(phase.shared(modules)), {id(p) for p in parameters}
    if not shared or any(id(parameter) not in updated for parameter in shared):
        raise ValueError(
            f"phase {phase.name}: `shared` must name one or more trainable parameters of the "
            f"modules that the phase updates ({', '.join(phase.modules)})."
        )
    return shared
