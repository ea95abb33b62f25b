"""The learning-rate range test against closed forms, and its verb."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from ray_jobs import lr_finder, train
from ray_jobs.training.range_test import SMOOTHING, Range, found_of, range_test, until_diverged
from settings.flat import replace
from settings.schema import SettingsError
from trainables.toy import Toy, ToyGan

pytestmark = pytest.mark.usefixtures("one_thread")

QUADRATIC = {
    "optimizer.kind": "sgd",
    "loss.absolute.enabled": False,
    "train.clip_norm": 0.0,
    "train.batch_size": 64,
    "data.noise": 0.0,
}


def outcome(system, asked, **changes):
    settings = replace(system.Settings(), {**QUADRATIC, **changes})
    return range_test(system, settings, None, asked)


@pytest.mark.slow
def test_gradient_descent_diverges_where_its_theory_says():
    """Of a quadratic loss above 2 / the largest eigenvalue of its second derivative, which is
    twice that of the mean of (x, 1)(x, 1)'.
    """
    settings = replace(Toy.Settings(), QUADRATIC)
    x = Toy().loaders(settings, None).train.x.numpy()
    design = np.concatenate([x, np.ones_like(x)], axis=1)
    limit = 2.0 / np.linalg.eigvalsh(2.0 * design.T @ design / len(x)).max()
    found = outcome(Toy(), Range(1e-4, 100.0, 300))
    assert limit < found.diverged_at < 5.0 * limit
    assert found.suggestion == found.lowest / 10.0 < limit / 2.0
    assert found.steepest < limit
    short = outcome(Toy(), Range(1e-4, 0.9 * limit, 300))
    assert (short.diverged_at, short.suggestion) == (None, None)
    assert len(short.rows) == 300


def test_rates_grow_exponentially_and_are_those_of_the_updates():
    """The first update of gradient descent moves the loss by -rate |gradient|^2."""
    asked = Range(1e-3, 1e-1, 5)
    rates = [asked.rate(step) for step in range(5)]
    np.testing.assert_allclose(rates, np.geomspace(1e-3, 1e-1, 5))
    small, large = (outcome(Toy(), Range(low, 10.0 * low, 5)).rows for low in (1e-4, 2e-4))
    assert small[0].loss == large[0].loss
    falls = [rows[0].loss - rows[1].loss for rows in (small, large)]
    assert falls[1] / falls[0] == pytest.approx(2.0, rel=0.01)


def test_smoothing_and_the_rule_of_the_end():
    losses = [4.0, 2.0, 1.0, 1.0, 17.0, 17.0, 17.0]
    rows = until_diverged(enumerate(losses), lambda step: 10.0 ** (step - 6))
    for count, row in enumerate(rows, 1):
        weights = SMOOTHING ** np.arange(count)[::-1]
        assert row.smoothed == pytest.approx(np.average(losses[:count], weights=weights))
    best = min(row.smoothed for row in rows)
    assert [row.smoothed > 4.0 * best for row in rows] == [False] * 5 + [True]
    found = found_of("model", rows)
    assert (found.diverged_at, found.lowest) == (0.1, pytest.approx(0.001))
    assert found.suggestion == found.lowest / 10.0
    turned = found_of("model", rows[:5])
    assert (turned.diverged_at, turned.suggestion) == (None, found.suggestion), "it has turned"
    slopes = np.gradient([r.smoothed for r in rows], [math.log(r.rate) for r in rows])
    assert found.steepest == rows[int(slopes.argmin())].rate
    ended = until_diverged(enumerate([2.0, 1.9, math.nan, 1.0]), lambda step: 0.1 * (step + 1))
    assert found_of("model", ended).diverged_at == pytest.approx(0.3)
    falling = until_diverged(enumerate([-1.0, -2.0, -3.0]), lambda step: 0.1 * (step + 1))
    assert found_of("model", falling).diverged_at is None
    rising = until_diverged(enumerate([1.0, 1.1, 1.2]), lambda step: 0.1 * (step + 1))
    assert found_of("model", rising).steepest is None


def test_one_phase_has_the_rate_or_all_have_it():
    critic = outcome(ToyGan(), Range(1e-4, 1e-2, 20, "critic"))
    assert critic.phase == "critic"
    whole = outcome(ToyGan(), Range(1e-4, 1e-2, 20))
    assert whole.phase == "model"
    own = outcome(ToyGan(), Range(1e-4, 1e-2, 20, "model"), **{"critic_optimizer.lr": 1e-9})
    assert whole.rows[0] == own.rows[0] and whole.rows[-1] != own.rows[-1]
    with pytest.raises(SettingsError, match="--phase head: the phases of this system are model"):
        outcome(ToyGan(), Range(phase="head"))


def test_a_phase_that_is_not_heard_has_nothing_to_test():
    with pytest.raises(ValueError, match="phase critic has 0 updates with a finite loss"):
        outcome(ToyGan(), Range(steps=5, phase="critic"), **{"critic.hinge.enabled": False})


@pytest.fixture
def directory(tmp_path):
    """Of a training, which stays as it is."""
    made = tmp_path / "run"
    short = ("train.steps=2", "train.report_every=1", "--no-ray", "--dir", str(made))
    assert train.main(["trainables.toy:Toy", *short]) == 0
    return made


@pytest.mark.slow
def test_the_verb_writes_two_files_and_touches_no_training(directory, capsys):
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    settings = [f"{key}={value}" for key, value in QUADRATIC.items()]
    given = ["trainables.toy:Toy", *settings, "--high", "100", "--dir", str(directory)]
    capsys.readouterr()
    assert lr_finder.main(given) == 0
    said = capsys.readouterr().out
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before} == {"lr_finder.json", "lr_finder.png"}
    assert before.items() <= after.items()
    document = json.loads((directory / "lr_finder.json").read_text())
    assert document["suggestion"] == document["lowest"] / 10.0 < document["diverged_at"] / 10.0
    assert f"suggestion  {document['suggestion']:.3g}" in said
    assert f"steepest    {document['steepest']:.3g}" in said
    assert "weighted" in said
    assert document["rows"][-1]["rate"] == document["diverged_at"]
    picture = np.asarray(Image.open(directory / "lr_finder.png").convert("RGB"))
    for colour in (lr_finder.SMOOTHED, lr_finder.SUGGESTED, lr_finder.STEEPEST):
        channels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (picture == channels).all(axis=-1).sum() > 50, colour
    assert lr_finder.main(given) == 0
    assert (directory / "lr_finder.json").read_text() == json.dumps(document, indent=1) + "\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--low", "1"), "1 is not below 0.1. Make --low smaller, or --high larger"),
        (("--steps", "1"), "--steps 1: a range has two ends"),
        (("model.explode=1",), "phase model has 0 updates with a finite loss"),
    ],
)
def test_what_cannot_be_tested_is_refused(tmp_path, capsys, options, said):
    assert lr_finder.main(["trainables.toy:Toy", *options, "--dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
