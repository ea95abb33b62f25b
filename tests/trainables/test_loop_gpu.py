"""The loop on a CUDA device: the gradient scaler, bf16, exact resume."""

from __future__ import annotations

import warnings

import pytest
import torch

from losses.composite import Composite
from losses.terms import Term
from trainables.checkpoints import checkpoint
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.not_finite import NonFiniteError

pytestmark = pytest.mark.gpu


def same(one, two):
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["Toy", "ToyGan"])
def test_a_resumed_training_equals_an_uninterrupted_one(toys, tmp_path, name, precision):
    changes = {"train__precision": precision, "model__dropout": 0.3, "train__ema_decay": 0.5}
    make = getattr(toys, name)
    whole = toys.train(make(), tmp_path / "whole", **changes)
    toys.train(make(), tmp_path / "part", stop=4, **changes)
    rest = toys.train(make(), tmp_path / "part", resume=True, **changes)
    same(rest.tensors, whole.tensors)
    assert toys.without_time(rest.report) == toys.without_time(whole.report)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_the_line(toys, tmp_path, precision):
    trained = toys.train(
        toys.Toy(), tmp_path, train__precision=precision, train__steps=60, optimizer__lr=0.2
    )
    assert trained.report["val.mse"] < 0.1
    assert trained.tensors["module.model.linear.weight"].dtype == torch.float32


def test_an_overflow_is_skipped_and_counted(toys, tmp_path):
    """A loss of 1e6 times the initial scale of 65536 overflows fp16: the scale comes down."""
    trained = toys.train(
        toys.Toy(),
        tmp_path,
        train__precision="fp16",
        train__report_every=1,
        loss__squared__weight=1e6,
    )
    skipped = [report["train.skipped_steps"] for report in trained.history]
    assert skipped[0] == 1.0 and skipped[-1] == 0.0
    first, last = trained.history[0], trained.history[-1]
    assert first["train.grad_norm"] is None, "a skipped step is not observed"
    assert last["train.grad_norm"] is not None


def nothing_finite(prediction, batch, settings):
    return prediction["y"].float().sum() * float("inf")


class Hopeless:
    """Adds a term that never is finite to a toy."""

    def __new__(cls, toy):
        class System(toy):
            name = "tests:Hopeless"

            def phases(self, settings, prepared):
                (phase,) = super().phases(settings, prepared)
                terms = dict(phase.composite.terms)
                terms["absolute"] = Term(nothing_finite, terms["squared"].count)
                composite = Composite(terms, settings.loss)
                return [type(phase)("model", ("model",), phase.forward, composite)]

        return System()


def test_too_many_overflows_in_a_row_end_the_trial(toys, tmp_path):
    with pytest.raises(NonFiniteError, match=r"3 fp16 steps in a row.*bf16"):
        toys.train(
            Hopeless(toys.Toy),
            tmp_path,
            train__precision="fp16",
            train__max_skipped_steps=3,
            train__report_every=2,
        )
    kept = checkpoint.load(checkpoint.available(tmp_path / "checkpoints")[-1], "tests:Hopeless")
    assert kept.state["skipped_in_a_row"] == [2]
    assert kept.meta["report"]["train.skipped_steps"] == 2.0


def batches_of(training, count):
    samples = [training.loaders.train[(index, index)] for index in range(8)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    return [dict(batch) for _ in range(count)]


def waits_of(training, steps):
    """How often the host waited for the device in each of some steps, after the first two."""
    waits = []
    for step in range(steps + 2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            training.one_step(batches_of(training, 2))
            torch.cuda.set_sync_debug_mode("default")
        if step > 1:
            waits.append(sum("synchronizing" in str(one.message) for one in caught))
    return waits


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_step_waits_once(toys, tmp_path, precision):
    """tests/contract/test_host_waits.py counts it for every system, without a GPU."""
    changes = {"train__report_every": 100, "train__steps": 100, "train__accumulate": 2}
    changes |= {"train__precision": precision, "train__ema_decay": 0.9}
    tree = toys.settings(toys.Toy, **changes)
    assert waits_of(Training(toys.Toy(), tree, LocalRun(tmp_path), None), 3) == [1, 1, 1]


def test_no_step_waits_between_looks(toys, tmp_path):
    changes = {"train__report_every": 100, "train__steps": 100, "train__finite_check_every": 4}
    tree = toys.settings(toys.ToyGan, **changes)
    found = waits_of(Training(toys.ToyGan(), tree, LocalRun(tmp_path), None), 6)
    assert found == [0, 1, 0, 0, 0, 1]


def test_the_moving_average_stays_at_a_skipped_step(toys, tmp_path):
    changes = {"train__precision": "fp16", "train__ema_decay": 0.5, "loss__squared__weight": 1e6}
    trained = toys.train(toys.Toy(), tmp_path, train__report_every=12, **changes)
    skipped = trained.report["train.skipped_steps"]
    assert 0.0 < skipped < 12.0
    assert int(trained.tensors["ema.model.n_averaged"]) == 12 - skipped


def test_a_checkpoint_of_the_gpu_is_on_the_cpu(toys, tmp_path):
    trained = toys.train(toys.Toy(), tmp_path, train__precision="fp16")
    assert {tensor.device.type for tensor in trained.tensors.values()} == {"cpu"}
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    assert "scale" in checkpoint.load(newest, toys.Toy.name).state["scaler"]
