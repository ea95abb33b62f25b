"""Two answers from the graph of a step: how hard each term pulls, for balancers that compare
terms, and which parameters no term depends on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

_REMEMBERED = 64
"""Sets of idle parameters."""


class TermGradients:
    """The gradient of every term of one step with respect to some parameters, summed over the
    step's micro-batches.

    They come from the graph of the step itself, before its backward, and touch neither `.grad` nor
    the hooks of DDP, so the step's own gradient does not change. Each costs about one backward
    pass down to the parameters, and memory of their size.
    """

    def __init__(self, accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
        self.accelerator, self.parameters = accelerator, list(parameters)
        self.vectors: dict[str, Tensor] = {}

    def add(self, shares: Mapping[str, Tensor]) -> None:
        """Takes in a micro-batch: each term's weighted share of the total, before `backward` is
        called on it. Without parameters nothing is taken.
        """
        for name, share in shares.items() if self.parameters else ():
            vector = self._gradient(share)
            self.vectors[name] = self.vectors[name] + vector if name in self.vectors else vector

    def _gradient(self, share: Tensor) -> Tensor:
        """The gradient of a share, float32 [all values of the parameters]; 0 where it does not
        depend on one.
        """
        gradients: Sequence[Tensor | None] = [None] * len(self.parameters)
        if share.requires_grad:
            gradients = torch.autograd.grad(
                share,
                self.parameters,
                grad_outputs=self._scaled(torch.ones_like(share)),
                retain_graph=True,
                allow_unused=True,
            )
        parts = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(self.parameters, gradients, strict=True)
        ]
        return torch.cat([part.flatten().float() for part in parts])

    def _scaled(self, value: Tensor) -> Tensor:
        """As the step's own loss: under fp16 a gradient vanishes that was not scaled."""
        scaler = self.accelerator.scaler
        return value if scaler is None else scaler.scale(value)

    def norms(self, sums: Sequence[Mapping[str, float]] | None = None) -> Tensor:
        """The norm of the gradient of each term's share of the total, float64 [terms] in the order
        of `vectors`, on the device; or of each of these sums of them, [sums].

        Args:
            sums: term -> its factor.

        Equal on every rank: the gradients are averaged over the ranks, as DDP does it. To be asked
        before the optimizer's step, after which a gradient scaler may have another scale.
        """
        if not self.vectors:
            return torch.zeros(0, dtype=torch.float64, device=self.accelerator.device)
        stacked = self._stacked()
        if sums is not None:
            factors = [[of.get(name, 0.0) for name in self.vectors] for of in sums]
            stacked = torch.tensor(factors, dtype=stacked.dtype, device=stacked.device) @ stacked
        norms = _norms(stacked)
        return norms / self._scaled(torch.ones((), device=norms.device))

    def compared(self) -> dict[str, Tensor]:
        """Columns below the prefix of the terms, float64 on the device: `<term>.grad_norm`, the
        norm of the gradient of its share of the total, and `<term>.grad_cosine.<other>` of each
        pair. To be asked when `norms` is; equal on every rank.
        """
        if not self.vectors:
            return {}
        stacked, names = self._stacked(), list(self.vectors)
        norms = _norms(stacked)
        units = stacked / norms.clamp_min(torch.finfo(torch.float32).tiny).float()[:, None]
        cosines = (units @ units.T).double()
        norms = norms / self._scaled(torch.ones((), device=norms.device))
        columns = {f"{name}.grad_norm": norm for name, norm in zip(names, norms, strict=True)}
        for (i, name), (j, other) in combinations(enumerate(names), 2):
            columns[f"{name}.grad_cosine.{other}"] = cosines[i, j]
        return columns

    def _stacked(self) -> Tensor:
        """The gradients of the terms over all ranks, [terms, values of the parameters]."""
        stacked = torch.stack(list(self.vectors.values()))
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, reduction="mean")
        return stacked


def compared_columns(terms: Iterable[str]) -> list[str]:
    """The columns of `TermGradients.compared` where all of these terms are active."""
    names = list(terms)
    pairs = [f"{one}.grad_cosine.{other}" for one, other in combinations(names, 2)]
    return [*(f"{name}.grad_norm" for name in names), *pairs]


def _norms(stacked: Tensor) -> Tensor:
    # float64: the squares of a float32 gradient may overflow where it does not.
    return torch.linalg.vector_norm(stacked, dim=1, dtype=torch.float64)


class IdleParameters:
    """The parameters that none of a step's terms depends on: a head whose terms are off, or held
    at 0 by their schedules.

    DDP waits for a gradient of every parameter of a module and fails without one. Its own way out
    (`find_unused_parameters`) walks the graph in every step and complains on every rank where all
    are used, which no setting tells beforehand. Here the graph is walked once for each set of
    active terms, values of schedules and draw of an update (`Phase.draws_by_update`); idle
    parameters get a 0 for DDP and no gradient for the optimizer, which leaves them alone (weight
    decay too), as in a training by one process.

    Therefore a forward may depend on the settings, on the active terms, on the schedules and on
    what is drawn once for all samples of an update, not on the data.
    """

    def __init__(self, accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
        self.accelerator, self.parameters = accelerator, list(parameters)
        self.idle_of: dict[tuple[frozenset[str], Hashable], list[nn.Parameter]] = {}

    def of(self, total: Tensor, terms: Iterable[str], told: Hashable = ()) -> list[nn.Parameter]:
        """The idle parameters of a loss over these terms, equal on every rank; all ranks call it.

        Args:
            told: what else the forward may depend on (`inputs.Told`).
        """
        key = frozenset(terms), told
        if key not in self.idle_of:
            if len(self.idle_of) == _REMEMBERED:  # what moves or is drawn comes to none twice
                self.idle_of.clear()
            reached = leaves_below(total)
            used = torch.tensor([float(id(p) in reached) for p in self.parameters])
            used = self.accelerator.reduce(used.to(self.accelerator.device), reduction="sum")
            pairs = zip(self.parameters, used.tolist(), strict=True)
            self.idle_of[key] = [parameter for parameter, count in pairs if not count]
        return self.idle_of[key]


def leaves_below(total: Tensor) -> set[int]:
    """The ids of the tensors whose `.grad` a backward of `total` adds to."""
    leaves: set[int] = set()
    waiting: list[Any] = [total.grad_fn]
    visited: set[Any] = {None}
    while waiting:
        node = waiting.pop()
        if node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):  # only the node that adds to `.grad` has it
            leaves.add(id(node.variable))
        waiting.extend(before for before, _ in node.next_functions)
    return leaves
