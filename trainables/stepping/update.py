"""One optimizer update of one phase: counts, forward, backward through Accelerate, clip, the
finite check, step.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from losses.balancers.base import Observed
from losses.terms import Tensors
from trainables.stepping.batches import hash63
from trainables.stepping.gradients import IdleParameters, TermGradients
from trainables.stepping.optimizer import OptimizerSettings, learning_rate
from trainables.system import Phase


class NonFiniteError(RuntimeError):
    """A loss term or gradient that is not finite; raised before the update was applied."""


@dataclass
class Interval:
    """What a phase did since the last report: sums over steps, on the device until they are
    read. `weights` are those of the last step.
    """

    steps: int = 0
    skipped: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)
    norm: Tensor | None = None
    norm_sum: Tensor | None = None


class PhaseUpdate:
    """Applies one phase's updates.

    Args:
        modules: all modules; those of the phase are wrapped (DDP) in `wrapped`.
        settings: the system's tree.
        teachers: further modules for `phase.forward` (`ema.<name>`); never updated here.
    """

    def __init__(
        self,
        phase: Phase,
        accelerator: Accelerator,
        modules: Mapping[str, nn.Module],
        wrapped: Mapping[str, nn.Module],
        optimizer: Any,
        settings: Any,
        optimizer_settings: OptimizerSettings,
        teachers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.phase, self.accelerator, self.optimizer = phase, accelerator, optimizer
        self.settings, self.optimizer_settings = settings, optimizer_settings
        self.plain = {**modules, **(teachers or {})}
        self.modules = {**self.plain, **{name: wrapped[name] for name in phase.modules}}
        self.parameters = [
            p for name in phase.modules for p in modules[name].parameters() if p.requires_grad
        ]
        others = [module for name, module in modules.items() if name not in phase.modules]
        self.frozen = [p for module in others for p in module.parameters() if p.requires_grad]
        self.idle = IdleParameters(accelerator, self.parameters)
        self.shared = self._shared() if phase.composite.balancer.needs == "gradients" else []
        self.interval = Interval()
        self.skipped_in_a_row = 0

    def _shared(self) -> list[nn.Parameter]:
        """The parameters with respect to which the gradients of the terms are compared."""
        if self.phase.shared is None:
            return self.parameters
        found, own = list(self.phase.shared(self.plain)), {id(p) for p in self.parameters}
        if not found or any(id(parameter) not in own for parameter in found):
            raise ValueError(
                f"phase {self.phase.name}: `shared` must name one or more trainable parameters of "
                f"the modules that the phase updates ({', '.join(self.phase.modules)})."
            )
        return found

    def __call__(self, batches: Sequence[Tensors], step: int) -> list[dict[str, Tensor]]:
        """The update from `step` to `step + 1` on this rank's micro-batches. Returns for each of
        them what the phase hands on.

        A later phase whose weights are all 0 at this step (a critic before its start) does
        nothing.

        Raises:
            NonFiniteError: the loss or the gradient is not finite (without a gradient scaler, or
                too often in a row with one). Parameters are as before the step.
        """
        train = self.settings.train
        weights = self.phase.composite.weights(step, train.steps)
        self.interval.weights = weights
        if not (self.is_first or self.phase.shares_outputs or any(weights.values())):
            return [{} for _ in batches]
        counts = self._global_counts(batches)
        balancer = self.phase.composite.balancer
        is_look = balancer.needs != "nothing" and step % balancer.interval == 0
        gradients = TermGradients(self.accelerator, self.shared) if is_look else None
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        kept: list[dict[str, Tensor]] = []
        total, sums = self._backward(batches, weights, counts, kept, gradients)
        self._spread_overflow(total)
        norm = self.accelerator.clip_grad_norm_(self.parameters, train.clip_norm or math.inf)
        finite = bool(torch.isfinite(norm))
        if not finite and self.accelerator.scaler is None:
            raise NonFiniteError(self._explain(batches, weights, counts, step))
        self._step(step, finite)
        self.optimizer.zero_grad(
            set_to_none=True
        )  # Accelerate unscales every optimizer's gradients
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        if finite:
            self._observe(sums, counts, norm)
            if gradients is not None:
                self._balance(sums, counts, gradients.norms(weights), step)
        return kept

    @property
    def is_first(self) -> bool:
        """Whether it is the phase whose prediction is validated, and whose columns need no
        name.
        """
        return self.phase.optimizer == "optimizer"

    def _global_counts(self, batches: Sequence[Tensors]) -> dict[str, float]:
        each = [self.phase.composite.counts(batch, self.settings) for batch in batches]
        counts = torch.stack(each).sum(dim=0)
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts.to(self.accelerator.device), reduction="sum")
        return dict(zip(self.phase.composite.terms, counts.tolist(), strict=True))

    def _backward(
        self,
        batches: Sequence[Tensors],
        weights: Mapping[str, float],
        counts: Mapping[str, float],
        kept: list[dict[str, Tensor]],
        gradients: TermGradients | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses and of each term; appends to `kept` what each batch hands on."""
        world = self.accelerator.num_processes  # DDP averages gradients over the ranks
        denominators = {name: count / world for name, count in counts.items()}
        total = torch.zeros((), device=self.accelerator.device)
        sums: dict[str, Tensor] = {}
        idle: Sequence[nn.Parameter] = ()
        forward = self.phase.forward_for(weights)
        for index, batch in enumerate(batches):
            is_synced = world > 1 and index == len(batches) - 1
            with contextlib.ExitStack() as stack:
                if world > 1 and not is_synced:
                    for name in self.phase.modules:
                        stack.enter_context(self.accelerator.no_sync(self.modules[name]))
                with self.accelerator.autocast():
                    prediction = forward(self.modules, batch, self.settings)
                weighed = self.phase.composite.weigh(
                    prediction, batch, self.settings, weights, denominators
                )
                if gradients is not None and self.shared:
                    gradients.add(weighed.shares)
                loss = weighed.total
                if is_synced:
                    idle = self.idle.of(loss, weighed.sums)
                    loss = sum((p.sum() * 0.0 for p in idle), loss)
                self.accelerator.backward(loss)
            kept.append(self.phase.shared_outputs(prediction))
            total = total + weighed.total.detach()
            for name, value in weighed.sums.items():
                sums[name] = sums[name] + value if name in sums else value
        for parameter in idle:
            parameter.grad = None
        return total, sums

    def _spread_overflow(self, total: Tensor) -> None:
        """Makes an infinite loss show in the gradient of every rank, whose norm is then the one
        thing to look at (a term may be infinite on one rank, or with a finite gradient).
        """
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, reduction="sum")
        first = next((p.grad for p in self.parameters if p.grad is not None), None)
        if first is not None:
            first.add_(torch.where(torch.isfinite(total), 0.0, math.inf))

    def _step(self, step: int, finite: bool) -> None:
        rate = learning_rate(self.optimizer_settings, step, self.settings.train.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()  # with a gradient scaler this skips an overflow and lowers the scale
        if finite:
            self.skipped_in_a_row = 0
            return
        self.interval.skipped += 1
        self.skipped_in_a_row += 1
        limit = self.settings.train.max_skipped_steps
        if self.skipped_in_a_row >= limit:
            raise NonFiniteError(
                f"step {step}: {limit} fp16 steps in a row overflowed "
                f"(train.max_skipped_steps={limit}). "
                "Use train.precision=bf16, or lower optimizer.lr."
            )

    def _observe(
        self, sums: Mapping[str, Tensor], counts: Mapping[str, float], norm: Tensor
    ) -> None:
        interval = self.interval
        interval.steps += 1
        interval.norm = norm if interval.norm is None else torch.maximum(interval.norm, norm)
        interval.norm_sum = norm if interval.norm_sum is None else interval.norm_sum + norm
        for name, value in sums.items():
            mean = value.float() / counts[name]
            interval.terms[name] = interval.terms[name] + mean if name in interval.terms else mean
            interval.measured[name] = interval.measured.get(name, 0) + 1

    def _balance(
        self,
        sums: Mapping[str, Tensor],
        counts: Mapping[str, float],
        norms: Mapping[str, float],
        step: int,
    ) -> None:
        """Shows the balancer the step: the same numbers on every rank, so the same weights."""
        if not sums:
            return
        values = torch.stack([value.float() for value in sums.values()])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="sum")
        losses = {
            name: value / counts[name] for name, value in zip(sums, values.tolist(), strict=True)
        }
        # Under fp16 one term's own gradient may overflow where the sum of all does not; one such
        # norm in a moving average would never leave it.
        if not all(map(math.isfinite, norms.values())):
            return
        # The draw of a balancer; the batches use the streams 1 to 3 of the same seed.
        seed = hash63(self.settings.train.seed, 4, step)
        self.phase.composite.balancer.observe(Observed(losses, norms, seed), step)

    def report(self, step: int) -> dict[str, float | None]:
        """The columns of the interval that ends at `step`, and a fresh interval. Equal on every
        rank.
        """
        composite, interval = self.phase.composite, self.interval
        weights, means = interval.weights, self._means()
        shares = {name: weights[name] * (means[name] or 0.0) for name in composite.terms}
        total = sum(shares.values())
        columns: dict[str, float | None] = {}
        for name in composite.terms:
            column = f"train.{composite.prefix}.{name}"
            columns[column] = means[name]
            columns[f"{column}.weight"] = weights[name]
            columns[f"{column}.share"] = shares[name] / total if total else 0.0
        prefix = "train" if self.is_first else f"train.{self.phase.name}"
        columns[f"train.{composite.prefix}.total"] = total
        columns[f"{prefix}.grad_norm"] = None if interval.norm is None else float(interval.norm)
        columns[f"{prefix}.grad_norm_mean"] = (
            None if interval.norm_sum is None else float(interval.norm_sum) / interval.steps
        )
        columns[f"{prefix}.lr"] = learning_rate(
            self.optimizer_settings, max(step - 1, 0), self.settings.train.steps
        )
        columns[f"{prefix}.skipped_steps"] = float(interval.skipped)
        self.interval = Interval()
        return columns

    def _means(self) -> dict[str, float | None]:
        """Mean over the interval's steps of each term's global mean; None for a term that was
        never active.
        """
        names = [name for name in self.phase.composite.terms if name in self.interval.terms]
        means: dict[str, float | None] = dict.fromkeys(self.phase.composite.terms)
        if not names:
            return means
        values = torch.stack(
            [self.interval.terms[name] / self.interval.measured[name] for name in names]
        )
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="sum")
        means.update(zip(names, values.tolist(), strict=True))
        return means

    def _explain(
        self,
        batches: Sequence[Tensors],
        weights: Mapping[str, float],
        counts: Mapping[str, float],
        step: int,
    ) -> str:
        """The error's text, equal on every rank: the culprit may be on one rank only."""
        culprit = self._culprit(batches, weights, counts)
        if self.accelerator.num_processes > 1:
            culprit = next((found for found in gather_object([culprit]) if found), "")
        return (
            f"step {step}, phase {self.phase.name}: loss or gradient is not finite: "
            f"{culprit or 'it did not show again term by term'}. The update was not applied. "
            "Lower optimizer.lr, set train.clip_norm, or switch the term off (enabled=false)."
        )

    def _culprit(
        self, batches: Sequence[Tensors], weights: Mapping[str, float], counts: Mapping[str, float]
    ) -> str:
        """Runs this rank's step again term by term, without wrappers; "" where nothing shows."""
        model, forward = "", self.phase.forward_for(weights)
        for batch in batches:
            with self.accelerator.autocast():
                prediction = forward(self.plain, batch, self.settings)
            broken = [
                name for name, value in prediction.items() if not bool(torch.isfinite(value).all())
            ]
            if broken:
                model = f"the model's own output {', '.join(broken)} is not finite"
            for name, term in self.phase.composite.terms.items():
                if weights[name] == 0.0 or counts[name] == 0.0:
                    continue
                found = self._term_problem(term.sum(prediction, batch, self.settings))
                if found:
                    cause = f" ({model})" if model else ""
                    prefix = self.phase.composite.prefix
                    return f"{found} of term {prefix}.{name} is not finite{cause}"
        return model

    def _term_problem(self, value: Tensor) -> str:
        if not bool(torch.isfinite(value)):
            return "the value"
        if not value.requires_grad:
            return ""
        gradients = torch.autograd.grad(
            value, self.parameters, retain_graph=True, allow_unused=True
        )
        finite = all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)
        return "" if finite else "the gradient"
