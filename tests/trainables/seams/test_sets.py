"""A term that compares the samples of a batch with each other: the loop, and the contract."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from trainables.contract.check import check, faults_of, keeps_the_rules_of_terms
from trainables.contract.examined import Examined

FILE = Path(__file__).with_name("sets_toy.py")
TOYS = runpy.run_path(str(FILE))
# Of the term alone; under SGD no step is but a sign.
ALONE = {"loss.squared.enabled": False, "optimizer.kind": "sgd", "optimizer.lr": 0.05}


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """Every test of this file."""


def trained(toys, folder, **changes):
    alone = {key.replace(".", "__"): value for key, value in ALONE.items()}
    return toys.train(TOYS["Sets"](), folder, **alone, **changes)


def close(one, other):
    return all(torch.allclose(one[key], other[key], rtol=1e-4, atol=1e-6) for key in one)


@pytest.mark.slow
def test_two_workers_compare_as_one_that_accumulates_and_not_as_a_batch_of_all(ranks, tmp_path):
    """The same cuts have the same comparisons, whoever makes them."""
    cuts = {
        "two": (2, {"train.batch_size": 4}),
        "accumulated": (1, {"train.batch_size": 4, "train.accumulate": 2}),
        "whole": (1, {"train.batch_size": 8}),
    }
    reports, tensors = {}, {}
    for name, (world, cut) in cuts.items():
        found = ranks.trained(tmp_path / name, world, f"{FILE}:Sets", {**ALONE, **cut})
        reports[name], tensors[name] = found[0][0], found[1]
    column = "train.loss.absolute"
    assert reports["two"][column] == pytest.approx(reports["accumulated"][column], rel=1e-4)
    assert close(tensors["two"], tensors["accumulated"])
    assert not close(tensors["whole"], tensors["accumulated"])
    assert reports["whole"][column] != pytest.approx(reports["accumulated"][column], rel=1e-2)


def test_a_step_has_the_mean_of_its_micro_batches_values():
    """What the loop does with sums and counts, of micro-batches that are not of one size."""
    system = TOYS["Sets"]()
    settings = system.Settings()
    (phase,) = system.phases(settings, None)
    generator = torch.Generator().manual_seed(3)
    batch, prediction = ({"x": y, "y": y} for y in torch.randn(2, 9, 1, generator=generator))
    weights, denominators = {"squared": 0.0, "absolute": 1.0}, {"squared": 9.0, "absolute": 9.0}
    step, values = 0.0, []
    for at in (slice(0, 4), slice(4, 6), slice(6, 9)):
        part, of = ({k: v[at] for k, v in tensors.items()} for tensors in (batch, prediction))
        step += float(phase.composite.weigh(of, part, settings, weights, denominators).total)
        pairs = zip(sorted(of["y"].tolist()), sorted(part["y"].tolist()), strict=True)
        values.append([sum((a[0] - b[0]) ** 2 for a, b in pairs) / len(part["y"]), len(part["y"])])
    assert step == pytest.approx(sum(value * count for value, count in values) / 9, rel=1e-5)


def test_a_training_resumed_half_way_is_the_same(toys, tmp_path):
    cut = {"train__batch_size": 4, "train__accumulate": 2, "train__precision": "bf16"}
    whole = trained(toys, tmp_path / "whole", **cut)
    trained(toys, tmp_path / "part", stop=4, **cut)
    part = trained(toys, tmp_path / "part", resume=True, **cut)
    assert toys.without_time(part.report) == toys.without_time(whole.report)
    assert all(torch.equal(part.tensors[key], value) for key, value in whole.tensors.items())


def test_a_training_that_cuts_a_set_says_so_once(toys, tmp_path, capsys):
    cut = {"train__batch_size": 4, "train__accumulate": 3}
    trained(toys, tmp_path / "part", stop=4, **cut)
    said = capsys.readouterr().err
    assert "loss.absolute compares the 4 samples of one worker's micro-batch, not the 12" in said
    assert "it sorts them" in said and "train.batch_size=12" in said and "squared" not in said
    trained(toys, tmp_path / "part", resume=True, **cut)
    trained(toys, tmp_path / "whole", train__batch_size=12)
    toys.train(TOYS["Sets"](), tmp_path / "off", loss__absolute__enabled=False, **cut)
    assert "compares the" not in capsys.readouterr().err


def test_a_sound_comparison_has_no_fault(tmp_path):
    assert not [str(fault) for fault in check(Examined(TOYS["Sets"](), tmp_path))]


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("Silent", "it returns a sum over samples", "says so in `Term.splits`"),
        ("Unread", "declares what cuts them in validation", 'Add "train.validation_batch_size"'),
        ("Mean", "it returns its value times its count", "Multiply the value by the count"),
        ("Ordered", "does not depend on their order", "Sort, or compare every sample"),
        ("NoSet", "depends on how the samples are cut", "Leave `splits` out"),
        ("Share", "the sum of the counts over the batch's parts", "a mean is no count"),
    ],
)
def test_a_false_declaration_is_named(tmp_path, name, rule, words):
    lines = map(str, faults_of(keeps_the_rules_of_terms, Examined(TOYS[name](), tmp_path)))
    lines = [line for line in lines if line.startswith("term absolute: ")]
    assert len(lines) == 1 and rule in lines[0] and words in lines[0], lines
