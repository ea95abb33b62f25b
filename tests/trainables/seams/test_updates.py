"""What is done to an update, through the loop: cut into micro-batches and ranks, under bf16, and
resumed in the middle of it.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from settings.schema import SettingsError
from trainables.checkpoints import checkpoint
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader

TOY = str(Path(__file__).with_name("update_toy.py"))
spec = importlib.util.spec_from_file_location("update_toy", TOY)
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
Grouped, Normed, Short = module.Grouped, module.Normed, module.Short

SAM = {"optimizer.sam.radius": 0.2}
ASAM = {"optimizer.sam.radius": 1.0, "optimizer.sam.adaptive": True}
NOISE = {"optimizer.noise.eta": 0.3}
RATES = {"optimizer.rate.head": 0.2}
LATE = {"train.ema_decay": 0.8, "train.ema_start": 6, "train.ema_every": 2}
PLATEAU = {
    "optimizer.schedule": "plateau",
    "optimizer.plateau.patience": 1,
    "train.report_every": 1,
    "optimizer.lr": 0.5,
}
STAGES = {"optimizer.schedule": "stages", "optimizer.positions": (0.0, 0.9)}
STAGES |= {"optimizer.factors": (1.0, 0.1)}
ALL = {**ASAM, **NOISE, **RATES, **LATE, **PLATEAU}
CASES = {
    "sam": SAM,
    "asam": ASAM,
    "noise": NOISE,
    "rates": RATES,
    "late": LATE,
    "plateau": PLATEAU,
    "stages": STAGES,
    "all": ALL,
}


def named(settings):
    return {key.replace(".", "__"): value for key, value in settings.items()}


def training(folder, toys, system, **settings):
    return Training(system, toys.settings(system, **named(settings)), LocalRun(folder), None)


def batches_of(started, count, size=8):
    return list(iter(train_loader(started.loaders, Share(size, 1), 0, 0, count)))


@pytest.mark.parametrize(
    ("case", "precision"), [*((case, "no") for case in CASES), ("sam", "bf16"), ("all", "bf16")]
)
def test_a_resume_in_the_middle_is_exact(toys, tmp_path, case, precision):
    """An average that has not begun (step 4 of 6), a plateau that waits, a step of two passes."""
    changes = named({**CASES[case], "train.precision": precision, "model.dropout": 0.3})
    whole = toys.train(Normed(), tmp_path / "whole", **changes)
    same = {"model.dropout": 0.3, "train.precision": precision}
    plain = toys.train(Normed(), tmp_path / "plain", **named(same))
    toys.train(Normed(), tmp_path / "part", stop=4, **changes)
    rest = toys.train(Normed(), tmp_path / "part", resume=True, **changes)
    assert all(torch.equal(rest.tensors[key], value) for key, value in whole.tensors.items())
    assert toys.without_time(rest.report) == toys.without_time(whole.report)
    if case != "late":
        differs = [not torch.equal(whole.tensors[key], v) for key, v in plain.tensors.items()]
        assert any(differs), "the setting has moved nothing"


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("case", ["sam", "rates", "all"])
def test_a_resume_with_weights_in_bf16_is_exact(toys, tmp_path, case, kind):
    """What rounding leaves off goes on too: without it the first update after the resume is
    another one.
    """
    changes = named({**CASES[case], "optimizer.kind": kind, "optimizer.lr": 1e-3})
    changes |= {"train__steps": 16, "train__report_every": 4}
    whole = toys.train(Short(), tmp_path / "whole", **changes)
    toys.train(Short(), tmp_path / "part", stop=8, **changes)
    rest = toys.train(Short(), tmp_path / "part", resume=True, **changes)
    assert whole.tensors["module.model.head.weight"].dtype == torch.bfloat16
    assert all(torch.equal(rest.tensors[key], value) for key, value in whole.tensors.items())
    one, other = (
        checkpoint.load(checkpoint.available(tmp_path / name / "checkpoints")[-1], Short.name)
        for name in ("whole", "part")
    )
    (mine,), (theirs,) = one.state["optimizers"], other.state["optimizers"]
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("case", ["sam", "asam", "noise", "all"])
def test_accumulation_cuts_an_update_and_changes_nothing(toys, tmp_path, case):
    settings = {**CASES[case], "optimizer.eps": 1e-4}
    whole = toys.train(Grouped(), tmp_path / "whole", **named(settings))
    cut = {**settings, "train.batch_size": 2, "train.accumulate": 4}
    found = toys.train(Grouped(), tmp_path / "cut", **named(cut))
    for key, value in whole.tensors.items():
        torch.testing.assert_close(found.tensors[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_ranks_update_as_one(ranks, tmp_path):
    """The first gradient of SAM is reduced before the step aside, noise is equal on both, and so
    is what a plateau hears.
    """
    cuts = {1: {"train.batch_size": 8}, 2: {"train.batch_size": 2, "train.accumulate": 2}}
    one, two = (
        ranks.trained(
            tmp_path / str(world),
            world,
            f"{TOY}:Grouped",
            {**ALL, **cut, "optimizer.eps": 1e-4},
        )
        for world, cut in cuts.items()
    )
    for key, value in one[1].items():
        torch.testing.assert_close(two[1][key], value, rtol=1e-4, atol=1e-5)
    assert two[0][0]["train.lr"] == two[0][1]["train.lr"] == one[0][0]["train.lr"]


@pytest.mark.slow
def test_on_two_ranks_the_second_pass_has_the_masks_and_statistics_of_the_first(ranks, tmp_path):
    """Dropout and running statistics are those of a rank, which one process does not have: with a
    radius of next to nothing the second gradient is the first, rank by rank and cut by cut.
    """
    settings = {"train.batch_size": 2, "train.accumulate": 2, "model.dropout": 0.5}
    plain, near = (
        ranks.trained(
            tmp_path / str(radius),
            2,
            f"{TOY}:Normed",
            {**settings, "optimizer.sam.radius": radius, "optimizer.eps": 1e-4},
        )[1]
        for radius in (0.0, 1e-12)
    )
    for key, value in plain.items():
        torch.testing.assert_close(near[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_ranks_update_weights_in_bf16_as_one(ranks, tmp_path):
    """But for gradients that are rounded in parts."""
    one, two = (
        ranks.trained(
            tmp_path / str(world),
            world,
            f"{TOY}:Short",
            {**NOISE, "train.batch_size": 8 // world, "optimizer.eps": 1e-4},
        )
        for world in (1, 2)
    )
    for key, value in one[1].items():
        torch.testing.assert_close(two[1][key], value, rtol=0.03, atol=0.03)


def test_dropout_is_replayed_in_the_second_pass(toys, tmp_path):
    """With a radius of next to nothing the second gradient is the first, mask by mask."""
    found = []
    for name, settings in {"plain": {}, "near": {"optimizer.sam.radius": 1e-12}}.items():
        system = Normed()
        settings = {**settings, "model.dropout": 0.5, "train.accumulate": 2}
        found.append(toys.train(system, tmp_path / name, **named(settings)).tensors)
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-6)


def test_running_statistics_advance_once(toys, tmp_path):
    found = toys.train(Normed(), tmp_path, **named(SAM)).tensors
    assert int(found["module.model.norm.num_batches_tracked"]) == 12


def test_terms_are_reported_at_the_weights_and_not_aside_of_them(toys, tmp_path):
    """The first update of both begins at the same weights; the columns of its report are equal."""
    reports = [
        toys.train(Grouped(), tmp_path / str(n), stop=1, train__report_every=1, **settings).report
        for n, settings in enumerate(({}, named({"optimizer.sam.radius": 0.5})))
    ]
    same = [report["train.loss.squared"] for report in reports]
    assert same[0] == same[1]
    norms = [report["train.grad_norm"] for report in reports]
    assert norms[0] != norms[1], "that is of the gradient that is applied"


def test_sam_is_refused_where_a_scaler_looks_after_one_gradient(toys):
    with pytest.raises(SettingsError, match=r"optimizer\.sam\.radius=0\.2 .*precision=bf16"):
        toys.settings(Grouped(), **named({**SAM, "train.precision": "fp16"}))


def test_noise_comes_after_the_clip(toys, tmp_path):
    started = training(
        tmp_path, toys, Grouped(), **{**NOISE, "train.clip_norm": 1e-6, "optimizer.kind": "sgd"}
    )
    before = torch.nn.utils.parameters_to_vector(started.modules["model"].parameters()).detach()
    started.one_step(batches_of(started, 1))
    after = torch.nn.utils.parameters_to_vector(started.modules["model"].parameters()).detach()
    moved = (after - before).norm() / 0.03 / len(before) ** 0.5
    assert 0.3**0.5 / 2 < float(moved) < 2 * 0.3**0.5
    started.close()


def test_phases_have_noise_of_their_own(toys, tmp_path):
    changes = {"critic_optimizer.noise.eta": 0.3, "optimizer.noise.eta": 0.3}
    changes |= {"critic_optimizer.kind": "sgd", "optimizer.kind": "sgd"}
    started = training(tmp_path, toys, toys.ToyGan(), **changes, **{"train.clip_norm": 1e-9})
    (batch,) = batches_of(started, 1)
    parameters = [p for part in started.modules.values() for p in part.parameters()]
    before = [p.detach().clone() for p in parameters]
    started.one_step([batch])
    moves = torch.cat([(p - b).flatten() for p, b in zip(parameters, before, strict=True)])
    started.close()
    assert len(set(moves.tolist())) == len(moves) == 5


def test_a_group_learns_by_its_own_rate(toys, tmp_path):
    settings = {"optimizer.rate.head": 0.0, "optimizer.weight_decay": 0.5}
    before = training(tmp_path / "a", toys, Grouped(), **settings)
    head = before.modules["model"].head.weight.clone()
    before.close()
    found = toys.train(Grouped(), tmp_path / "b", **named(settings))
    assert torch.equal(found.tensors["module.model.head.weight"], head), "its decay is 0, too"
    assert found.report["train.lr.head"] == 0.0
    assert found.report["train.lr"] == 0.03


def test_the_average_begins_at_its_start_and_takes_in_every_other_update(toys, tmp_path):
    changes = named({**LATE, "train.report_every": 1})
    steps = [
        toys.train(Grouped(), tmp_path, resume=True, stop=stop, **changes)
        for stop in range(1, 13)
    ]
    weight, average = "module.model.head.weight", "ema.model.module.head.weight"
    for found in steps[:6]:
        assert torch.equal(found.tensors[average], found.tensors[weight])
    expected = steps[5].tensors[weight]
    for step, found in enumerate(steps[6:], 7):
        if step % 2 == 0:
            expected = 0.8 * expected + 0.2 * found.tensors[weight]
        torch.testing.assert_close(found.tensors[average], expected)


def test_the_rate_falls_on_a_plateau_of_the_objective(toys, tmp_path):
    changes = named({**PLATEAU, "train.steps": 30})
    found = toys.train(Grouped(), tmp_path, objective=("val.mse", "min"), **changes)
    best, factor = float("inf"), 1.0
    for report in found.history:
        assert report["train.lr"] == pytest.approx(0.5 * factor)
        factor *= 1.0 if report["val.mse"] < best else 0.5
        best, factor = min(best, report["val.mse"]), max(factor, 0.01)
    assert factor < 1.0


# --- gradients of the terms ----------------------------------------------------------------------

COLUMNS = {
    "train.loss.squared.grad_norm",
    "train.loss.absolute.grad_norm",
    "train.loss.squared.grad_cosine.absolute",
}


def by_hand(started, batch, shared=None):
    """The gradients of weight times mean of each term, with respect to these parameters, or to
    all.
    """
    net = started.modules["model"]
    shared = list(net.parameters()) if shared is None else shared
    error = net(batch["x"]) - batch["y"]
    terms = {"squared": error.square().mean(), "absolute": 0.5 * error.abs().mean()}
    return {
        name: torch.cat(
            [
                g.flatten().double()
                for g in torch.autograd.grad(value, shared, retain_graph=True)
            ]
        ).numpy()
        for name, value in terms.items()
    }


@pytest.mark.parametrize("balancer", ["none", "gradnorm"])
def test_they_are_those_of_the_step_before_the_report(toys, tmp_path, balancer):
    settings = {"train.term_gradients": True, "train.report_every": 3, "train.steps": 3}
    settings |= {"loss.balancer.kind": balancer} if balancer != "none" else {}
    started = training(tmp_path, toys, Grouped(), **settings)
    batches = batches_of(started, 3)
    for batch in batches[:2]:
        started.one_step([batch])
    expected = by_hand(started, batches[2])
    started.one_step([batches[2]])
    found = started.updates[0].interval.report(3)
    started.close()
    if balancer == "none":
        for name, vector in expected.items():
            norm = float(np.linalg.norm(vector))
            assert found[f"train.loss.{name}.grad_norm"] == pytest.approx(norm, rel=1e-5)
    a, b = expected.values()
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found["train.loss.squared.grad_cosine.absolute"] == pytest.approx(cosine, abs=1e-5)


class Headed(Grouped):
    """Its terms are compared at the last layer."""

    def phases(self, settings, prepared):
        (phase,) = super().phases(settings, prepared)
        return [replace(phase, shared=lambda modules: list(modules["model"].head.parameters()))]


def test_they_are_taken_at_the_layer_that_the_system_shares_among_its_terms(toys, tmp_path):
    settings = {"train.term_gradients": True, "train.report_every": 1, "train.steps": 1}
    started = training(tmp_path, toys, Headed(), **settings)
    (batch,) = batches_of(started, 1)
    head = list(started.modules["model"].head.parameters())
    expected, everywhere = by_hand(started, batch, head), by_hand(started, batch)
    started.one_step([batch])
    found = started.updates[0].interval.report(1)
    started.close()
    for name, vector in expected.items():
        norm = float(np.linalg.norm(vector))
        assert norm < 0.99 * float(np.linalg.norm(everywhere[name])), "the first layer has a part"
        assert found[f"train.loss.{name}.grad_norm"] == pytest.approx(norm, rel=1e-5)
    a, b = expected.values()
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found["train.loss.squared.grad_cosine.absolute"] == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"model.dropout": 0.4}, SAM, {"train.precision": "bf16"}]
)
def test_the_training_is_the_same_to_the_bit(toys, tmp_path, settings):
    plain = toys.train(Normed(), tmp_path / "plain", **named(settings))
    found = toys.train(
        Normed(), tmp_path / "found", train__term_gradients=True, **named(settings)
    )
    assert all(torch.equal(found.tensors[key], value) for key, value in plain.tensors.items())
    assert found.report.keys() - plain.report.keys() == COLUMNS
    rest = {key: found.report[key] for key in plain.report}
    assert toys.without_time(rest) == toys.without_time(plain.report)


def test_a_term_that_is_off_has_none(toys, tmp_path):
    report = toys.train(
        Grouped(), tmp_path, train__term_gradients=True, loss__absolute__weight=0.0
    ).report
    assert report["train.loss.absolute.grad_norm"] is None
    assert report["train.loss.squared.grad_cosine.absolute"] is None
    assert report["train.loss.squared.grad_norm"] > 0.0


def test_every_phase_has_its_own(toys, tmp_path):
    report = toys.train(toys.ToyGan(), tmp_path, train__term_gradients=True).report
    assert report["train.critic.hinge.grad_norm"] is not None
    assert len([column for column in report if ".grad_cosine." in column]) == 3


@pytest.mark.slow
def test_two_ranks_and_accumulation_measure_as_one(ranks, tmp_path):
    cuts = {1: {"train.batch_size": 8}, 2: {"train.batch_size": 2, "train.accumulate": 2}}
    reports = [
        ranks.trained(
            tmp_path / str(world),
            world,
            f"{TOY}:Grouped",
            {**cut, "train.term_gradients": True, "optimizer.eps": 1e-4},
        )[0]
        for world, cut in cuts.items()
    ]
    for (one,), (first, second) in pairwise(reports):
        for column in COLUMNS:
            assert first[column] == second[column] == pytest.approx(one[column], rel=1e-4)
