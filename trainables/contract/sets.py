"""The rules of a term that compares the samples of a batch with each other, and says so in
`Term.splits`: a distance of two sets, a contrast.

The loop divides what a term sums over all micro-batches and ranks by their counts together. Such
a term returns its value times the count, and so a step has the mean over its micro-batches,
weighted by their counts, whoever holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from trainables.contract.cases import TermCase, is_near
from trainables.contract.fault import Fault
from trainables.contract.keys import declares

BATCHES_OF_VALIDATION = "train.validation_batch_size"

_NOISES = 0.0, 0.1, 1.0, 10.0
"""Added to the predictions on which a term is tried."""


def is_a_function_of_a_set(case: TermCase) -> Iterator[Fault]:
    """Sum and count stay the same when the samples come in another order."""
    if not case.term.splits:
        return
    size = len(case.raw)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(1)).tolist()
    for prediction in case.predictions(_NOISES):
        before, after = case.measured(prediction), case.of(order, prediction)
        if not all(map(is_near, after, before)):
            yield Fault(
                case.subject,
                "what compares the samples of a batch does not depend on their order",
                f"{before[0]:g} over {before[1]:g}, and {after[0]:g} over {after[1]:g} in another "
                "order",
                "Sort, or compare every sample with every other",
            )
            return


def returns_its_value_times_its_count(case: TermCase) -> Iterator[Fault]:
    """The sum of a batch that has every sample twice is not that of the batch."""
    if not case.term.splits:
        return
    prediction = case.prediction()
    total, count = case.measured(prediction)
    twice, counts = case.of([*range(len(case.raw))] * 2, prediction)
    if counts == 2 * count and total and is_near(twice, total):
        yield Fault(
            case.subject,
            "it returns its value times its count, which the count of a step makes a mean again",
            f"the sum is {total:g} over {count:g}, and the same over {counts:g}",
            "Multiply the value by the count",
        )


def splits_where_it_says_so(case: TermCase) -> Iterator[Fault]:
    """A term with `Term.splits` is not the sum over its samples, and validation's batches change
    it.
    """
    if not case.term.splits:
        return
    size = len(case.raw)
    cuts = (0, size // 2, size), range(size + 1)
    for prediction in case.predictions(_NOISES):
        total, _ = case.measured(prediction)
        if not all(is_near(case.over_parts(edges, prediction)[0], total) for edges in cuts):
            break
    else:
        yield Fault(
            case.subject,
            "`Term.splits` is said of a term that depends on how the samples are cut into batches",
            f"{total:g} over the whole batch, over its halves and over its samples one by one",
            "Leave `splits` out",
        )
    if not declares(case.term.reads, BATCHES_OF_VALIDATION):
        yield Fault(
            case.subject,
            "what depends on how samples are cut declares what cuts them in validation",
            f"{BATCHES_OF_VALIDATION} is not in reads={case.term.reads}",
            f'Add "{BATCHES_OF_VALIDATION}": a search over it cannot be judged by this term',
        )


RULES: tuple[Callable[[TermCase], Iterator[Fault]], ...] = (
    is_a_function_of_a_set,
    returns_its_value_times_its_count,
    splits_where_it_says_so,
)
