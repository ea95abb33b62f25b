"""The test at a training's end, and modules whose weights follow from a checkpoint."""

from __future__ import annotations

import json

import pytest

from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.parts import Built, Loaders
from trainables.reporting.measure import evaluate_checkpoint
from trainables.run import LocalRun
from trainables.toy import Line, Toy


class Loading(Toy):
    """The toy with a test split; its `build` reads a file, which may be gone."""

    name = "tests:Loading"

    def __init__(self, source):
        self.source = source

    def build(self, settings, prepared):
        self.source.read_bytes()
        return Built(super().build(settings, prepared).modules, meta={"size": 1})

    def rebuild(self, settings, meta):
        assert meta == {"size": 1}
        return super().build(settings, None)

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        return Loaders(loaders.train, loaders.validation, test=Line(settings.data, 3, 10))


def test_a_test_without_a_test_split_is_refused_before_the_first_step(toys, tmp_path):
    expected = "train.test=true measures .*toy:Toy has none. Give it one, or leave train.test=true"
    with pytest.raises(SettingsError, match=expected):
        toys.train(toys.Toy(), tmp_path, train__test=True)
    assert not list(tmp_path.iterdir())


def test_where_weights_follow_nothing_is_loaded_to_begin_with(toys, tmp_path):
    """A resume, a segment that starts from another trial, the test, `evaluate`."""
    source, own = tmp_path / "weights", tmp_path / "own"
    source.write_bytes(b"")
    system = Loading(source)
    changes = {"train__test": True, "train__init_from": str(own)}
    toys.train(system, own, stop=8, train__test=True)
    assert not (own / "test.json").exists()
    source.unlink()
    (path,) = checkpoint.available(own / "checkpoints")[-1:]
    tree = toys.settings(system, **changes)
    fit(system, tree, LocalRun(tmp_path / "other", start=path), None)
    trained = toys.train(system, own, resume=True, **changes)
    validated = {k: v for k, v in trained.report.items() if k.startswith("val.")}
    newest = checkpoint.find(own)
    assert evaluate_checkpoint(system, tree, None, newest) == validated
    for folder in (own, tmp_path / "other"):
        found = json.loads((folder / "test.json").read_text())
        measured = evaluate_checkpoint(system, tree, None, checkpoint.find(folder), "test")
        assert found["test_latest.mse"] == measured["val.mse"] != validated["val.mse"]
    with pytest.raises(FileNotFoundError):
        toys.train(system, tmp_path / "new", train__test=True)
