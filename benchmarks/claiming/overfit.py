"""Whether the network of an arm can learn one batch by heart. Where it cannot, a bottleneck binds
it, and arms behind one bottleneck compare little else.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.claiming.arms import Arm, Arms
from metrics.metric import Metric, Tensors
from ray_jobs.verb import cache_directory
from settings.flat import leaves
from settings.schema import SettingsError
from trainables.configured import Configured
from trainables.loop import Training
from trainables.reference import Reference
from trainables.reporting.evaluate import sums_of, value_of
from trainables.reporting.references import UNTRAINED, untrained
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader
from trainables.stepping.devices import to_device
from trainables.stepping.not_finite import NonFiniteError

STEPS = 300


def overfits(arms: Arms, arm: Arm, steps: int = STEPS) -> str:
    """One line: a metric on one training batch before and after training on it alone, without
    augmentation and dropout, and the best reference's there. It is the first objective, or where
    a training batch lacks what that reads the first of the system's metrics that it can give.
    """
    configured = _plain(arms.of(arm), steps)
    system, settings = configured.system, configured.settings
    prepared = system.prepare(settings, cache_directory())
    with tempfile.TemporaryDirectory() as folder:
        training = Training(system, settings, LocalRun(Path(folder)), prepared)
        try:
            batch = _batch(training)
            for _ in range(steps):
                training.one_step([batch])
        except NonFiniteError as error:
            return f"{arm.name}: not finite: {error}"
        finally:
            modules = {**training.modules, **training.teachers}
            training.close()
    for module in modules.values():
        module.eval()
    phase, accelerator = training.phases[0], training.accelerator
    trained = Reference(lambda given: phase.forward(modules, given, settings), "trained on it")
    before = untrained(system, settings, prepared, accelerator)
    references = dict(system.references(settings, prepared))
    given = to_device(batch, accelerator.device, settings.train.channels_last)
    for metric in _metrics(arms, configured):
        value = _measure(metric, given, settings)
        own, at_first = value(trained), value(before)
        if own is not None:
            others = {name: value(reference) for name, reference in references.items()}
            first = "" if at_first is None else f"; {UNTRAINED} {at_first:.4g}"
            best = _best(metric, others)
            return f"{arm.name}: val.{metric.name} {own:.4g}{first}{best}"
    return f"{arm.name}: no metric of the system can be measured on a training batch"


def _plain(configured: Configured, steps: int) -> Configured:
    """Without augmentation and dropout, a whole step at a time."""
    keys = leaves(configured.system.Settings)
    plain = {key: 0.0 for key in keys if "dropout" in key.rpartition(".")[2]}
    plain |= {**configured.system.originals, "train.steps": steps, "train.report_every": steps}
    plain |= {"train.accumulate": 1, "train.tensorboard": False, "train.test": False}
    try:
        return configured.under({**plain, "train.ema_decay": 0.0})
    except SettingsError:  # a teacher that is a moving average needs one
        return configured.under(plain)


def _metrics(arms: Arms, configured: Configured) -> Sequence[Metric]:
    """The sweep's first objective, then the system's others with a direction."""
    directed = [metric for metric in configured.metrics if metric.mode]
    return sorted(directed, key=lambda metric: f"val.{metric.name}" != arms.setup.plan.metric)


def _batch(training: Training[Any, Any]) -> Any:
    """The first batch of the training, as its first step has it."""
    train = training.train
    loader = train_loader(training.loaders, Share(train.batch_size, 1), train.seed, 0, 1)
    return next(iter(loader))


def _measure(metric: Metric, batch: Tensors, settings: Any) -> Callable[[Reference], float | None]:
    """Measures on the batch; None for what lacks a tensor that the metric reads."""

    def value(reference: Reference) -> float | None:
        with torch.no_grad(), contextlib.suppress(KeyError):
            return value_of(metric, sums_of(metric, reference.predict(batch), batch, settings))
        return None

    return value


def _best(metric: Metric, values: dict[str, float | None]) -> str:
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return "; no reference"
    pick = min if metric.mode == "min" else max
    best = pick(known, key=lambda name: known[name])
    return f"; reference {best} {known[best]:.4g}"
