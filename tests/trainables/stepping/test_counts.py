"""The counts of a step; test_ddp.py has them over real processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from losses.composite import Composite
from losses.terms import Term
from trainables.parts import Phase
from trainables.stepping.counts import GlobalCounts
from trainables.toy import ToySettings, count_samples, squared


def marks(batch, settings):
    return batch["mark"].sum()


class TwoRanks:
    """Stands for two ranks with equal batches, and keeps what they add up: real ones do not tell
    how often they meet.
    """

    num_processes, device = 2, torch.device("cpu")

    def __init__(self):
        self.met = []

    def reduce(self, values, reduction):
        assert reduction == "sum"
        self.met.append(values.tolist())
        return 2.0 * values


def counts_of(accelerator, constant=True, is_marked=True):
    mark = Term(squared, marks)
    terms = {"squared": Term(squared, count_samples, constant_count=constant)}
    terms |= {"absolute": mark} if is_marked else {}
    settings = ToySettings()
    phase = Phase("model", ("model",), dict, Composite(terms, settings.loss))
    return GlobalCounts(phase, accelerator, settings)


def batch(marked, size=4):
    mark = torch.zeros(size)
    mark[:marked] = 1.0
    return {"x": torch.zeros(size, 1), "mark": mark}


BOTH = {"squared": 1.0, "absolute": 0.5}


def test_ranks_add_up_a_constant_count_once():
    accelerator = TwoRanks()
    counts = counts_of(accelerator)
    for marked in (1, 3):
        found = counts.of([batch(marked), batch(0)], BOTH)
        assert found == {"squared": 16.0, "absolute": 2.0 * marked}
    assert accelerator.met == [[8.0, 1.0], [3.0]]
    counts = counts_of(alone := TwoRanks(), is_marked=False)
    for _ in range(3):
        assert counts.of([batch(0)], {"squared": 1.0}) == {"squared": 8.0}
    assert alone.met == [[4.0]]


def test_a_term_is_counted_from_the_step_on_at_which_it_has_a_weight():
    accelerator = TwoRanks()
    counts = counts_of(accelerator)
    assert counts.of([batch(2)], {"squared": 0.0, "absolute": 0.0}) == {}
    assert counts.of([batch(2)], {"squared": 0.0, "absolute": 1.0}) == {"absolute": 4.0}
    assert counts.of([batch(3)], BOTH) == {"squared": 8.0, "absolute": 6.0}
    assert accelerator.met == [[2.0], [4.0, 3.0]]


def test_a_constant_count_that_changes_is_refused_where_it_would_be_wrong():
    counts = counts_of(TwoRanks())
    counts.of([batch(1)], BOTH)
    with pytest.raises(ValueError, match=r"loss\.squared has constant_count=True and counts 5"):
        counts.of([batch(1, size=5)], BOTH)
    counts = counts_of(SimpleNamespace(num_processes=1))
    assert [counts.of([batch(1, size)], BOTH)["squared"] for size in (4, 5)] == [4.0, 5.0]
