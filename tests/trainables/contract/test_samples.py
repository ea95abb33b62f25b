"""What the contract says of the value that `prepare` returns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from trainables import toy
from trainables.contract.examined import Examined
from trainables.contract.samples import prepares_the_same_again

CALLS = itertools.count()


@dataclass(frozen=True)
class Statistics:
    mean: object
    deviation: float = float("nan")


def faults(tmp_path, make):
    """Of a toy whose `prepare` returns `make()`."""
    prepare = {"prepare": lambda self, settings, cache: make()}
    system = type("Prepared", (toy.Toy,), prepare)()
    return [str(fault) for fault in prepares_the_same_again(Examined(system, tmp_path))]


@pytest.mark.parametrize("mean", [0.5, np.arange(3.0)], ids=["number", "array"])
def test_what_could_not_be_measured_is_no_difference(tmp_path, mean):
    """NaN equals nothing, not even itself."""
    assert not faults(tmp_path, lambda: Statistics(mean, float("nan")))


@pytest.mark.parametrize("of", [float, np.array], ids=["number", "array"])
def test_another_value_is_a_difference(tmp_path, of):
    (fault,) = faults(tmp_path, lambda: Statistics(of(next(CALLS))))
    assert "preparing again gives the same; another value comes out of the cache" in fault
