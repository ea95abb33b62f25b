"""An order of the training samples in the loop: ranks, accumulation, resume, the contract."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from trainables.contract.check import check, faults_of
from trainables.contract.examined import Examined
from trainables.contract.samples import draws_in_a_pure_order

FILE = Path(__file__).with_name("orders_toy.py")
TOYS = runpy.run_path(str(FILE))
ORDERED = ("Grouped", "Stratified")
# Of 13 samples an epoch ends inside of a step.
SMALL = {"data__samples": 13, "train__batch_size": 4, "model__dropout": 0.2}


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """Every test of this file."""


@pytest.mark.parametrize("name", ORDERED)
def test_a_training_resumed_in_the_middle_of_an_epoch_is_the_same(toys, tmp_path, name):
    system = TOYS[name]()
    whole = toys.train(system, tmp_path / "whole", **SMALL)
    toys.train(system, tmp_path / "part", **SMALL, stop=5)
    part = toys.train(system, tmp_path / "part", **SMALL, resume=True)
    assert toys.without_time(part.report) == toys.without_time(whole.report)
    assert all(torch.equal(part.tensors[key], value) for key, value in whole.tensors.items())


def test_samples_that_fit_into_no_batch_together_need_their_groups(toys, tmp_path):
    toys.train(TOYS["Grouped"](), tmp_path / "grouped", train__precision="bf16", **SMALL)
    shapes = r"have \{'x': \[1, 1\], 'y': \[1, 1\]\} and .*grouped\(shapes\).*`collate`"
    with pytest.raises(ValueError, match=shapes):
        toys.train(TOYS["Ungrouped"](), tmp_path / "ungrouped", **SMALL)


def test_strata_accumulated_are_those_of_a_batch(toys, tmp_path):
    system, plain = TOYS["Stratified"](), {"model__dropout": 0.0, "data__samples": 13}
    one = toys.train(system, tmp_path / "one", train__batch_size=8, **plain)
    two = toys.train(system, tmp_path / "two", train__batch_size=4, train__accumulate=2, **plain)
    for key, value in one.tensors.items():
        torch.testing.assert_close(two.tensors[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERED)
def test_two_ranks_see_what_one_sees(ranks, tmp_path, name):
    """Of groups also where both accumulate alike."""
    system = f"{FILE}:{name}"
    settings = {"data.samples": 13, "train.accumulate": 2}
    one = ranks.trained(tmp_path / "one", 1, system, {**settings, "train.batch_size": 4})
    two = ranks.trained(tmp_path / "two", 2, system, {**settings, "train.batch_size": 2})
    for key, value in one[1].items():
        torch.testing.assert_close(two[1][key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ORDERED)
def test_a_sound_order_has_no_fault(tmp_path, name):
    assert not [str(fault) for fault in check(Examined(TOYS[name](), tmp_path))]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Counting", "it gives other samples"),
        ("Beyond", "one of the 64 training samples; it gives 64"),
        ("BeyondTensor", "it gives tensor(3)"),
    ],
)
def test_an_order_that_is_none_is_named(tmp_path, name, words):
    faults = faults_of(draws_in_a_pure_order, Examined(TOYS[name](), tmp_path))
    assert any(words in str(fault) for fault in faults), faults
