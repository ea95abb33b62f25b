"""A step: of each phase the counts, forward, backward, clip, the finite check, optimizer step.

What the optimizer is, and what is done to a gradient before it, has a room of its own
(`trainables.optimizing`). Beside the step: what sums are divided by (`counts`), the report of the
steps (`interval`), what a balancer is shown of them (`balancing`), a step that is not finite
(`not_finite`).

The host looks at the device once for all gradients that are applied together (`_apply`; under fp16
the gradient scaler looks), for it then waits for all that it has asked for.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from models.gathered import GathersOverUpdate
from trainables.optimizing.gradient_noise import add_noise
from trainables.optimizing.optimizer import OptimizerSettings, factors_of
from trainables.optimizing.rates import Rate
from trainables.optimizing.sharpness import Pass, aside
from trainables.parts import Phase
from trainables.stepping.balancing import Balancing, shared_by_terms
from trainables.stepping.counts import GlobalCounts
from trainables.stepping.gradients import IdleParameters, TermGradients
from trainables.stepping.inputs import Told, hash63, in_training
from trainables.stepping.interval import Interval
from trainables.stepping.micro_batches import MicroBatches
from trainables.stepping.not_finite import (
    Diagnosis,
    NonFiniteError,
    Overflows,
    Unseen,
    fetched,
    spread_overflow,
)
from trainables.stepping.train_settings import SystemSettings


@dataclass(frozen=True)
class Pending:
    """A gradient that is computed and not applied.

    Attributes:
        step: at which it was computed.
        sums: of each active term, over this rank's samples.
        norm: of the gradient before it was clipped, on the device.
        terms: the gradient of each term, where the balancer looks at the step.
        compared: the norm of each, and the cosine of each pair (`TermGradients.compared`), where
            the report asks for them.
        shown: what the balancer is shown of them, on the device; empty where it does not look.
    """

    step: int
    weights: Mapping[str, float]
    counts: Mapping[str, float]
    sums: Mapping[str, Tensor]
    norm: Tensor
    terms: TermGradients | None
    compared: Mapping[str, Tensor]
    shown: Sequence[Tensor]


class PhaseUpdate:
    """The updates of one phase: `gradient` computes one, `apply` applies it.

    Args:
        modules: all modules; those of the phase are wrapped (DDP) in `wrapped`.
        teachers: further modules for `phase.forward` (`ema.<name>`); never updated here.

    Attributes:
        pending: the gradient that is computed and not applied, None between steps.
        was_skipped: whether the last update overflowed, so that nothing was applied.
    """

    def __init__(
        self,
        phase: Phase,
        accelerator: Accelerator,
        modules: Mapping[str, nn.Module],
        wrapped: Mapping[str, nn.Module],
        optimizer: AcceleratedOptimizer,
        settings: SystemSettings,
        optimizer_settings: OptimizerSettings,
        teachers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.phase, self.accelerator, self.optimizer = phase, accelerator, optimizer
        self.settings, self.optimizer_settings = settings, optimizer_settings
        plain = {**modules, **(teachers or {})}
        self.plain = modules
        self.modules = {**plain, **{name: wrapped[name] for name in phase.modules}}
        self.parameters = [
            p for name in phase.modules for p in modules[name].parameters() if p.requires_grad
        ]
        self.gathering = _gathering(modules[name] for name in phase.modules)
        others = [module for name, module in modules.items() if name not in phase.modules]
        self.unheard = _gathering(others)
        self.frozen = [p for module in others for p in module.parameters() if p.requires_grad]
        self.counts = GlobalCounts(phase, accelerator, settings)
        self.idle = IdleParameters(accelerator, self.parameters)
        self.balancing = Balancing(phase, accelerator, plain, self.parameters)
        train = settings.train
        self.compared_at = (
            shared_by_terms(phase, plain, self.parameters) if train.term_gradients else ()
        )
        self.diagnosis = Diagnosis(phase, accelerator, plain, self.parameters, settings)
        self.rate = Rate(optimizer_settings, train.steps)
        self.interval = Interval(
            phase,
            accelerator,
            train.steps,
            self.rate,
            factors_of(optimizer_settings),
            is_compared=train.term_gradients,
        )
        self.overflows = Overflows(train.max_skipped_steps)
        self.pending: Pending | None = None
        self.was_skipped = False

    def gradient(
        self, batches: MicroBatches, step: int, is_reported: bool = False
    ) -> list[dict[str, Tensor]]:
        """Computes the gradient of the update from `step` to `step + 1` on this rank's
        micro-batches, clips it and leaves it `pending`. Returns for each of them the outputs that
        the phase shares with later ones.

        A later phase whose weights are all 0 at this step (a critic before its start) does
        nothing.

        Args:
            is_reported: whether a report follows, which may ask for the gradients of the terms.
        """
        train, noise = self.settings.train, self.optimizer_settings.noise
        self.pending, self.was_skipped = None, False
        self.interval.weights = weights = self.phase.composite.weights(step, train.steps)
        if not (self.phase.is_first or self.phase.shares_outputs or any(weights.values())):
            return [{} for _ in range(len(batches))]
        told = self._told(step)
        counts = self.counts.of([told(batch) for batch in batches.host], weights)
        terms = self.balancing.gradients_at(step)
        compared = None
        if is_reported and self.compared_at:
            compared = TermGradients(self.accelerator, self.compared_at)
        looking = [each for each in (terms, compared) if each is not None]
        with self._alone():
            total, sums, outputs = self._passes(batches, told, weights, counts, looking)
        spread_overflow(self.accelerator, self.parameters, total)
        norm = self.accelerator.clip_grad_norm_(self.parameters, train.clip_norm or math.inf)
        if noise.eta:
            stream = zlib.crc32(self.phase.name.encode())
            add_noise(self.parameters, noise, step, hash63(train.seed, 6, step, stream))
        shown = [] if terms is None else self.balancing.measured(sums, terms, weights)
        columns = {} if compared is None else compared.compared()
        self.pending = Pending(step, weights, counts, sums, norm, terms, columns, shown)
        return outputs

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Modules of other phases take no gradient, and gather nothing."""
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        with _unheard(self.unheard):
            yield
        for parameter in self.frozen:
            parameter.requires_grad_(True)

    def _passes(
        self,
        batches: MicroBatches,
        told: Told,
        weights: Mapping[str, float],
        counts: Mapping[str, float],
        gradients: Sequence[TermGradients],
    ) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]]]:
        """One pass, as `_backward`; with `sam` a second one aside of the weights, whose gradient
        takes the place of the first one's.
        """
        sam = self.optimizer_settings.sam
        if not sam.radius:
            return self._backward(batches, told, weights, counts, gradients)
        first = Pass(self.plain, self.accelerator.device)
        total, sums, outputs = self._backward(batches, told, weights, counts, gradients)
        with first.again(), aside(self.parameters, sam), _unheard(self.gathering):
            total = total + self._backward(batches, told, weights, counts)[0]
        return total, sums, outputs

    def check(self, norm: float, at: Pending, batches: MicroBatches) -> None:
        """Raises `NonFiniteError` with the term at fault where a gradient of that norm is not
        finite; the parameters are those that it was computed at.
        """
        if not math.isfinite(norm):
            raise NonFiniteError(
                self.diagnosis.explain(
                    map(self._told(at.step), batches), at.weights, at.counts, at.step
                )
            )

    def apply(self, at: Pending, shown: Sequence[Sequence[float]]) -> None:
        """Applies the gradient that is pending.

        Args:
            shown: the values of `Pending.shown`; under a gradient scaler they are fetched here,
                where the step was not skipped.

        Raises:
            NonFiniteError: too many steps in a row overflowed under a gradient scaler.
        """
        self.pending = None
        train, scaler = self.settings.train, self.accelerator.scaler
        rate = self.rate(at.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.step()  # with a gradient scaler this skips an overflow and lowers the scale
        self.was_skipped = scaler is not None and self.optimizer.step_was_skipped
        self.overflows.note(at.step, is_overflow=self.was_skipped)
        # None is left to the next phase: Accelerate unscales the gradients of every optimizer.
        self.optimizer.zero_grad(set_to_none=True)
        for module in self.gathering:
            module.forget() if self.was_skipped else module.take_in()
        if self.was_skipped:
            self.interval.skipped += 1
            return
        self.interval.add(at.sums, at.counts, at.norm)
        self.interval.compared = at.compared
        if at.terms is not None:
            totals, norms = map(iter, shown or fetched(at.shown))
            self.balancing.show(
                {name: next(totals) for name in at.sums},
                at.counts,
                norms,
                at.terms.vectors,
                at.weights,
                train.seed,
                at.step,
            )

    def _told(self, step: int) -> Told:
        train = self.settings.train
        return in_training(self.phase, train.seed, step, train.steps)

    def _backward(
        self,
        batches: MicroBatches,
        told: Told,
        weights: Mapping[str, float],
        counts: Mapping[str, float],
        gradients: Sequence[TermGradients] = (),
    ) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]]]:
        """Forward and backward of every micro-batch: total, sum of each term, shared outputs."""
        world = self.accelerator.num_processes  # DDP averages gradients over the ranks
        denominators = {name: count / world for name, count in counts.items()}
        total = torch.zeros((), device=self.accelerator.device)
        sums: dict[str, Tensor] = {}
        outputs: list[dict[str, Tensor]] = []
        idle: Sequence[nn.Parameter] = ()
        forward = self.phase.forward_for(weights)
        for index, batch in enumerate(map(told, batches)):
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
                for each in gradients:
                    each.add(weighed.shares)
                loss = weighed.total
                if is_synced:
                    idle = self.idle.of(loss, weighed.sums, told)
                    loss = sum((p.sum() * 0.0 for p in idle), loss)
                self.accelerator.backward(loss)
            outputs.append(self.phase.shared_outputs(prediction))
            total = total + weighed.total.detach()
            for name, value in weighed.sums.items():
                sums[name] = sums[name] + value if name in sums else value
        for parameter in idle:
            parameter.grad = None
        return total, sums, outputs


@contextlib.contextmanager
def _unheard(parts: Sequence[GathersOverUpdate]) -> Iterator[None]:
    """Their forwards gather nothing."""
    for part in parts:
        part.is_heard = False
    yield
    for part in parts:
        part.is_heard = True


def _gathering(modules: Iterable[nn.Module]) -> list[GathersOverUpdate]:
    parts = (part for module in modules for part in module.modules())
    return [part for part in parts if isinstance(part, GathersOverUpdate)]


def take_step(
    updates: Sequence[PhaseUpdate],
    batches: MicroBatches,
    step: int,
    unseen: Unseen,
    is_looked_at: bool,
    is_reported: bool = False,
) -> None:
    """The update of every phase from `step` to `step + 1` on this rank's micro-batches.

    A phase that reads nothing of what earlier ones update (`Phase.ignores_updates`) computes its
    gradient before theirs are applied, so that the host looks once at all of them. A gradient
    scaler wants each applied by itself.

    Args:
        unseen: the norms of gradients that were applied without a look.
        is_looked_at: whether all gradients up to this step are looked at in it. Where
            `train.finite_check_every` is 1 each is, before it is applied.
        is_reported: whether a report follows.

    Raises:
        NonFiniteError: a loss or gradient is not finite (without a gradient scaler, or too often
            in a row with one). It was not applied, or the error says that it was.
    """
    for update in updates:
        if update.accelerator.scaler is not None or not update.phase.ignores_updates:
            _apply(updates, batches, unseen, update.settings.train.finite_check_every == 1)
        batches.share(update.gradient(batches, step, is_reported))
    _apply(updates, batches, unseen, is_looked_at)


def _apply(
    updates: Sequence[PhaseUpdate], batches: MicroBatches, unseen: Unseen, is_looked_at: bool
) -> None:
    """Applies what is pending; before that it looks at it, and at the norms that are unseen, if
    asked to or if a balancer does.
    """
    waiting = [(update, update.pending) for update in updates if update.pending is not None]
    shown: list[list[list[float]]] = [[] for _ in waiting]
    if any(update.accelerator.scaler is not None for update in updates):
        pass  # it looks by itself, at the optimizer's step
    elif is_looked_at or any(at.shown for _, at in waiting):
        parts = [[at.norm, *at.shown] for _, at in waiting]
        values = iter(unseen.look([tensor for part in parts for tensor in part]))
        for (update, at), found in zip(waiting, shown, strict=True):
            (norm,) = next(values)
            update.check(norm, at, batches)
            found += [next(values) for _ in at.shown]
    else:
        for update, at in waiting:
            unseen.add(at.step, update.phase.name, at.norm)
    for (update, at), found in zip(waiting, shown, strict=True):
        update.apply(at, found)
