"""Knobs that did not move, in made-up reports of real arms."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.claiming.arms import read_arms
from benchmarks.claiming.knobs import idle_knobs


@pytest.fixture
def arms(tmp_path):
    (tmp_path / "own").mkdir()
    texts = {"plain": "about: fixed\n", "learned": "loss.balancer.kind: uncertainty\n"}
    for name, text in texts.items():
        (tmp_path / "own" / f"{name}.yaml").write_text(text)
    (tmp_path / "own.yaml").write_text(
        "arms: {system: trainables.toy:Toy, control: plain}\n"
        "points: [own/plain.yaml, own/learned.yaml]\noptimizer.lr: {log_uniform: [0.001, 1]}\n"
    )
    return read_arms(str(tmp_path / "own.yaml"))


def said(arms, state="complete", **columns):
    """What is said of one sweep whose trial 0 is `plain` and trial 1 `learned`, with the same two
    reports of each.
    """
    trials = pd.DataFrame(
        {"trial": [0, 1], "point": ["plain", "learned"], "state": ["complete", state]}
    )
    values = {name.replace("__", "."): value * 2 for name, value in columns.items()}
    reports = pd.DataFrame({"trial": [0, 0, 1, 1], "step": [5, 10] * 2, **values})
    return idle_knobs(arms, [reports], [trials])


def test_a_balancer_that_stayed_where_it_began_is_named(arms):
    squared, absolute = "train__loss__squared__weight", "train__loss__absolute__weight"
    (line,) = said(arms, **{squared: [1.0, 1.06], absolute: [1.0, 0.97]})
    assert line == (
        "learned: the weights of balancer uncertainty stayed within 0.97 to 1.06 of their start"
    )
    assert not said(arms, **{squared: [1.0, 1.3], absolute: [1.0, 0.97]})
    assert not said(arms, "failed", **{squared: [1.0, 1.06], absolute: [1.0, 0.97]})


def test_a_cap_that_nothing_reached_is_named(arms):
    lines = said(arms, val__saturation_share=[0.0, 0.0])
    assert lines == [
        f"{arm}: no value reached the cap (val.saturation_share is 0 throughout)"
        for arm in ("plain", "learned")
    ]
    assert not said(arms, val__saturation_share=[0.001, 0.0])


def test_codes_that_are_dead_at_the_end_are_counted(arms):
    lines = said(arms, val__codebook_dead_codes=[60.0, 12.0])
    assert lines[0].startswith("plain: 12 codes are never used at the end (val.codebook_dead")
    assert not said(arms, val__codebook_dead_codes=[60.0, 0.0])
