"""Memory order, the compiler and bf16 change how a training is computed, and not what comes of
it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from trainables.parts import Built, Loaders, Phase
from trainables.stepping.devices import _pinned, lay_out, to_device
from trainables.toy import Toy

ROOT = Path(__file__).resolve().parents[3]


class Images(Dataset):
    """The line, drawn as images [2, 6, 6] whose mean is x."""

    def __init__(self, line):
        self.line = line

    def __len__(self):
        return len(self.line)

    def __getitem__(self, key):
        sample = self.line[key]
        index = key[0] if isinstance(key, tuple) else key
        texture = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(index))
        image = 0.1 * (texture - texture.mean()) + sample["x"].view(1, 1, 1)
        return {**sample, "image": image}


class Convolution(nn.Module):
    """Notes in which memory order its input and its weight lie."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 1)
        self.seen = set()

    def forward(self, image):
        if not torch.compiler.is_compiling():
            self.seen.add((is_channels_last(image), is_channels_last(self.conv.weight)))
        return self.linear(self.norm(self.conv(image)).mean((2, 3)))


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


class Picture(Toy):
    name = "tests:Picture"

    def build(self, settings, prepared):
        self.model = Convolution()
        return Built(modules={"model": self.model})

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        return Loaders(Images(loaders.train), Images(loaders.validation))

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        return [Phase("model", ("model",), look, phase.composite)]


def look(modules, batch, settings):
    return {"y": modules["model"](batch["image"])}


GENTLE = {"optimizer__kind": "sgd", "optimizer__lr": 0.05}


def close(found, expected, tolerance):
    assert found.tensors.keys() == expected.tensors.keys()
    for key, tensor in expected.tensors.items():
        torch.testing.assert_close(
            found.tensors[key], tensor, rtol=tolerance, atol=tolerance, msg=key
        )
    for column, value in expected.report.items():
        if column != "seconds":
            assert found.report[column] == pytest.approx(value, rel=tolerance, abs=tolerance)


def test_channels_last_changes_the_order_and_not_the_numbers(toys, tmp_path):
    ordered, plain = Picture(), Picture()
    found = toys.train(ordered, tmp_path / "a", train__channels_last=True, **GENTLE)
    expected = toys.train(plain, tmp_path / "b", **GENTLE)
    close(found, expected, 1e-4)
    assert ordered.model.seen == {(True, True)}, "in training and in validation"
    assert plain.model.seen == {(False, False)}


def test_channels_last_resumes_exactly_and_leaves_plain_checkpoints(toys, tmp_path):
    changes = {"train__channels_last": True, "train__ema_decay": 0.5}
    whole = toys.train(Picture(), tmp_path / "whole", **changes)
    toys.train(Picture(), tmp_path / "part", stop=4, **changes)
    rest = toys.train(Picture(), tmp_path / "part", resume=True, **changes)
    assert toys.without_time(rest.report) == toys.without_time(whole.report)
    for key, tensor in whole.tensors.items():
        assert torch.equal(rest.tensors[key], tensor), key
        assert tensor.is_contiguous(), key


def test_tensors_of_other_than_four_axes_are_left_alone():
    module = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Linear(2, 2)])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    lay_out(module, channels_last=True)
    assert is_channels_last(module[0].weight)
    assert module[1].weight.is_contiguous() and module[2].weight.is_contiguous()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    batch = {"image": torch.randn(2, 3, 4, 4), "volume": torch.randn(2, 3, 4, 4, 4), "name": "a"}
    kept = {key: value.clone() for key, value in batch.items() if key != "name"}
    moved = to_device(batch, torch.device("cpu"), channels_last=True)
    assert is_channels_last(moved["image"]) and not is_channels_last(batch["image"])
    assert moved["volume"].is_contiguous() and moved["name"] == "a"
    assert all(torch.equal(moved[key], value) for key, value in kept.items())


@pytest.mark.gpu
def test_what_a_loader_has_pinned_is_not_copied_again():
    """Neither is what is pageable left so: the host would wait for the device."""
    pinned = torch.randn(8).pin_memory()
    assert _pinned(pinned).data_ptr() == pinned.data_ptr()
    assert _pinned(torch.randn(8)).is_pinned()
    assert torch.equal(to_device({"x": pinned}, torch.device("cuda"), False)["x"].cpu(), pinned)


def test_bf16_learns_the_line_on_a_cpu(toys, tmp_path):
    changes = {"train__steps": 60, "optimizer__lr": 0.2}
    half = toys.train(toys.Toy(), tmp_path / "a", train__precision="bf16", **changes)
    full = toys.train(toys.Toy(), tmp_path / "b", **changes)
    assert half.report["val.mse"] < 0.1
    weight = "module.model.linear.weight"
    assert half.tensors[weight].dtype == torch.float32
    assert not torch.equal(half.tensors[weight], full.tensors[weight]), "nothing was in bf16"


@pytest.mark.slow
def test_a_compiled_training_is_the_plain_one(toys, tmp_path):
    changes = {"train__channels_last": True, "train__ema_decay": 0.5, **GENTLE}
    expected = toys.train(Picture(), tmp_path / "plain", **changes)
    compiled = Picture()
    toys.train(compiled, tmp_path / "part", stop=4, train__compile=True, **changes)
    assert compiled.model.seen == set(), "a step ran the plain module"  # the average is validated
    rest = toys.train(Picture(), tmp_path / "part", resume=True, train__compile=True, **changes)
    close(rest, expected, 1e-3)


@pytest.mark.slow
def test_a_compiled_training_can_compare_gradients(toys, tmp_path):
    """A balancer differentiates term by term and keeps the graph, which a compiled backward has
    to allow.
    """
    changes = {"loss__balancer__kind": "inverse_gradient", "loss__balancer__interval": 2, **GENTLE}
    expected = toys.train(Picture(), tmp_path / "plain", **changes)
    found = toys.train(Picture(), tmp_path / "compiled", train__compile=True, **changes)
    close(found, expected, 1e-3)


NO_COMPILER = """
import sys
from pathlib import Path
from trainables.toy import Toy
from settings.flat import replace
from settings.schema import SettingsError
from trainables.loop import fit
from trainables.run import LocalRun
tree = replace(Toy.Settings(), {"train.compile": True, "train.steps": 1})
try:
    fit(Toy(), tree, LocalRun(Path(sys.argv[1])), None)
except SettingsError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_a_compiler_the_way_out_is_named(tmp_path):
    environment = {**os.environ, "CXX": "/nowhere/c++", "OMP_NUM_THREADS": "1"}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, "-c", NO_COMPILER, str(tmp_path / "trial")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = ran.stdout.splitlines()[-1:]
    assert said and said[0].startswith("train.compile=true: the model cannot"), ran.stderr
    assert "train.compile=false" in ran.stdout
