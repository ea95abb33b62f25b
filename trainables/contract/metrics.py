"""The rules of a metric, on a validation batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence

import torch

from losses.terms import Tensors
from metrics.metric import Metric, mean
from settings.flat import leaves
from trainables.contract.examined import SAMPLES, Examined, cloned, forward, same
from trainables.contract.fault import Fault
from trainables.contract.keys import declares, guilty
from trainables.stepping.inputs import in_validation
from trainables.stepping.train_settings import SystemSettings


def measures_by_sums(examined: Examined) -> Iterator[Fault]:
    """Metrics are float64 sums with a count, add up over the parts of a batch, declare what they
    read, and change nothing.
    """
    settings = examined.settings
    modules = examined.modules(settings)
    for module in modules.values():
        module.eval()
    phase = examined.system.phases(settings, examined.prepared)[0]
    batch = in_validation(phase)(examined.batch(settings, validation=True))
    with torch.no_grad():
        whole = examined.with_averages(settings, modules)
        prediction = forward(phase, whole, batch, settings)
        alike: dict[tuple[str, ...], list[Metric]] = {}
        for metric in examined.system.metrics(settings, examined.prepared):
            if (yield from _measures(examined, metric, prediction, batch)):
                alike.setdefault(tuple(metric.reads), []).append(metric)
        for metrics in alike.values():
            yield from _declare_what_they_read(examined, metrics, prediction, batch)


def _measures(
    examined: Examined, metric: Metric, prediction: Tensors, batch: Tensors
) -> Generator[Fault, None, bool]:
    """Whether it measures anything is what it returns."""
    subject, settings = f"metric {metric.name}", examined.settings
    untouched = cloned(prediction)
    measured = metric.measure(prediction, batch, settings)
    if not (isinstance(measured, tuple) and [type(x) for x in measured] == [torch.Tensor] * 2):
        yield Fault(
            subject,
            "it returns two tensors, its sums and their count",
            f"it returns a {type(measured).__name__}",
            "Return (sums, count) in float64; `per_sample` makes both of a value per sample",
        )
        return False
    sums, count = measured
    if not same(cloned(prediction), untouched):
        yield Fault(subject, "it changes nothing", "the prediction is another one", "Copy first")
    if sums.dtype != torch.float64 or sums.ndim > 1 or count.numel() != 1 or float(count) < 0:
        yield Fault(
            subject,
            "it returns float64 sums (a scalar or a vector) and one count from 0 on",
            f"sums {sums.dtype} {list(sums.shape)}, count {count.tolist()}",
            "Sum in float64, and return sums and not a mean",
        )
        return False
    if sums.ndim and metric.finish is mean:
        yield Fault(
            subject,
            "a vector of sums has a `finish` that makes one number of it",
            f"it has {len(sums)} sums and the default",
            "Give Metric(..., finish=function of (sums, count))",
        )
        return False
    value = metric.finish(sums, float(count))
    if not isinstance(value, float):
        yield Fault(subject, "finish returns a float", f"it returns {value!r}", "Call float()")
    half = SAMPLES // 2
    parts = [
        metric.measure(
            {k: v[at] for k, v in prediction.items()},
            {k: v[at] for k, v in batch.items()},
            settings,
        )
        for at in (slice(None, half), slice(half, None))
    ]
    together = [sum(x[1:], x[0]) for x in zip(*parts, strict=True)]
    for name, whole, added in zip(("sum", "count"), (sums, count), together, strict=True):
        pair = whole.double(), added.double()
        if not torch.allclose(*pair, rtol=1e-4, atol=1e-6, equal_nan=True):
            yield Fault(
                subject,
                f"the {name} of a batch is that of its parts, added up",
                f"{whole.tolist()} over the whole, {added.tolist()} over the parts together",
                "Return sums over samples with their count; `finish` makes the mean",
            )
    return True


def _declare_what_they_read(
    examined: Examined, metrics: Sequence[Metric], prediction: Tensors, batch: Tensors
) -> Iterator[Fault]:
    """Of metrics with the same `reads`. They are asked together, and alone where one changes: each
    tree costs once, and so does each sum that several finish.
    """
    settings, reads = examined.settings, metrics[0].reads
    undeclared = [key for key in leaves(type(settings)) if not declares(reads, key)]

    def values(tree: SystemSettings, names: Collection[str]) -> dict[str, str]:
        """The metrics under other settings, from which `metrics` may make them anew."""
        there = [it for it in examined.system.metrics(tree, examined.prepared) if it.name in names]
        measures = {id(metric.measure): metric.measure for metric in there}
        sums = {at: measure(prediction, batch, tree) for at, measure in measures.items()}
        finished = {}
        for metric in there:
            total, number = sums[id(metric.measure)]
            finished[metric.name] = repr(metric.finish(total, float(number)))
        return finished

    def changing(names: Collection[str]) -> list[str]:
        before = values(settings, names)

        def differs(tree: SystemSettings) -> bool:
            after = values(tree, names)
            if any(after[name] != before[name] for name in after):
                return True
            if after.keys() != before.keys():
                raise KeyError("some are not there to be looked at: change fewer keys")
            return False

        return guilty(undeclared, settings, differs, False, examined.has_the_network)

    if not changing([metric.name for metric in metrics]):
        return
    for metric in metrics:
        for key in changing([metric.name]):
            yield Fault(
                f"metric {metric.name}",
                "`Metric.reads` lists every key that changes what it measures",
                f"{key} does and is not in reads={metric.reads}",
                f'Add "{key}": a search over it cannot be judged by this metric',
            )


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (measures_by_sums,)
