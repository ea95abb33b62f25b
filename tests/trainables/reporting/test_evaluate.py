"""Validation: values do not depend on the cut, and a checkpoint can be measured again."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from metrics.metric import Metric, per_sample
from trainables.checkpoints import checkpoint
from trainables.reporting.evaluate import evaluate
from trainables.reporting.measure import evaluate_checkpoint


def squares(prediction, batch, settings):
    error = (prediction["y"].float() - batch["y"]).double()
    return error.square().sum(), torch.tensor(error.numel())


def root(sums, count):
    return math.sqrt(float(sums) / count)


def two_sums(prediction, batch, settings):
    y = batch["y"].double()
    return torch.stack([y.sum(), y.square().sum()]), torch.tensor(y.numel())


def deviation(sums, count):
    mean, square = (sums / count).tolist()
    return math.sqrt(square - mean**2)


def nothing(prediction, batch, settings):
    return torch.tensor(0.0), torch.tensor(0)


def positive_only(prediction, batch, settings):
    y = prediction["y"].flatten()
    return per_sample(torch.where(batch["x"].flatten() > 0, y, math.nan))


def infinite(prediction, batch, settings):
    return torch.tensor(math.inf), torch.tensor(1.0)


METRICS = [
    Metric("rmse", "", "min", squares, "a root after the sum", finish=root),
    Metric("deviation", "", "min", two_sums, "of two sums", finish=deviation),
    Metric("absent", "", "min", nothing, "counts nothing"),
    Metric("positive", "", "min", positive_only, "of some samples"),
    Metric("infinite", "", "min", infinite, "is not finite"),
]


@pytest.fixture
def measured(toys):
    """The columns of one untrained model, by batch size."""
    system = toys.Masked()
    tree = toys.settings(system, model__dropout=0.5)
    torch.manual_seed(0)
    modules = system.build(tree, None).modules
    validation = system.loaders(tree, None).validation

    def measure(batch_size):
        batches = torch.utils.data.DataLoader(validation, batch_size)
        phases = system.phases(tree, None)
        return evaluate(Accelerator(cpu=True), modules, phases, METRICS, batches, tree)

    return measure, modules, validation


def test_the_values_do_not_depend_on_the_cut(measured):
    measure, _, _ = measured
    whole = measure(37)
    for batch_size in (1, 5, 36):
        found = measure(batch_size)
        assert found.keys() == whole.keys()
        for column in whole.keys() - {"val.absent", "val.infinite"}:
            assert found[column] == pytest.approx(whole[column], rel=1e-6), column


def test_the_values_are_those_of_the_whole_set_at_once(measured):
    measure, modules, validation = measured
    x, y, mask = (torch.stack([s[key] for s in validation]) for key in ("x", "y", "mask"))
    model = modules["model"].eval()
    with torch.no_grad():
        predicted = model(x)
    error = (predicted - y).double()
    found = measure(8)
    assert found["val.rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-6)
    assert found["val.deviation"] == pytest.approx(float(y.double().std(unbiased=False)), rel=1e-6)
    assert found["val.positive"] == pytest.approx(float(predicted[x > 0].mean()), rel=1e-6)
    assert found["val.loss.squared"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    inside = float((mask * error.square()).sum() / mask.sum())
    assert found["val.loss.absolute"] == pytest.approx(inside, rel=1e-5)


def test_what_is_not_counted_or_not_finite_is_none(measured):
    measure, _, _ = measured
    found = measure(8)
    assert found["val.absent"] is None
    assert found["val.infinite"] is None


def test_the_modules_come_back_in_the_mode_they_were_in(measured):
    measure, modules, _ = measured
    for training in (True, False):
        modules["model"].train(training)
        measure(8)
        assert modules["model"].training is training
        assert modules["model"].dropout.training is training


def test_an_empty_set_is_refused(toys):
    with pytest.raises(ValueError, match="validation set is empty"):
        evaluate(Accelerator(cpu=True), {}, [], METRICS, [], None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__ema_decay": 0.9},
        {"train__precision": "bf16", "model__dropout": 0.5},
        {"train__precision": "bf16", "train__ema_decay": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["Toy", "ToyGan", "Masked"])
def test_a_checkpoint_measures_as_the_training_did(toys, tmp_path, name, changes):
    system = getattr(toys, name)()
    tree = toys.settings(system, train__steps=4, **changes)
    trained = toys.train(system, tmp_path, tree)
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    again = evaluate_checkpoint(system, tree, None, newest)
    assert again == {k: v for k, v in trained.report.items() if k.startswith("val.")}


def test_the_moving_average_is_what_is_validated(toys, tmp_path):
    plain = toys.train(toys.Toy(), tmp_path / "a")
    averaged = toys.train(toys.Toy(), tmp_path / "b", train__ema_decay=0.9)
    key = "module.model.linear.bias"
    assert torch.equal(plain.tensors[key], averaged.tensors[key]), (
        "an average changed the training"
    )
    assert plain.report["val.mse"] != averaged.report["val.mse"]
    # e <- 0.9 e + 0.1 w after each update, from the weights after the first one.
    every = toys.train(toys.Toy(), tmp_path / "c", train__report_every=1, train__keep_every=1)
    weights = [
        checkpoint.load(path, toys.Toy.name).tensors[key]
        for path in checkpoint.available(every.run.directory / "checkpoints")
    ]
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(averaged.tensors["ema.model.module.linear.bias"], expected)
