"""What a training is counted to take, and weights that it begins with."""

from __future__ import annotations

import json

import pytest
import torch

from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.checkpoints.checkpoint import CheckpointError


def test_the_operations_of_a_step_are_counted_and_change_nothing(toys, tmp_path):
    """A linear layer of 1 x 1: a multiply-add a sample forward, one for the weight's gradient."""
    plain = toys.train(toys.Toy(), tmp_path / "plain", train__steps=8, train__report_every=4)
    counted = toys.train(
        toys.Toy(), tmp_path / "c", train__steps=8, train__report_every=4, train__count_flops=True
    )
    assert all(torch.equal(counted.tensors[k], v) for k, v in plain.tensors.items())
    assert "train.tflops" not in plain.report
    batch = toys.settings(toys.Toy).train.batch_size
    step = 2 * 2 * batch / 1e12
    assert [r["train.tflops"] for r in counted.history] == pytest.approx([4 * step, 4 * step])
    assert counted.report["train.tflops_total"] == pytest.approx(8 * step)


def test_a_resumed_training_counts_on(toys, tmp_path):
    options = {"train__steps": 8, "train__report_every": 4, "train__count_flops": True}
    whole = toys.train(toys.Toy(), tmp_path / "whole", **options)
    toys.train(toys.Toy(), tmp_path / "part", stop=4, **options)
    rest = toys.train(toys.Toy(), tmp_path / "part", resume=True, **options)
    for name in ("train.tflops", "train.tflops_total"):
        assert rest.report[name] == whole.report[name]


def test_counting_and_compiling_exclude_each_other(toys):
    with pytest.raises(SettingsError, match="the number is the same"):
        toys.settings(toys.Toy, train__count_flops=True, train__compile=True)


class TestInitialWeights:
    @pytest.mark.parametrize("resume", [False, True])
    def test_a_training_begins_with_those_of_another(self, resume, toys, tmp_path):
        """Also one that was killed before it had a checkpoint of its own."""
        first = toys.train(toys.Toy(), tmp_path / "first", train__steps=4)
        again = toys.train(
            toys.Toy(),
            tmp_path / "again",
            resume=resume,
            train__steps=4,
            train__init_from=str(tmp_path / "first"),
            optimizer__lr=1e-9,
        )
        for key, tensor in first.tensors.items():
            assert torch.allclose(again.tensors[key], tensor, atol=1e-6), key

    def test_what_is_not_there_begins_anew_and_is_named(self, toys, tmp_path, capsys):
        tree = toys.train(toys.Toy(), tmp_path / "first", train__steps=4)
        assert tree.tensors
        found = checkpoint.available(tmp_path / "first/checkpoints")[-1]
        meta = json.loads((found / "meta.json").read_text())
        meta["system"] = toys.ToyGan.name
        (found / "meta.json").write_text(json.dumps(meta))
        toys.train(toys.ToyGan(), tmp_path / "gan", train__steps=2, train__init_from=str(found))
        said = capsys.readouterr().err
        assert "2 (module.critic.bias, module.critic.weight) begin anew here" in said

    def test_another_system_is_refused(self, toys, tmp_path):
        toys.train(toys.Toy(), tmp_path / "first", train__steps=2)
        with pytest.raises(CheckpointError, match="is a checkpoint of system"):
            toys.train(toys.ToyGan(), tmp_path / "gan", train__init_from=str(tmp_path / "first"))

    def test_a_folder_without_a_checkpoint_is_refused(self, toys, tmp_path):
        with pytest.raises(CheckpointError, match="neither a checkpoint"):
            toys.train(toys.Toy(), tmp_path / "x", train__init_from=str(tmp_path))
