"""TensorBoard files: every column, a system's own names beside them, whole whatever comes."""

from __future__ import annotations

import pytest
import torch

from trainables.loop import Training
from trainables.reporting.tensorboard import further_tags
from trainables.run import LocalRun
from trainables.toy import Toy


@pytest.fixture
def events_of(tensorboard_values):
    """Tag -> [(step, value)] of the one TensorBoard file of a training."""

    def read(directory):
        (_,) = (directory / "tensorboard").iterdir()
        return {
            tag: [(step, value.simple_value) for step, value in pairs]
            for tag, pairs in tensorboard_values(directory).items()
        }

    return read


def test_tensorboard_can_read_the_columns(toys, tmp_path, events_of):
    trained = toys.train(
        toys.ToyGan(), tmp_path, train__tensorboard=True, loss__absolute__enabled=False
    )
    found = events_of(tmp_path)
    expected = {
        column: [(report["step"], report[column]) for report in trained.history]
        for column, value in trained.report.items()
        if column != "step" and value is not None
    }
    assert found.keys() == expected.keys()
    assert {"train.loss.total", "train.critic.hinge", "val.mse"} <= found.keys()
    for tag, pairs in expected.items():
        assert [step for step, _ in found[tag]] == [4, 8, 12]
        assert [value for _, value in found[tag]] == pytest.approx([v for _, v in pairs], rel=1e-6)


NAMES = {
    "train.loss.*": "Enhanced_Loss/*",
    "train.loss.*.weight": "Adaptive_Weights/*",
    "train.loss.absolute.weight": "Adaptive_Weights/component_1",
}


class Named(Toy):
    """The toy with the names of a document for two of its columns."""

    name = "tests:Named"

    def tensorboard_names(self, settings):
        return NAMES


def test_a_systems_own_names_are_written_beside_the_columns(toys, tmp_path, events_of):
    trained = toys.train(Named(), tmp_path, train__tensorboard=True)
    found = events_of(tmp_path)
    own = {tag: pairs for tag, pairs in found.items() if "/" in tag}
    assert own == {
        "Enhanced_Loss/squared": found["train.loss.squared"],
        "Enhanced_Loss/absolute": found["train.loss.absolute"],
        "Enhanced_Loss/total": found["train.loss.total"],
        "Enhanced_Loss/validation_total": found["train.loss.validation_total"],
        "Enhanced_Loss/squared.share": found["train.loss.squared.share"],
        "Enhanced_Loss/absolute.share": found["train.loss.absolute.share"],
        "Adaptive_Weights/squared": found["train.loss.squared.weight"],
        "Adaptive_Weights/component_1": found["train.loss.absolute.weight"],
    }
    assert set(trained.report) - {"step"} == set(found) - set(own)


def test_a_stop_by_whoever_decides_leaves_whole_files(toys, tmp_path, events_of):
    """Tune ends a trial by SystemExit out of its report."""

    def stop_at_8(report):
        if report["step"] == 8:
            raise SystemExit(0)

    tree = toys.settings(toys.Toy, train__tensorboard=True)
    run = LocalRun(tmp_path, on_report=stop_at_8)
    training = Training(toys.Toy(), tree, run, None)
    with pytest.raises(SystemExit):
        try:
            training.run_to_end()
        finally:
            training.close()
    # The record is on disk although the writer's own flush comes every 30 s only.
    assert [step for step, _ in events_of(tmp_path)["val.mse"]] == [4, 8]
    rest = toys.train(toys.Toy(), tmp_path, resume=True)
    whole = toys.train(toys.Toy(), tmp_path / "whole")
    assert rest.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(rest.tensors[key], tensor) for key, tensor in whole.tensors.items())


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("train.loss.total", ("Enhanced_Loss/total",)),
        ("train.loss.hier.weight", ("Adaptive_Weights/hier",)),  # the more exact pattern
        ("train.loss.absolute.weight", ("Adaptive_Weights/component_1",)),  # the column itself
        ("train.loss..weight", ("Adaptive_Weights/",)),
        ("val.loss.total", ()),
        ("train.loss", ()),
    ],
)
def test_the_most_exact_pattern_counts(column, expected):
    assert further_tags(column, NAMES) == expected
    assert further_tags(column, dict(reversed(NAMES.items()))) == expected
    assert further_tags(column, {}) == ()


def test_a_star_stands_for_text_that_is_there():
    assert further_tags("ab", {"ab*b": "x"}) == ()
