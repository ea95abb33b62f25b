"""The rules of a loss term, each a function of a `TermCase` that yields what breaks it.

They are asked on tensors: those of a system's first batch (`cases.term_cases`), or those that a
test makes up. What a term that compares samples owes instead of additivity is in `sets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from losses.terms import Tensors, TermSettings
from settings.flat import leaves
from settings.schema import Settings, own_leaves
from trainables.contract import sets
from trainables.contract.cases import TermCase, is_near
from trainables.contract.examined import Examined, cloned, same, seed_everything
from trainables.contract.fault import Fault
from trainables.contract.keys import changed, declares, guilty

APPLIED = tuple(own_leaves(TermSettings))
"""Keys of every term (`weight`, `enabled`) that say how it is applied, not what it measures."""


def returns_two_scalars(case: TermCase) -> Iterator[Fault]:
    """The sum and the count are tensors without an axis."""
    measured = case.term(case.prediction(), case.batch, case.settings)
    for name, value in zip(("sum", "count"), measured, strict=True):
        if not isinstance(value, Tensor) or value.ndim:
            is_tensor = isinstance(value, Tensor)
            kind = f"of the shape {list(value.shape)}" if is_tensor else type(value).__name__
            yield Fault(
                case.subject,
                "sum and count are scalar tensors",
                f"the {name} is {kind}",
                "Sum over every axis, the samples' too; a count is float64",
            )


def is_finite_with_a_gradient(case: TermCase) -> Iterator[Fault]:
    """The sum is finite and pulls at the prediction; the count is above 0 and does not."""
    raw = case.raw.detach().clone().requires_grad_()
    prediction = case.prediction(raw)
    total, count = case.term(prediction, case.batch, case.settings)
    if count.requires_grad:
        yield _count_depends(case.subject, "its count has a gradient")
    if not float(count) > 0.0:
        yield Fault(
            case.subject,
            "there is something to count",
            f"the count is {float(count):g} on the samples looked at",
            "Name settings in `audit` under which the term has something to do",
        )
    if not bool(torch.isfinite(total)):
        yield Fault(
            case.subject,
            "it is finite wherever the prediction is",
            f"the sum is {float(total.detach()):g}",
            "Keep roots, logarithms and divisors away from 0 by an epsilon",
        )
        return
    moves = total.requires_grad
    gradient = torch.autograd.grad(total, raw, allow_unused=True)[0] if moves else None
    if gradient is None or not bool((gradient != 0).any()):
        yield Fault(
            case.subject,
            "it pulls at what the forward predicts",
            "its gradient is 0 everywhere",
            "Look for detach, argmax, round or a comparison, and for settings under which it is "
            "idle (`audit` names others)",
        )
    elif not bool(torch.isfinite(gradient).all()):
        yield Fault(
            case.subject,
            "its gradient is finite",
            "the gradient holds NaN or infinity",
            "The root of 0 has an infinite slope: add an epsilon below it",
        )


def is_bounded_below(case: TermCase) -> Iterator[Fault]:
    """The sum is never below 0, or `Term.unbounded` says why."""
    if case.term.unbounded:
        return
    for raw in (case.raw, *case.others):
        total, _ = case.measured(case.prediction(raw))
        if total < 0.0:
            yield Fault(
                case.subject,
                "it is never below 0, or its share and its ratios mean nothing",
                f"the sum is {total:g}",
                "Add its least value, or say in `Term.unbounded` why it has no lower bound",
            )
            return


def is_a_sum_over_samples(case: TermCase, edges: Sequence[int] | None = None) -> Iterator[Fault]:
    """Sum and count of a batch are those of its parts, cut at `edges` (in the middle, and tried
    with noise on the prediction, by default), added up. Where `Term.splits` is set the count alone
    is.
    """
    size = len(case.raw)
    noises = (0.0, 1.0) if edges is None else (0.0,)
    edges = (0, size // 2, size) if edges is None else edges
    for prediction in case.predictions(noises):
        faults = list(_not_added_up(case, edges, prediction))
        yield from faults
        if faults:
            return


def _not_added_up(case: TermCase, edges: Sequence[int], prediction: Tensors) -> Iterator[Fault]:
    total, count = case.measured(prediction)
    sums, counts = case.over_parts(edges, prediction)
    if counts != count:
        yield Fault(
            case.subject,
            "its count over a batch is the sum of the counts over the batch's parts",
            f"{count:g} over the whole, {counts:g} over the parts together",
            "Count samples, pixels or marks; a share or a mean is no count",
        )
    if math.isfinite(total) and not (case.term.splits or is_near(sums, total)):
        is_mean = abs(sums - (len(edges) - 1) * total) <= 0.5 * abs(total)
        yield Fault(
            case.subject,
            "it returns a sum over samples, which the count makes a mean",
            f"{total:g} over the whole batch and {sums:g} over its parts together"
            + (", as a mean would be" if is_mean else ""),
            "Return the sum; the loop divides by the count of all batches and workers. What "
            "compares the samples with each other says so in `Term.splits`",
        )


def keeps_a_constant_count(case: TermCase) -> Iterator[Fault]:
    """Where `Term.constant_count` is set, the two halves of a batch count the same."""
    half = len(case.raw) // 2
    if not case.term.constant_count:
        return
    halves = ({k: v[at : at + half] for k, v in case.batch.items()} for at in (0, half))
    first, second = (float(case.term.count(part, case.settings)) for part in halves)
    if first != second:
        yield Fault(
            case.subject,
            "a constant count is the same for every batch of one size",
            f"{first:g} and {second:g} over two batches of {half}",
            "Leave constant_count out: workers then add the count up at every step",
        )


def declares_what_it_reads(case: TermCase) -> Iterator[Fault]:
    """With the prediction fixed, no key outside of `Term.reads` changes sum or count."""
    prediction = cloned(case.prediction())
    before = case.measured(prediction)
    keys = [key for key in leaves(type(case.settings)) if ".schedule." not in key]
    undeclared = [key for key in keys if not declares(case.term.reads, key)]

    def measure(tree: Settings) -> list[float]:
        return case.measured(prediction, tree)

    for key in guilty(undeclared, case.settings, measure, before, case.compares):
        yield Fault(
            case.subject,
            "`Term.reads` lists every key that changes what the term measures",
            f"{key} does and is not in reads={case.term.reads}",
            f'Add "{key}": a search over it cannot be judged by this term',
        )


def has_keys_that_do_something(case: TermCase) -> Iterator[Fault]:
    """Every key of the term's own node changes the sum, the count or the prediction, or `reads`
    says that it may.
    """
    if not case.node:
        return
    before = cloned(case.prediction())
    values = case.measured(before)
    for field in leaves(type(_node(case))):
        key = f"{case.node}.{field}"
        if field.startswith("schedule.") or field in APPLIED or declares(case.term.reads, key):
            continue
        tree = changed(case.settings, key)
        if tree is None:
            continue
        after = case.prediction(settings=tree)
        if same(cloned(after), before) and case.measured(before, tree) == values:
            yield Fault(
                case.subject,
                "every key of a term changes something",
                f"{key} changes neither the term nor the prediction",
                "Remove the key, or read it",
            )


def draws_nothing(case: TermCase) -> Iterator[Fault]:
    """Equal tensors give equal sums, whatever the global generators are at."""
    prediction = case.prediction()
    sums = []
    for seed in (1, 2):
        seed_everything(seed)
        sums.append(case.measured(prediction))
    if sums[0] != sums[1]:
        yield Fault(
            case.subject,
            "a term draws nothing: equal tensors give equal sums",
            f"{sums[0][0]:g} under one global seed, {sums[1][0]:g} under another",
            "Draw in the data set from the sample's seed, and pass the draw in the batch",
        )


def leaves_its_tensors_alone(case: TermCase) -> Iterator[Fault]:
    """A term changes neither the batch nor the prediction in place."""
    prediction = case.prediction()
    before = cloned(case.batch), cloned(prediction)
    case.measured(prediction)
    after = case.batch, prediction
    for name, was, now in zip(("batch", "prediction"), before, after, strict=True):
        if not same(was, cloned(now)):
            yield Fault(
                case.subject,
                f"a term changes nothing in place, for others read the same {name}",
                f"the {name} is another one after it",
                "Make a new tensor instead of one of the operations that end in `_`",
            )


FIRST = (returns_two_scalars, leaves_its_tensors_alone, draws_nothing)
"""Where one of these does not hold the others have no answer, and are not asked."""

RULES: tuple[Callable[[TermCase], Iterator[Fault]], ...] = (
    *FIRST,
    is_finite_with_a_gradient,
    is_bounded_below,
    is_a_sum_over_samples,
    *sets.RULES,
    keeps_a_constant_count,
    declares_what_it_reads,
    has_keys_that_do_something,
)
"""What holds for every term, in the order in which it is asked."""


def faults_of_term(case: TermCase) -> list[Fault]:
    """The faults of a term."""
    broken: list[Fault] = []
    for rule in RULES:
        faults = list(rule(case))
        if faults and rule in FIRST:
            return faults
        broken += faults
    return broken


def _count_depends(subject: str, value: str) -> Fault:
    return Fault(
        subject,
        "its count depends on the batch alone, so that a mean is exact however steps are cut",
        value,
        "Count in the batch: pixels, samples, marks that the data set has made",
    )


def counts_the_batch_alone(examined: Examined) -> Iterator[Fault]:
    """After the forwards of two models, the counts of a batch are the same."""
    settings = examined.audited
    counts_of: dict[tuple[str, str], list[float]] = {}
    for seed in (0, 1):
        modules = examined.modules(settings, seed)
        for phase, prediction, batch in examined.predictions(settings, modules):
            for name, term in phase.composite.terms.items():
                _, count = term(prediction, batch, settings)
                counts_of.setdefault((phase.name, name), []).append(float(count))
    for (_, name), (first, second) in counts_of.items():
        if first != second:
            value = f"{first:g} with one model, {second:g} with another"
            yield _count_depends(f"term {name}", value)


def _node(case: TermCase) -> Any:
    node = case.settings
    for part in case.node.split("."):
        node = getattr(node, part)
    return node
