"""One update: its columns, terms that are off, and that nothing that is not finite is applied."""

from __future__ import annotations

import pytest
import torch

from trainables.checkpoints import checkpoint
from trainables.loop import Training, fit
from trainables.run import LocalRun
from trainables.stepping.micro_batches import MicroBatches
from trainables.stepping.not_finite import NonFiniteError, Unseen
from trainables.stepping.update import take_step

PREFIXES = {"Toy": {"loss": ["squared", "absolute"]}}
PREFIXES["ToyGan"] = {"loss": ["squared", "absolute", "adversarial"], "critic": ["hinge"]}


@pytest.mark.parametrize("name", PREFIXES)
def test_totals_and_shares_are_those_of_the_terms(toys, tmp_path, name):
    trained = toys.train(
        getattr(toys, name)(),
        tmp_path,
        loss__squared__schedule__kind="linear",
        loss__squared__schedule__first=3.0,
        loss__absolute__weight=0.25,
    )
    for report in trained.history:
        for prefix, terms in PREFIXES[name].items():
            columns = [f"train.{prefix}.{term}" for term in terms]
            products = [report[c] * report[f"{c}.weight"] for c in columns]
            assert report[f"train.{prefix}.total"] == pytest.approx(sum(products), rel=1e-9)
            shares = [report[f"{c}.share"] for c in columns]
            assert sum(shares) == pytest.approx(1.0, rel=1e-9)
            for share, product in zip(shares, products, strict=True):
                assert share == pytest.approx(product / sum(products), rel=1e-9)
    # The weight is that of the interval's last update: 3 - 2 * step / steps.
    weights = [report["train.loss.squared.weight"] for report in trained.history]
    assert weights == pytest.approx([3.0 - 2.0 * step / 12 for step in (3, 7, 11)])


def test_the_columns_of_two_phases_do_not_clash(toys, tmp_path):
    report = toys.train(toys.ToyGan(), tmp_path, critic_optimizer__lr=0.01).report
    assert report["train.lr"] == 0.3
    assert report["train.critic.lr"] == 0.01
    assert report["train.grad_norm"] != report["train.critic.grad_norm"]
    assert report["train.skipped_steps"] == report["train.critic.skipped_steps"] == 0.0


def test_the_gradient_norm_is_the_largest_of_the_interval_before_clipping(toys, tmp_path):
    every, rarely = (
        toys.train(
            toys.Toy(), tmp_path / str(n), train__report_every=n, train__clip_norm=0.01
        ).history
        for n in (1, 4)
    )
    norms = [report["train.grad_norm"] for report in every]
    assert min(norms) > 0.01
    largest = [max(norms[i : i + 4]) for i in range(0, 12, 4)]
    assert [report["train.grad_norm"] for report in rarely] == largest


def test_a_phase_gives_no_gradient_to_what_another_one_updates(toys, tmp_path):
    training = Training(toys.ToyGan(), toys.settings(toys.ToyGan), LocalRun(tmp_path), None)
    batch = {"x": torch.rand(8, 1), "y": torch.rand(8, 1)}
    own = {name: list(module.parameters()) for name, module in training.modules.items()}
    reached = []
    for name, parameters in own.items():
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.append(name))
    for update, name, other in zip(
        training.updates, ("model", "critic"), ("critic", "model"), strict=True
    ):
        reached.clear()
        before = [parameter.detach().clone() for parameter in own[other]]
        cpu = torch.device("cpu")
        take_step([update], MicroBatches([batch], cpu), 0, Unseen(), is_looked_at=True)
        assert set(reached) == {name}
        assert all(map(torch.equal, own[other], before))
        assert all(parameter.grad is None for parameter in own["model"] + own["critic"])
        assert all(parameter.requires_grad for parameter in own["model"] + own["critic"])


def test_clipping_bounds_the_step(toys, tmp_path):
    """Plain SGD moves by lr * gradient, so a step is at most lr * clip_norm long."""
    changes = {
        "optimizer__kind": "sgd",
        "optimizer__beta1": 0.0,
        "optimizer__lr": 0.5,
        "train__report_every": 1,
        "train__steps": 2,
    }
    trained = toys.train(toys.Toy(), tmp_path, train__clip_norm=0.02, **changes)
    before, after = (
        checkpoint.load(path, toys.Toy.name).tensors
        for path in checkpoint.available(tmp_path / "checkpoints")
    )
    moved = torch.cat([(after[key] - before[key]).flatten() for key in after])
    assert float(moved.norm()) == pytest.approx(0.5 * 0.02, rel=1e-4)
    assert trained.report["train.grad_norm"] > 0.02


@pytest.mark.parametrize(
    "off",
    [
        {"loss__absolute__enabled": False},
        {"loss__absolute__weight": 0.0},
        {
            "loss__absolute__schedule__kind": "step",
            "loss__absolute__schedule__start": 1.0,
            "loss__absolute__schedule__first": 0.0,
        },
    ],
    ids=["disabled", "weight", "schedule"],
)
def test_a_term_that_is_off_moves_nothing_and_keeps_its_columns(toys, tmp_path, off):
    with_it = toys.train(toys.Toy(), tmp_path / "off", **off)
    without = toys.train(toys.OnlySquared(), tmp_path / "without")
    for key, tensor in without.tensors.items():
        assert torch.equal(with_it.tensors[key], tensor), key
    for report in with_it.history:
        assert report["train.loss.absolute"] is None
        assert report["train.loss.absolute.weight"] == 0.0
        assert report["train.loss.absolute.share"] == 0.0
        assert report["val.loss.absolute"] > 0.0
    shared = without.report.keys() - {"seconds"}
    assert {key: with_it.report[key] for key in shared} == {
        key: without.report[key] for key in shared
    }


def test_a_training_without_any_term_moves_nothing(toys, tmp_path):
    off = {"loss__squared__weight": 0.0, "loss__absolute__enabled": False}
    trained = toys.train(toys.Toy(), tmp_path, train__report_every=6, **off)
    first, last = (
        checkpoint.load(path, toys.Toy.name).tensors
        for path in checkpoint.available(tmp_path / "checkpoints")
    )
    assert all(torch.equal(first[key], last[key]) for key in first)
    assert trained.report["train.loss.total"] == 0.0
    assert trained.report["train.grad_norm"] == 0.0


@pytest.mark.parametrize("changes", [{}, {"train__precision": "bf16"}, {"train__accumulate": 2}])
def test_a_term_that_is_not_finite_stops_before_the_update(toys, tmp_path, changes):
    system = toys.Faulty()
    tree = toys.settings(system, train__report_every=1, data__samples=200, **changes)
    run = LocalRun(tmp_path)
    with pytest.raises(
        NonFiniteError, match=r"^step 6, .*value of term loss\.squared is not finite\. "
    ):
        fit(system, tree, run, None)
    assert [report["step"] for report in run.history] == [1, 2, 3, 4, 5, 6]
    newest = checkpoint.newest_good(tmp_path / "checkpoints", system.name, pytest.fail)
    assert newest is not None and newest.step == system.at
    for key, tensor in system.modules["model"].state_dict().items():
        assert torch.equal(tensor, newest.tensors[f"module.model.{key}"]), key


def test_a_gradient_that_is_not_finite_stops_before_the_update(toys, tmp_path):
    system = toys.Cliff()
    with pytest.raises(NonFiniteError, match=r"gradient of term loss\.absolute.*enabled=false"):
        fit(system, toys.settings(system), LocalRun(tmp_path), None)
    for key, tensor in system.modules["model"].state_dict().items():
        assert torch.equal(tensor, system.before[key]), key


def test_a_term_that_is_off_cannot_stop_a_training(toys, tmp_path):
    report = toys.train(toys.Cliff(), tmp_path, loss__absolute__weight=0.0).report
    assert report["step"] == 12 and report["val.loss.absolute"] == 0.0


@pytest.mark.parametrize("name", ["Toy", "ToyGan"])
def test_a_model_that_is_not_finite_is_named_as_the_cause(toys, tmp_path, name):
    with pytest.raises(NonFiniteError, match=r"model's own output .*y.* is not finite"):
        toys.train(getattr(toys, name)(), tmp_path, model__explode=1.0)
