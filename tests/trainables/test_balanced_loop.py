"""Balancers in the loop: what they are shown, exact resume, and equal weights on every rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from losses.balancers.base import FixedWeights
from losses.balancers.settings import KINDS
from losses.composite import Composite
from losses.terms import Term
from search.guard import check_objective
from search_spaces.checks import check_space
from search_spaces.domains import Choice, LogUniform
from search_spaces.space import Space
from settings.flat import flatten, leaves
from trainables.loop import Training
from trainables.parts import Built, Phase
from trainables.run import LocalRun
from trainables.stepping.batches import Share, StepSampler
from trainables.stepping.gradients import TermGradients
from trainables.stepping.not_finite import NonFiniteError
from trainables.toy import Linear, Toy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BALANCED = tuple(kind for kind in KINDS if kind != "fixed")
QUICK = {"loss__balancer__interval": 3, "loss__balancer__lr": 0.05}


class Recorder(FixedWeights):
    """Fixed weights that keep what they are shown."""

    needs = "gradients"

    def __init__(self, interval=1):
        self.interval, self.seen = interval, {}

    def observe(self, observed, step):
        assert step not in self.seen
        self.seen[step] = observed


class Two(nn.Module):
    """A line behind a layer, so that there is something to share."""

    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.trunk(x)))


def watched(toy, balancer, shared=None, deep=False):
    """The toy with that balancer, its shared parameters, and the deeper model."""

    class Watched(toy):
        name = "tests:Watched"

        def build(self, settings, prepared):
            made = Two() if deep else Linear(settings.model)
            return Built(modules={"model": made})

        def phases(self, settings, prepared):
            first = super().phases(settings, prepared)[0]
            composite = Composite(first.composite.terms, settings.loss, balancer=balancer)
            return [Phase("model", ("model",), first.forward, composite, shared=shared)]

    return Watched()


def batches_of(system, tree, step):
    line = system.loaders(tree, None).train
    share = Share(tree.train.batch_size, tree.train.accumulate)
    for micro in StepSampler(len(line), share, tree.train.seed, step, step + 1):
        samples = [line[key] for key in micro]
        yield {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


@pytest.mark.parametrize("name", ["Toy", "Masked"])
@pytest.mark.parametrize("part", [None, "trunk"])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (2, 4)])
def test_a_balancer_sees_the_means_of_the_step_and_the_norms_of_their_gradients(
    toys, tmp_path, name, part, batch_size, accumulate
):
    """Unweighted, over the whole step, before the update: from the definition, in one batch."""
    recorder = Recorder(interval=2)
    shared = None if part is None else lambda m: list(getattr(m["model"], part).parameters())
    system = watched(getattr(toys, name), recorder, shared, deep=True)
    changes = {"train__batch_size": batch_size, "train__accumulate": accumulate}
    tree = toys.settings(system, train__steps=5, loss__absolute__weight=0.01, **changes)
    training = Training(system, tree, LocalRun(tmp_path), None)
    for step in range(5):
        before = {k: v.clone() for k, v in training.modules["model"].state_dict().items()}
        parts = list(batches_of(system, tree, step))
        training.one_step(parts)
        if step % 2:
            assert step not in recorder.seen
            continue
        model = Two()
        model.load_state_dict(before)
        batch = {key: torch.cat([piece[key] for piece in parts]) for key in parts[0]}
        parameters = list((model if part is None else getattr(model, part)).parameters())
        observed = recorder.seen[step]
        assert list(observed.losses) == list(observed.norms) == ["squared", "absolute"]
        for key, term in training.phases[0].composite.terms.items():
            total, count = term({"y": model(batch["x"])}, batch, tree)
            found = torch.autograd.grad(total / count, parameters, retain_graph=True)
            norm = float(torch.cat([g.flatten() for g in found]).norm())
            assert observed.losses[key] == pytest.approx(float(total.detach() / count), rel=1e-5)
            assert observed.norms[key] == pytest.approx(norm, rel=1e-5)
    assert sorted(recorder.seen) == [0, 2, 4]
    assert len({observed.seed for observed in recorder.seen.values()}) == 3


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (2, 4)])
def test_a_balancer_of_groups_sees_the_sum_of_each_and_the_norm_of_its_gradient(
    toys, tmp_path, batch_size, accumulate
):
    recorder = Recorder()
    recorder.components = {"both": {"squared": 2.0, "absolute": 0.5}}
    system = watched(toys.Toy, recorder, deep=True)
    changes = {"train__batch_size": batch_size, "train__accumulate": accumulate}
    tree = toys.settings(system, loss__absolute__weight=0.01, **changes)
    training = Training(system, tree, LocalRun(tmp_path), None)
    model = Two()
    model.load_state_dict(training.modules["model"].state_dict())
    parts = list(batches_of(system, tree, 0))
    batch = {key: torch.cat([piece[key] for piece in parts]) for key in parts[0]}
    training.one_step(parts)
    pairs = {
        name: term({"y": model(batch["x"])}, batch, tree)
        for name, term in training.phases[0].composite.terms.items()
    }
    loss = sum(recorder.components["both"][name] * s / n for name, (s, n) in pairs.items())
    found = torch.autograd.grad(loss, list(model.parameters()))
    norm = float(torch.cat([g.flatten() for g in found]).norm())
    assert recorder.seen[0].losses == {"both": pytest.approx(float(loss.detach()), rel=1e-5)}
    assert recorder.seen[0].norms == {"both": pytest.approx(norm, rel=1e-5)}


def test_looking_at_the_gradients_does_not_change_the_step(toys, tmp_path):
    """With weights held at 1 the gradients are taken and change nothing."""
    ones = {"loss__squared__weight": 1.0, "loss__absolute__weight": 1.0, "model__dropout": 0.3}
    held = {"loss__balancer__kind": "inverse_gradient", "loss__balancer__weight_max": 1.0}
    plain = toys.train(toys.Toy(), tmp_path / "plain", **ones)
    looked = toys.train(
        toys.Toy(), tmp_path / "looked", loss__balancer__interval=1, **ones, **held
    )
    assert all(torch.equal(looked.tensors[key], plain.tensors[key]) for key in plain.tensors)
    assert toys.without_time(looked.report) == toys.without_time(plain.report)


@pytest.mark.parametrize("kind", BALANCED)
@pytest.mark.parametrize("name", ["Toy", "Masked", "ToyGan"])
def test_a_resumed_training_equals_an_uninterrupted_one(toys, tmp_path, name, kind):
    """It is cut in the middle of an interval; the ratios look back in half of the cases."""
    make = getattr(toys, name)
    changes = {**QUICK, "loss__balancer__kind": kind, "loss__balancer__lookback": 0.5}
    whole = toys.train(make(), tmp_path / "whole", **changes)
    toys.train(make(), tmp_path / "part", stop=8, **changes)
    rest = toys.train(make(), tmp_path / "part", resume=True, **changes)
    assert all(torch.equal(rest.tensors[key], value) for key, value in whole.tensors.items())
    assert toys.without_time(rest.report) == toys.without_time(whole.report)
    weights = [r["train.loss.absolute.weight"] for r in whole.history]
    assert len(set(weights)) > 1 or kind == "magnitude_ratio", "nothing was balanced"


@pytest.mark.parametrize("kind", ["inverse_gradient", "uncertainty", "dwa"])
def test_one_batch_equals_two_that_are_accumulated(toys, tmp_path, kind):
    changes = {**QUICK, "loss__balancer__kind": kind, "optimizer__lr": 0.02}
    whole, parts = (
        toys.train(
            toys.Masked(),
            tmp_path / str(size),
            train__batch_size=size,
            train__accumulate=8 // size,
            **changes,
        )
        for size in (8, 2)
    )
    for column, value in toys.without_time(whole.report).items():
        assert parts.report[column] == pytest.approx(value, rel=1e-4, abs=1e-6), column


def test_the_columns_show_the_weights_as_applied(toys, tmp_path):
    """The weight of the interval's last step, not the one that its look has made for the next."""
    trained = toys.train(
        toys.Toy(),
        tmp_path,
        train__report_every=1,
        train__steps=3,
        loss__balancer__kind="uncertainty",
        loss__balancer__lr=0.5,
    )
    first, second = trained.history[:2]
    for name in ("squared", "absolute"):
        assert first[f"train.loss.{name}.weight"] == 1.0
        assert second[f"train.loss.{name}.weight"] != 1.0
    products = [
        second[f"train.loss.{name}"] * second[f"train.loss.{name}.weight"]
        for name in ("squared", "absolute")
    ]
    assert second["train.loss.total"] == pytest.approx(sum(products))
    assert second["train.loss.squared.share"] == pytest.approx(products[0] / sum(products))


@pytest.mark.parametrize("kind", BALANCED)
def test_a_term_that_is_off_gets_no_weight(toys, tmp_path, kind):
    trained = toys.train(
        toys.Toy(), tmp_path, loss__absolute__enabled=False, loss__balancer__kind=kind, **QUICK
    )
    for report in trained.history:
        assert report["train.loss.absolute"] is None
        assert report["train.loss.absolute.weight"] == 0.0
        if kind != "uncertainty":
            assert report["train.loss.squared.weight"] == 1.0


def nothing(batch, settings):
    return torch.zeros(())


@pytest.mark.parametrize("kind", BALANCED)
def test_a_term_with_nothing_to_count_is_not_observed(toys, tmp_path, kind):
    class Empty(Toy):
        name = "tests:Empty"

        def phases(self, settings, prepared):
            (phase,) = super().phases(settings, prepared)
            terms = dict(phase.composite.terms)
            terms["absolute"] = Term(terms["absolute"].sum, nothing)
            return [Phase("model", ("model",), phase.forward, Composite(terms, settings.loss))]

    changes = {**QUICK, "loss__balancer__kind": kind, "train__report_every": 1}
    changes |= {"train__steps": 6}
    for report in toys.train(Empty(), tmp_path, **changes).history:
        assert report["train.loss.absolute"] is None
        assert report["train.loss.squared"] > 0.0
        assert 0.0 < report["train.loss.absolute.weight"] < 10.0


def test_a_step_that_is_not_finite_is_never_observed(toys, tmp_path):
    recorder = Recorder()

    class Faulty(toys.Faulty):
        def phases(self, settings, prepared):
            (phase,) = super().phases(settings, prepared)
            composite = Composite(phase.composite.terms, settings.loss, balancer=recorder)
            return [Phase("model", ("model",), phase.forward, composite)]

    system = Faulty()
    with pytest.raises(NonFiniteError, match="step 6"):
        toys.train(system, tmp_path, data__samples=200)
    assert sorted(recorder.seen) == [0, 1, 2, 3, 4, 5]


def test_a_norm_that_overflowed_alone_is_never_observed(toys, tmp_path):
    """As fp16 may give it; in a moving average it would stay for ever."""
    recorder = Recorder()
    system = watched(toys.Toy, recorder)
    (update,) = Training(system, toys.settings(system), LocalRun(tmp_path), None).updates
    for step, norm in enumerate((1.0, float("inf"), float("nan"))):
        update.balancing.show(
            {"squared": 1.0}, {"squared": 2.0}, [norm], ["squared"], {"squared": 1.0}, 0, step
        )
    assert {step: seen.losses for step, seen in recorder.seen.items()} == {0: {"squared": 0.5}}


def test_shared_parameters_of_another_module_are_refused(toys, tmp_path):
    foreign = nn.Linear(1, 1)
    for shared in (lambda m: list(foreign.parameters()), lambda m: []):
        system = watched(toys.Toy, Recorder(), shared)
        with pytest.raises(ValueError, match="phase model: `shared` must name"):
            toys.train(system, tmp_path)


def test_a_space_may_search_the_balancer():
    """Its keys change no measure, as weights do; each exists only under its own kinds."""
    node = "loss.balancer"
    kind = f"{node}.kind"
    space = Space(
        "balancers",
        "trainables.toy:Toy",
        {
            kind: Choice(("fixed", "gradnorm", "dwa")),
            f"{node}.alpha": LogUniform(0.1, 3.0, when={kind: ("gradnorm",)}),
            f"{node}.lr": LogUniform(1e-3, 0.1, when={kind: ("gradnorm", "uncertainty")}),
            f"{node}.temperature": LogUniform(0.1, 4.0, when={kind: ("dwa",)}),
            "loss.absolute.weight": LogUniform(0.1, 10.0, when={kind: ("fixed",)}),
        },
    )
    toy = Toy()
    tree = toy.Settings()
    terms = toy.phases(tree, None)[0].composite.terms
    bound = check_space(space, leaves(toy.Settings), enabled_terms=tuple(terms)).bind(
        flatten(tree)
    )
    assert set(bound.active({kind: "gradnorm"})) == {kind, f"{node}.alpha", f"{node}.lr"}
    assert set(bound.active({kind: "fixed"})) == {kind, "loss.absolute.weight"}
    objectives = ["val.mse", "val.loss.squared"]
    metrics = toy.metrics(tree, None)
    assert check_objective(objectives, metrics, terms, bound.domains) == dict.fromkeys(
        objectives, "min"
    )


# Several processes


@pytest.mark.parametrize("kind", ["inverse_gradient", "gradnorm"])
def test_two_processes_equal_one_with_twice_the_batch(ranks, tmp_path, kind):
    """The second term is over few samples, of which a rank may have none in a step."""
    settings = {
        "optimizer.kind": "sgd",
        "optimizer.lr": 0.05,
        "loss.balancer.kind": kind,
        "loss.balancer.interval": 2,
    }
    whole = {**settings, "train.batch_size": 8}
    alone, tensors = ranks.trained(tmp_path / "one", 1, "Rooted", whole)
    cut = {"train.batch_size": 2, "train.accumulate": 2}
    both, found = ranks.trained(tmp_path / "two", 2, "Rooted", {**settings, **cut})
    for key, tensor in tensors.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)
    weight = "train.loss.absolute.weight"
    assert both[0][weight] == both[1][weight] != 1.0
    for report in both:
        for column, value in alone[0].items():
            if column != "seconds":
                assert report[column] == pytest.approx(value, rel=1e-4, abs=1e-6), column


# Mixed precision


@pytest.mark.parametrize("kind", BALANCED)
def test_bf16_trains(toys, tmp_path, kind):
    changes = {"train__precision": "bf16", "loss__balancer__kind": kind, **QUICK}
    report = toys.train(toys.Toy(), tmp_path, **changes).report
    assert report["step"] == 12 and report["train.loss.total"] is not None


@pytest.mark.gpu
def test_a_skipped_step_is_not_observed_and_norms_carry_no_loss_scale(toys, tmp_path):
    """The first steps overflow fp16: the schedule multiplies the loss by 10. The weights stay
    where they are, so that a step has the same gradients in both precisions.
    """
    seen = {}
    for precision in ("no", "fp16"):
        recorder = Recorder()
        trained = toys.train(
            watched(toys.Toy, recorder),
            tmp_path / precision,
            train__precision=precision,
            train__report_every=1,
            loss__squared__schedule__kind="linear",
            loss__squared__schedule__first=10.0,
            loss__squared__schedule__last=10.0,
            optimizer__lr=1e-9,
        )
        skipped = sum(report["train.skipped_steps"] for report in trained.history)
        assert len(recorder.seen) == 12 - skipped
        assert (skipped > 0) == (precision == "fp16")
        seen[precision] = recorder.seen
    assert seen["fp16"]
    for step, observed in seen["fp16"].items():
        assert observed.norms == pytest.approx(seen["no"][step].norms, rel=0.02)


def test_gradients_of_a_term_that_reaches_nothing_are_zero(toys, tmp_path):
    system = toys.Toy()
    training = Training(system, toys.settings(system), LocalRun(tmp_path), None)
    model = training.modules["model"]
    found = TermGradients(training.accelerator, list(model.parameters()))
    total = model(torch.ones(2, 1)).sum()
    found.add({"real": total, "constant": torch.ones(()), "own": total * 0.0})
    assert list(found.vectors) == ["real", "constant", "own"]
    assert found.norms().tolist() == [pytest.approx(8.0**0.5), 0.0, 0.0]
