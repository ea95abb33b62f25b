"""One optimizer update of one phase: counts, forward, backward, clip, the finite check, step.

Beside it: the report of the steps (`interval`), what a balancer is shown of them (`balancing`), a
step that is not finite (`not_finite`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from losses.terms import Tensors
from trainables.stepping.balancing import Balancing
from trainables.stepping.gradients import IdleParameters, TermGradients
from trainables.stepping.interval import Interval
from trainables.stepping.not_finite import Diagnosis, NonFiniteError, Overflows, spread_overflow
from trainables.stepping.optimizer import OptimizerSettings, learning_rate
from trainables.stepping.train_settings import SystemSettings
from trainables.system import Phase


class PhaseUpdate:
    """Applies one phase's updates.

    Args:
        modules: all modules; those of the phase are wrapped (DDP) in `wrapped`.
        teachers: further modules for `phase.forward` (`ema.<name>`); never updated here.
    """

    def __init__(
        self,
        phase: Phase,
        accelerator: Accelerator,
        modules: Mapping[str, nn.Module],
        wrapped: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        settings: SystemSettings,
        optimizer_settings: OptimizerSettings,
        teachers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.phase, self.accelerator, self.optimizer = phase, accelerator, optimizer
        self.settings, self.optimizer_settings = settings, optimizer_settings
        plain = {**modules, **(teachers or {})}
        self.modules = {**plain, **{name: wrapped[name] for name in phase.modules}}
        self.parameters = [
            p for name in phase.modules for p in modules[name].parameters() if p.requires_grad
        ]
        others = [module for name, module in modules.items() if name not in phase.modules]
        self.frozen = [p for module in others for p in module.parameters() if p.requires_grad]
        self.idle = IdleParameters(accelerator, self.parameters)
        self.balancing = Balancing(phase, accelerator, plain, self.parameters)
        self.diagnosis = Diagnosis(phase, accelerator, plain, self.parameters, settings)
        self.interval = Interval(phase, accelerator, optimizer_settings, settings.train.steps)
        self.overflows = Overflows(settings.train.max_skipped_steps)

    def __call__(self, batches: Sequence[Tensors], step: int) -> list[dict[str, Tensor]]:
        """The update from `step` to `step + 1` on this rank's micro-batches. Returns for each of
        them the outputs that the phase shares with later ones.

        A later phase whose weights are all 0 at this step (a critic before its start) does
        nothing.

        Raises:
            NonFiniteError: the loss or the gradient is not finite (without a gradient scaler, or
                too often in a row with one). Parameters are as before the step.
        """
        train = self.settings.train
        self.interval.weights = weights = self.phase.composite.weights(step, train.steps)
        if not (self.phase.is_first or self.phase.shares_outputs or any(weights.values())):
            return [{} for _ in batches]
        counts = self._global_counts(batches)
        gradients = self.balancing.gradients_at(step)
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        total, sums, outputs = self._backward(batches, weights, counts, gradients)
        spread_overflow(self.accelerator, self.parameters, total)
        norm = self.accelerator.clip_grad_norm_(self.parameters, train.clip_norm or math.inf)
        finite = bool(torch.isfinite(norm))
        if not finite and self.accelerator.scaler is None:
            raise NonFiniteError(self.diagnosis.explain(batches, weights, counts, step))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.optimizer_settings, step, train.steps)
        self.optimizer.step()  # with a gradient scaler this skips an overflow and lowers the scale
        self.overflows.note(step, is_overflow=not finite)
        # None is left to the next phase: Accelerate unscales the gradients of every optimizer.
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        if not finite:
            self.interval.skipped += 1
            return outputs
        self.interval.add(sums, counts, norm)
        if gradients is not None:
            self.balancing.show(sums, counts, gradients.norms(weights), train.seed, step)
        return outputs

    def _global_counts(self, batches: Sequence[Tensors]) -> dict[str, float]:
        """Each term's count over all micro-batches and ranks, by which its sum becomes a mean."""
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
        gradients: TermGradients | None,
    ) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]]]:
        """Forward and backward of every micro-batch: total, sum of each term, shared outputs."""
        world = self.accelerator.num_processes  # DDP averages gradients over the ranks
        denominators = {name: count / world for name, count in counts.items()}
        total = torch.zeros((), device=self.accelerator.device)
        sums: dict[str, Tensor] = {}
        outputs: list[dict[str, Tensor]] = []
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
                if gradients is not None:
                    gradients.add(weighed.shares)
                loss = weighed.total
                if is_synced:
                    idle = self.idle.of(loss, weighed.sums)
                    loss = sum((p.sum() * 0.0 for p in idle), loss)
                self.accelerator.backward(loss)
            outputs.append(self.phase.shared_outputs(prediction))
            total = total + weighed.total.detach()
            for name, value in weighed.sums.items():
                sums[name] = sums[name] + value if name in sums else value
        for parameter in idle:
            parameter.grad = None
        return total, sums, outputs
