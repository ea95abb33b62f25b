"""One batch, learnt by heart or not."""

from __future__ import annotations

import re

import pytest

from benchmarks.claiming.arms import read_arms
from benchmarks.claiming.overfit import overfits


@pytest.fixture
def arms_of(tmp_path):
    def make(*overrides):
        (tmp_path / "plain.yaml").write_text("about: an arm\n")
        (tmp_path / "own.yaml").write_text(
            "arms: {system: trainables.toy:Toy, control: plain}\npoints: [plain.yaml]\n"
            "loss.absolute.weight: {log_uniform: [0.001, 1]}\n"
        )
        return read_arms(str(tmp_path / "own.yaml"), overrides)

    return make


def figures(arms, steps=200):
    """The metric on the batch after and before."""
    line = overfits(arms, arms.arms["plain"], steps)
    found = re.fullmatch(r"plain: val\.mse (\S+); untrained (\S+); no reference", line)
    assert found, line
    return float(found[1]), float(found[2])


@pytest.mark.slow
def test_a_network_that_can_learn_a_batch_is_told_from_one_that_cannot(arms_of):
    noiseless = ("data.noise=0.0", "optimizer.lr=0.05")
    learnt, before = figures(arms_of(*noiseless))
    assert learnt < 1e-3 < before
    far, also_before = figures(arms_of("data.noise=0.0", "optimizer.lr=1e-6"))
    assert also_before == before
    assert far == pytest.approx(before, rel=0.01)


def test_dropout_is_left_out(arms_of):
    with_dropout = figures(arms_of("data.noise=0.0", "model.dropout=0.5"), 20)
    assert with_dropout == figures(arms_of("data.noise=0.0"), 20)


def test_what_is_not_finite_is_said(arms_of):
    arms = arms_of("model.explode=1.0")
    assert overfits(arms, arms.arms["plain"], 5).startswith("plain: not finite: ")
