"""The moving average of the weights: what it is, and how a forward finds it as a teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import stripped
from trainables.optimizing.average import MovingAverage
from trainables.parts import Built, Phase
from trainables.reporting.measure import evaluate_checkpoint
from trainables.toy import Toy


def same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key


class Student(Toy):
    """Notes what it is given of the moving average, and learns from it as well."""

    name = "tests:Student"

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        self.seen = []

        def forward(modules, batch, settings):
            prediction = phase.forward(modules, batch, settings)
            teacher = modules.get("ema.model")
            if teacher is None:
                self.seen.append(None)
                return prediction
            said = teacher(batch["x"])
            self.seen.append((teacher.training, said.requires_grad, modules["model"].training))
            return {"y": prediction["y"] + 0.5 * (said - prediction["y"])}

        return [Phase("model", ("model",), forward, phase.composite)]


def test_a_forward_finds_the_moving_average_in_training_and_validation(toys, tmp_path):
    system = Student()
    changes = {"train__ema_decay": 0.9, "model__dropout": 0.5, "train__accumulate": 2}
    whole = toys.train(system, tmp_path / "whole", **changes)
    training = (False, False, True)
    validation = (False, False, False)
    assert set(system.seen) == {training, validation}
    assert system.seen.count(training) == 12 * 2
    toys.train(Student(), tmp_path / "part", stop=8, **changes)
    rest = toys.train(Student(), tmp_path / "part", resume=True, **changes)
    same(rest.tensors, whole.tensors)
    assert toys.without_time(rest.report) == toys.without_time(whole.report)
    tree = toys.settings(system, **changes)
    path = checkpoint.available(tmp_path / "part" / "checkpoints")[-1]
    measured = evaluate_checkpoint(system, tree, None, path)
    assert measured == {k: v for k, v in rest.report.items() if k.startswith("val.")}
    assert set(system.seen) == {validation}, "phases are made anew"


def test_without_a_moving_average_there_is_no_teacher(toys, tmp_path):
    system = Student()
    toys.train(system, tmp_path)
    assert set(system.seen) == {None}


def test_the_teacher_is_the_average_of_the_steps_before(toys, tmp_path):
    """w' <- decay w' + (1 - decay) w after each update; the first one is copied."""
    changes = {"train__ema_decay": 0.75, "train__steps": 3, "train__report_every": 1}
    steps = [
        toys.train(toys.Toy(), tmp_path, resume=True, stop=stop, **changes).tensors
        for stop in (1, 2, 3)
    ]
    weight = "module.model.linear.weight"
    expected = steps[0][weight]
    for tensors in steps[1:]:
        expected = 0.75 * expected + 0.25 * tensors[weight]
    torch.testing.assert_close(steps[-1]["ema.model.module.linear.weight"], expected)


class Spectral(Toy):
    """The toy with spectral norm, which keeps two unit vectors in buffers."""

    name = "tests:Spectral"

    def build(self, settings, prepared):
        built = super().build(settings, prepared)
        torch.nn.utils.parametrizations.spectral_norm(built.modules["model"].linear)
        return built


def test_the_average_keeps_the_buffers_of_the_module(toys, tmp_path):
    tensors = toys.train(Spectral(), tmp_path, train__ema_decay=0.9).tensors
    buffers = [key for key in tensors if key.startswith("module.") and key.endswith(("_u", "_v"))]
    assert len(buffers) == 2
    for key in buffers:
        assert torch.equal(tensors[f"ema.model.{key.replace('.model.', '.')}"], tensors[key]), key


def moved(module, steps):
    """The module, a little further at each step."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.rand(parameter.shape, generator=generator)
                parameter.add_(0.02 * noise.to(parameter.dtype))
        yield module


def test_weights_in_fp32_are_averaged_as_torch_does():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ours = MovingAverage(module, 0.9)
    torchs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    for step, at in enumerate(moved(module, 5), 1):
        at(torch.rand(4, 3))
        ours.update(at, step)
        torchs.update_parameters(at)
    same(ours.tensors(), torchs.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_weights_of_16_bits_are_averaged_in_fp32(dtype):
    module = nn.Linear(3, 2).to(dtype)
    average, expected = MovingAverage(module, 0.999), None
    for step, at in enumerate(moved(module, 60), 1):
        average.update(at, step)
        weight = at.weight.detach().double()
        expected = weight if expected is None else 0.999 * expected + 0.001 * weight
    kept = average.tensors()
    assert kept["module.weight"].dtype == torch.float32
    torch.testing.assert_close(kept["module.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(average.module.weight, kept["module.weight"].to(dtype))
    again = MovingAverage(nn.Linear(3, 2).to(dtype), 0.999)
    again.load(kept)
    same(again.tensors(), kept)
    same(again.module.state_dict(), average.module.state_dict())
    module.load_state_dict(stripped(kept, "module."))
    same(module.state_dict(), average.module.state_dict())


class ShortLinear(nn.Linear):
    """Weights in bf16, for inputs and outputs in fp32."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype)).float()


class Short(Toy):
    """The toy with weights in bf16."""

    name = "tests:Short"

    def build(self, settings, prepared):
        model = super().build(settings, prepared).modules["model"]
        model.linear = ShortLinear(1, 1).to(torch.bfloat16)
        return Built(modules={"model": model})


def test_the_average_of_short_weights_is_kept_exactly_in_a_checkpoint(toys, tmp_path):
    changes = {"train__ema_decay": 0.99, "optimizer__lr": 0.01}
    whole = toys.train(Short(), tmp_path / "whole", **changes)
    toys.train(Short(), tmp_path / "part", stop=8, **changes)
    rest = toys.train(Short(), tmp_path / "part", resume=True, **changes)
    same(rest.tensors, whole.tensors)
    exact = whole.tensors["ema.model.module.linear.weight"]
    assert exact.dtype == torch.float32
    assert not torch.equal(exact, exact.bfloat16().float())
    path = checkpoint.available(tmp_path / "part" / "checkpoints")[-1]
    measured = evaluate_checkpoint(Short(), toys.settings(Short(), **changes), None, path)
    assert measured == {k: v for k, v in rest.report.items() if k.startswith("val.")}
