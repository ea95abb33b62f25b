"""What a step divides the sums of its terms by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator

from losses.terms import Tensors
from trainables.parts import Phase
from trainables.stepping.train_settings import SystemSettings


class GlobalCounts:
    """The counts of a phase's terms over all micro-batches and ranks.

    They are made of batches that have not gone to the device, for a number that comes from there
    makes the host wait for all that it has been given to do. Ranks add up a count that its term
    declares constant (`Term.constant_count`) once in a training.
    """

    def __init__(self, phase: Phase, accelerator: Accelerator, settings: SystemSettings) -> None:
        self.phase, self.accelerator, self.settings = phase, accelerator, settings
        self._own: dict[str, float] = {}
        self._agreed: dict[str, float] = {}

    def of(self, batches: Sequence[Tensors], weights: Mapping[str, float]) -> dict[str, float]:
        """The count of each term that has a weight, from this rank's micro-batches; all ranks
        call it.

        Raises:
            ValueError: a count that was declared constant is another one than at its first step.
        """
        composite = self.phase.composite
        names = [name for name in composite.terms if weights[name] != 0.0]
        if not names:
            return {}
        each = [composite.counts(batch, self.settings, names) for batch in batches]
        total = each[0] if len(each) == 1 else torch.stack(each).sum(dim=0)
        counts = dict(zip(names, total.tolist(), strict=True))
        return counts if self.accelerator.num_processes == 1 else self._over_ranks(counts)

    def _over_ranks(self, own: Mapping[str, float]) -> dict[str, float]:
        """The counts of all ranks together; every rank leaves out the same ones."""
        for name, count in own.items():
            if self._own.get(name, count) != count:
                raise ValueError(
                    f"term {self.phase.composite.prefix}.{name} has constant_count=True and "
                    f"counts {count:g} on this step's batches, {self._own[name]:g} on the first "
                    "ones. Leave constant_count out where samples differ in what they count."
                )
        open_ = [name for name in own if name not in self._agreed]
        totals: dict[str, float] = {}
        if open_:
            values = torch.tensor([own[name] for name in open_], dtype=torch.float64)
            values = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
            totals = dict(zip(open_, values.tolist(), strict=True))
        for name in open_:
            if self.phase.composite.terms[name].constant_count:
                self._own[name], self._agreed[name] = own[name], totals[name]
        return {name: self._agreed.get(name, totals.get(name, 0.0)) for name in own}
