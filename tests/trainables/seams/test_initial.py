"""What happens after the weights are loaded, and weights of another system."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.checkpoint import CheckpointError
from trainables.loop import Training
from trainables.reporting.references import untrained
from trainables.run import LocalRun
from trainables.stepping.devices import make_accelerator

HERE = Path(__file__).parent
STILL = {"optimizer__lr": 1e-9, "train__steps": 4}
KEYS = ("linear.weight", "linear.bias")


@pytest.fixture
def toy_file(monkeypatch, one_thread):
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("external_toy")


@pytest.fixture
def other(toy_file, toys, tmp_path):
    """The tensors of a training of another system, in `tmp_path / "other"`."""
    return toys.train(toy_file.Other(), tmp_path / "other", train__ema_decay=0.5).tensors


def notes(directory):
    return json.loads((directory / "metadata.json").read_text())["init_from"]


class TestReady:
    def test_it_sees_what_was_loaded_and_averages_are_made_after_it(
        self, toy_file, other, toys, tmp_path
    ):
        system = toy_file.Branched()
        tree = toys.settings(
            system, train__init_from=str(tmp_path / "other"), train__ema_decay=0.5
        )
        training = Training(system, tree, LocalRun(tmp_path / "run"), None)
        (seen,) = system.readied
        for key in KEYS:
            assert torch.equal(seen[key], other[f"ema.net.module.{key}"])
        average = training.ema["branch"].module.state_dict()
        assert torch.equal(average["linear.weight"], seen["linear.weight"])
        assert not torch.equal(average["linear.bias"], seen["linear.bias"])
        training.close()

    def test_a_resume_is_not_made_ready_and_equals_a_whole_training(
        self, toy_file, toys, tmp_path
    ):
        system = toy_file.Branched()
        whole = toys.train(system, tmp_path / "whole", train__ema_decay=0.9)
        toys.train(system, tmp_path / "part", stop=4, train__ema_decay=0.9)
        rest = toys.train(system, tmp_path / "part", resume=True, train__ema_decay=0.9)
        assert len(system.readied) == 2
        for key, tensor in whole.tensors.items():
            assert torch.equal(tensor, rest.tensors[key]), key

    def test_one_that_was_killed_before_its_first_checkpoint_is(self, toy_file, toys, tmp_path):
        system = toy_file.Branched()
        toys.train(system, tmp_path, resume=True, **STILL)
        assert len(system.readied) == 1

    def test_a_training_that_takes_all_keeps_its_branch(self, toy_file, toys, tmp_path):
        system = toy_file.Branched()
        first = toys.train(system, tmp_path / "first")
        path = str(tmp_path / "first")
        again = toys.train(system, tmp_path / "again", train__init_from=path, **STILL)
        assert len(system.readied) == 1
        for key in KEYS:
            name = f"module.branch.{key}"
            assert torch.allclose(again.tensors[name], first.tensors[name], atol=1e-6)

    def test_the_reference_before_the_first_step_is_made_ready(
        self, toy_file, other, toys, tmp_path
    ):
        """It is the network that a training of this seed begins with."""
        system = toy_file.Branched()
        tree = toys.settings(system, train__init_from=str(tmp_path / "other"))
        training = Training(system, tree, LocalRun(tmp_path / "run"), None)
        batch = {"x": torch.linspace(-1.0, 1.0, 5)[:, None]}
        wanted = toy_file.add_branch(training.modules, batch, tree)["y"]
        found = untrained(system, tree, None, make_accelerator(tree.train)).predict(batch)["y"]
        assert torch.equal(found, wanted)
        training.close()


class TestOfAnotherSystem:
    def test_it_takes_what_initial_names_and_counts_the_rest(
        self, toy_file, other, toys, tmp_path, capsys
    ):
        system, path = toy_file.Branched(), tmp_path / "other"
        found = toys.train(
            system, tmp_path / "run", stop=4, train__init_from=str(path), optimizer__lr=1e-9
        )
        for key in KEYS:
            theirs = other[f"ema.net.module.{key}"]
            assert torch.allclose(found.tensors[f"module.model.{key}"], theirs, atol=1e-6)
        said = capsys.readouterr().err
        assert "2 tensors are taken; 2 (module.extra.bias, module.extra.weight) left there" in said
        assert "2 (module.branch.linear.bias, module.branch.linear.weight) begin anew" in said
        wanted = {
            "checkpoint": str(checkpoint.available(path / "checkpoints")[-1]),
            "system": "external_toy:Other",
            "taken": 2,
            "left": ["module.extra.bias", "module.extra.weight"],
            "missing": ["module.branch.linear.bias", "module.branch.linear.weight"],
        }
        assert notes(tmp_path / "run") == wanted
        toys.train(system, tmp_path / "run", resume=True, train__init_from=str(path))
        assert notes(tmp_path / "run") == wanted
        assert "init_from" not in json.loads((path / "metadata.json").read_text())

    def test_tied_weights_are_taken_by_any_of_their_names(self, toy_file, other, toys, tmp_path):
        system = toy_file.Frozen()
        system.initial = lambda name, names: {
            "module.net.linear.weight": "module.model.down.weight",
            "module.net.linear.bias": "module.model.up.bias",
        }
        type(system).initial = system.initial
        try:
            tree = toys.settings(system, train__init_from=str(tmp_path / "other"))
            prepared = system.prepare(tree, tmp_path / "cache")
            training = Training(system, tree, LocalRun(tmp_path / "run"), prepared)
        finally:
            del type(system).initial
        assert training.init_from["missing"] == []  # the lens has its weights from its file
        weight = training.modules["model"].up.weight
        assert torch.equal(weight, other["ema.net.module.linear.weight"])
        training.close()

    @pytest.mark.parametrize(
        ("mapping", "said"),
        [
            ({"module.net.linear.wait": "module.model.linear.weight"}, "does not have"),
            ({"module.net.linear.weight": "module.modell.linear.weight"}, "do not have"),
            (
                {
                    "module.net.linear.weight": "module.model.linear.weight",
                    "module.extra.weight": "module.model.linear.weight",
                },
                "it gives several tensors",
            ),
            (
                {"module.extra.weight": "module.model.linear.weight"},
                r"\[2, 1\] to module\.model\.linear\.weight \[1, 1\], and a tensor",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, toy_file, other, toys, tmp_path, mapping, said, monkeypatch
    ):
        monkeypatch.setattr(toy_file.Branched, "initial", lambda self, name, names: mapping)
        with pytest.raises(SettingsError, match=f"train.init_from: .*{said}"):
            toys.train(
                toy_file.Branched(), tmp_path / "run", train__init_from=str(tmp_path / "other")
            )

    def test_a_system_that_has_no_initial_refuses_it(self, toy_file, other, toys, tmp_path):
        with pytest.raises(CheckpointError, match="which has no member `initial`"):
            toys.train(toys.Toy(), tmp_path / "run", train__init_from=str(tmp_path / "other"))


def test_another_frozen_module_is_named_and_stays(toy_file, toys, tmp_path, capsys):
    system = toy_file.Frozen()

    def begin(name, **changes):
        tree = toys.settings(system, **STILL, **changes)
        prepared = system.prepare(tree, tmp_path / "cache")
        return Training(system, tree, LocalRun(tmp_path / name), prepared)

    first = begin("first")
    first.run_to_end()
    first.close()
    system.seed = 12
    second = begin("second", train__init_from=str(tmp_path / "first"))
    assert "was trained with another lens" in capsys.readouterr().err
    assert second.init_from["left"] == second.init_from["missing"] == []
    own = second.modules["lens"].state_dict()
    wanted = system.build(None, system.prepare(None, tmp_path / "cache")).modules["lens"]
    assert all(torch.equal(own[key], value) for key, value in wanted.state_dict().items())
    second.close()


@pytest.mark.slow
def test_two_ranks_that_draw_in_ready_equal_one(ranks, tmp_path):
    toy = f"{HERE / 'external_toy.py'}:Branched"
    one, two = tmp_path / "one", tmp_path / "two"
    (alone,), expected = ranks.trained(one, 1, toy, {"train.batch_size": 8})
    (report, same), found = ranks.trained(two, 2, toy, {"train.batch_size": 4})
    assert report["val.mse"] == same["val.mse"] == pytest.approx(alone["val.mse"], rel=1e-4)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-5), name
