"""Steps whose loss or gradient is not finite: what is said of them, and when they end a training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from losses.terms import Tensors
from trainables.parts import Phase
from trainables.stepping.train_settings import SystemSettings


class NonFiniteError(RuntimeError):
    """A loss term or gradient that is not finite; raised before the update was applied, or above
    `train.finite_check_every=1` before it was reported or stored.
    """


def spread_overflow(
    accelerator: Accelerator, parameters: Sequence[nn.Parameter], total: Tensor
) -> None:
    """Makes an infinite loss show in the gradient of every rank, whose norm is then the one thing
    to look at (a term may be infinite on one rank, or with a finite gradient).
    """
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total, reduction="sum")
    first = next((p.grad for p in parameters if p.grad is not None), None)
    if first is not None:
        first.add_(torch.where(torch.isfinite(total), 0.0, math.inf))


class Unseen:
    """The norms of gradients that were applied before anybody looked at them
    (`train.finite_check_every` above 1). They stay on the device until then.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, str, Tensor]] = []

    def add(self, step: int, phase: str, norm: Tensor) -> None:
        """Takes in the norm of a phase's gradient; steps come in their order."""
        self._waiting.append((step, phase, norm))

    def look(self, more: Sequence[Tensor] = ()) -> list[list[float]]:
        """The values of the tensors of `more`, by the one transfer from the device that also
        brings the norms that wait, equal on every rank.

        Raises:
            NonFiniteError: one of those norms is not finite.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting and not more:
            return []
        values = fetched([*more, *(norm for _, _, norm in waiting)])
        for (step, phase, _), (norm,) in zip(waiting, values[len(more) :], strict=True):
            if not math.isfinite(norm):
                raise NonFiniteError(
                    f"step {step}, phase {phase}: loss or gradient is not finite. Updates were "
                    "applied from this step on, for train.finite_check_every above 1 looks at it "
                    "later; none of them was reported or stored. Resume with "
                    "train.finite_check_every=1 to be told the term; lower optimizer.lr, or set "
                    "train.clip_norm."
                )
        return values[: len(more)]


def fetched(tensors: Sequence[Tensor]) -> list[list[float]]:
    """The values of each tensor, by one transfer from the device: one wait of the host."""
    flat = [tensor.double().flatten() for tensor in tensors]
    values = iter((flat[0] if len(flat) == 1 else torch.cat(flat)).tolist())
    return [[next(values) for _ in range(len(part))] for part in flat]


class Overflows:
    """Counts the steps in a row that overflowed under a gradient scaler.

    Args:
        limit: of the steps in a row at which a training ends (`train.max_skipped_steps`).
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.in_a_row = limit, 0

    def note(self, step: int, is_overflow: bool) -> None:
        """Counts a step."""
        self.in_a_row = self.in_a_row + 1 if is_overflow else 0
        if is_overflow and self.in_a_row >= self.limit:
            raise NonFiniteError(
                f"step {step}: {self.limit} fp16 steps in a row overflowed "
                f"(train.max_skipped_steps={self.limit}). Use train.precision=bf16, or lower "
                "optimizer.lr."
            )


class Diagnosis:
    """Runs a step that is not finite again, to tell which term broke it.

    Args:
        modules: without wrappers.
        parameters: all that the phase updates.
    """

    def __init__(
        self,
        phase: Phase,
        accelerator: Accelerator,
        modules: Mapping[str, nn.Module],
        parameters: Sequence[nn.Parameter],
        settings: SystemSettings,
    ) -> None:
        self.phase, self.accelerator, self.modules = phase, accelerator, modules
        self.parameters, self.settings = parameters, settings

    def explain(
        self,
        batches: Iterable[Tensors],
        weights: Mapping[str, float],
        counts: Mapping[str, float],
        step: int,
    ) -> str:
        """The error's text, equal on every rank: the culprit may be on one rank only."""
        culprit = self._culprit(batches, weights, counts)
        if self.accelerator.num_processes > 1:
            culprit = next(filter(None, gather_object([culprit])), "")
        is_aside = getattr(self.settings, self.phase.optimizer).sam.radius > 0.0
        hidden = f", or is aside of the weights ({self.phase.optimizer}.sam)" if is_aside else ""
        return (
            f"step {step}, phase {self.phase.name}: loss or gradient is not finite: "
            f"{culprit or f'it did not show again term by term{hidden}'}. The update was not "
            "applied. Lower optimizer.lr, set train.clip_norm, or switch the term off "
            "(enabled=false)."
        )

    def _culprit(
        self, batches: Iterable[Tensors], weights: Mapping[str, float], counts: Mapping[str, float]
    ) -> str:
        """Looks at this rank's step term by term; "" where nothing shows."""
        model, forward = "", self.phase.forward_for(weights)
        for batch in batches:
            with self.accelerator.autocast():
                prediction = forward(self.modules, batch, self.settings)
            broken = [
                name for name, value in prediction.items() if not bool(torch.isfinite(value).all())
            ]
            if broken:
                model = f"the model's own output {', '.join(broken)} is not finite"
            for name, term in self.phase.composite.terms.items():
                if weights[name] == 0.0 or counts[name] == 0.0:
                    continue
                part = self._broken_part(term.sum(prediction, batch, self.settings))
                if part:
                    cause = f" ({model})" if model else ""
                    prefix = self.phase.composite.prefix
                    return f"{part} of term {prefix}.{name} is not finite{cause}"
        return model

    def _broken_part(self, value: Tensor) -> str:
        """What of a term is not finite, its value or its gradient; "" where both are."""
        if not bool(torch.isfinite(value)):
            return "the value"
        if not value.requires_grad:
            return ""
        gradients = torch.autograd.grad(
            value, self.parameters, retain_graph=True, allow_unused=True
        )
        finite = all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)
        return "" if finite else "the gradient"
