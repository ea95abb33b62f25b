"""Faults that are planted in a sound system, each named by the rule that it breaks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from losses.composite import Composite
from losses.terms import Term, TermSettings
from metrics.metric import Metric
from settings.schema import setting
from trainables import toy
from trainables.contract import training
from trainables.contract.check import RULES, check, faults_of
from trainables.contract.examined import Examined
from trainables.parts import Built, Loaders, Phase
from trainables.system import SystemBase

QUICK = [rule for rule in RULES if rule not in training.RULES]


def errors(prediction, batch):
    return prediction["y"].float() - batch["y"]


class Planted(toy.Toy):
    """The toy, whose second term, or whatever else, is replaced."""

    name = "tests:Planted"
    term = Term(toy.absolute, toy.count_samples)
    measure = Metric("mse", "", "min", toy.squared_error, "mean squared error")

    def phases(self, settings, prepared):
        terms = {"squared": Term(toy.squared, toy.count_samples), "absolute": self.term}
        composite = Composite(terms, settings.loss)
        return [Phase("model", ("model",), type(self).forward, composite)]

    def metrics(self, settings, prepared):
        return [self.measure]

    @staticmethod
    def forward(modules, batch, settings):
        return toy.predict(modules, batch, settings)


def summed(function, **options):
    """The system with this sum as its second term."""
    term = Term(function, toy.count_samples, **options)
    return type("Summed", (Planted,), {"term": term})


def measured(function, **options):
    metric = Metric("mse", "", "min", function, "mean squared error", **options)
    return type("Measured", (Planted,), {"measure": metric})


# Terms


def a_mean(prediction, batch, settings):
    return errors(prediction, batch).abs().mean()


def a_key_that_is_not_declared(prediction, batch, settings):
    return settings.data.noise * errors(prediction, batch).abs().sum()


def a_global_draw(prediction, batch, settings):
    noise = torch.rand_like(batch["y"])
    return (noise * errors(prediction, batch).abs()).sum()


def nothing_to_learn_from(prediction, batch, settings):
    return errors(prediction, batch).abs().sum().detach()


def an_infinite_slope(prediction, batch, settings):
    error = errors(prediction, batch)
    return (error - error.detach()).square().sqrt().sum() + error.abs().sum()


def below_zero(prediction, batch, settings):
    return -errors(prediction, batch).abs().sum()


def a_change_in_place(prediction, batch, settings):
    batch["y"].add_(1.0)
    return errors(prediction, batch).abs().sum()


def a_vector(prediction, batch, settings):
    return errors(prediction, batch).abs().sum(dim=1)


def a_mistake(prediction, batch, settings):
    return errors(prediction, batch).abs().sum() + batch["weight"].sum()


SEEN = {"count": 1.0}


class CountOfThePrediction(Planted):
    """The forward leaves behind how many of its outputs are large, and the count takes it."""

    @staticmethod
    def forward(modules, batch, settings):
        prediction = toy.predict(modules, batch, settings)
        SEEN["count"] = 1.0 + float(prediction["y"].detach().abs().sum())
        return prediction

    term = Term(toy.absolute, lambda batch, settings: torch.tensor(SEEN["count"]))


class CountThatIsAShare(Planted):
    term = Term(toy.absolute, lambda batch, settings: (batch["x"] > -2.0).double().mean())


def distances(batch, settings):
    return batch["x"].abs().sum(dtype=torch.float64)


class CountThatIsNotConstant(Planted):
    term = Term(toy.absolute, distances, constant_count=True)


@dataclass(frozen=True, kw_only=True)
class IdleSettings(TermSettings):
    power: float = setting(1.0, "read by nobody", low=0.5, high=4.0)


@dataclass(frozen=True, kw_only=True)
class IdleLoss(toy.ToyLoss):
    absolute: IdleSettings = field(default_factory=IdleSettings)


@dataclass(frozen=True, kw_only=True)
class IdleTree(toy.ToySettings):
    loss: IdleLoss = field(default_factory=IdleLoss)


class KeyWithoutEffect(Planted):
    Settings = IdleTree


class NoSuchKey(Planted):
    term = Term(toy.absolute, toy.count_samples, reads=("loss.absolute.radius",))


def a_count_without_a_tensor(batch, settings):
    return len(batch["x"])


class CountThatIsNoTensor(Planted):
    term = Term(toy.absolute, a_count_without_a_tensor)


# Metrics


def a_mean_of_the_batch(prediction, batch, settings):
    return errors(prediction, batch).square().mean().double(), torch.tensor(1.0).double()


def a_searched_epsilon(prediction, batch, settings):
    error = (errors(prediction, batch) * settings.data.noise).square().flatten(1).mean(dim=1)
    return error.double().sum(), torch.tensor(float(len(error))).double()


def single_precision(prediction, batch, settings):
    error = errors(prediction, batch).square()
    return error.sum(), torch.tensor(float(len(error)))


def one_number(prediction, batch, settings):
    return errors(prediction, batch).square().sum().double()


class MadeFromASetting(Planted):
    """The metric reads no setting when it measures: it was made with one."""

    def metrics(self, settings, prepared):
        noise = settings.data.noise

        def scaled(prediction, batch, settings):
            sums, count = toy.squared_error(prediction, batch, settings)
            return sums * (1.0 + noise), count

        return [Metric("mse", "", "min", scaled, "mean squared error")]


class NoDirection(Planted):
    measure = Metric("mse", "", None, toy.squared_error, "mean squared error")


# Data and modules


class UnseededLine(toy.Line):
    def __getitem__(self, key):
        sample = super().__getitem__(key)
        return {**sample, "y": sample["y"] + 0.1 * torch.randn(1)}


class UnseededData(Planted):
    def loaders(self, settings, prepared):
        return Loaders(UnseededLine(settings.data, 1, 64), toy.Line(settings.data, 2, 37))


class NoisyLine(toy.Line):
    """Noise in every sample, of a size that a space may search."""

    def __getitem__(self, key):
        index = key[0] if isinstance(key, tuple) else key
        generator = torch.Generator().manual_seed(index)
        sample = super().__getitem__(key)
        noise = torch.randn(1, generator=generator)
        return {**sample, "y": sample["y"] + self.settings.noise * noise}


class NoisyValidation(Planted):
    def loaders(self, settings, prepared):
        return Loaders(toy.Line(settings.data, 1, 64), NoisyLine(settings.data, 2, 37))


class SeedingLine(toy.Line):
    def __getitem__(self, key):
        torch.manual_seed(0)
        return super().__getitem__(key)


class SeedingData(Planted):
    def loaders(self, settings, prepared):
        return Loaders(SeedingLine(settings.data, 1, 64), toy.Line(settings.data, 2, 37))


class NoTensors(Planted):
    @staticmethod
    def forward(modules, batch, settings):
        return modules["model"](batch["x"])


class NoPhases(toy.Toy):
    phases = SystemBase.phases


class TwoModules(Planted):
    """One of them is updated by no phase."""

    def build(self, settings, prepared):
        return Built(modules={"model": toy.Linear(settings.model), "other": nn.Linear(1, 1)})


class SeededModel(Planted):
    def build(self, settings, prepared):
        torch.manual_seed(0)
        return super().build(settings, prepared)


class Forgetful(toy.Linear):
    """Its output depends on how often it was asked, which no checkpoint knows."""

    def __init__(self, settings):
        super().__init__(settings)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) * (1.0 + 0.01 * self.calls)


class NoExactResume(Planted):
    def build(self, settings, prepared):
        return Built(modules={"model": Forgetful(settings.model)})


class OneSample(toy.Toy):
    """There is one volume to validate on."""

    def loaders(self, settings, prepared):
        return Loaders(toy.Line(settings.data, 1, 64), toy.Line(settings.data, 2, 1))


LATE = {"loss.absolute.schedule.start": 0.9, "loss.absolute.schedule.first": 0.0}

FAULTS = {
    "mean": (summed(a_mean), "term absolute: it returns a sum over samples", "as a mean would be"),
    "count of the prediction": (CountOfThePrediction, "term absolute: its count", "batch alone"),
    "count that is a share": (CountThatIsAShare, "term absolute: its count", "a share or a mean"),
    "count that is not constant": (
        CountThatIsNotConstant,
        "term absolute: a constant count is the same",
        "Leave constant_count out",
    ),
    "undeclared key": (
        summed(a_key_that_is_not_declared),
        "term absolute: `Term.reads` lists every key",
        'Add "data.noise"',
    ),
    "global draw": (summed(a_global_draw), "term absolute: a term draws nothing", "global seed"),
    "no gradient": (summed(nothing_to_learn_from), "term absolute: it pulls", "0 everywhere"),
    "infinite slope": (summed(an_infinite_slope), "term absolute: its gradient is finite", "root"),
    "below zero": (summed(below_zero), "term absolute: it is never below 0", "Term.unbounded"),
    "change in place": (summed(a_change_in_place), "term absolute: a term changes nothing", "_"),
    "vector": (summed(a_vector), "term absolute: sum and count are scalar", "every axis"),
    "exception": (summed(a_mistake), "system: ", "KeyError at test_faults.py"),
    "idle key": (KeyWithoutEffect, "every key of a term changes something", "absolute.power"),
    "no such key": (NoSuchKey, "term absolute: what it reads exists", "loss.absolute.radius"),
    "metric's mean": (measured(a_mean_of_the_batch), "metric mse: the sum of a batch", "`finish`"),
    "metric's key": (measured(a_searched_epsilon), "metric mse: `Metric.reads`", "data.noise"),
    "metric in float32": (measured(single_precision), "metric mse: it returns float64", "float32"),
    "metric without a count": (measured(one_number), "metric mse: it returns two", "per_sample"),
    "metric made with a key": (MadeFromASetting, "metric mse: `Metric.reads`", "data.noise"),
    "no direction": (NoDirection, "metrics: one has a better direction", "objective"),
    "unseeded sample": (UnseededData, "training sample: all that is random", "torch.Generator"),
    "noise in validation": (NoisyValidation, "key data.noise: all trials", "`prepare_reads`"),
    "seeding sample": (SeedingData, "training sample: it leaves torch's global", "seed nothing"),
    "no dict": (NoTensors, "TypeError", "return a dict"),
    "no phases": (NoPhases, "member phases: it is a method", "it is missing"),
    "count that is no tensor": (CountThatIsNoTensor, "sum and count are scalar", "is int"),
    "idle module": (TwoModules, "module other: each module is updated by one phase", "0 phases"),
    "seeded model": (SeededModel, "member build: another state", "seed nothing in build"),
}


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """Every test of this file."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name, tmp_path):
    system, subject_and_rule, words = FAULTS[name]
    examined = Examined(system(), tmp_path)
    lines = [str(fault) for rule in QUICK for fault in faults_of(rule, examined)]
    assert any(subject_and_rule in line and words in line for line in lines), lines


def test_a_training_that_does_not_resume_is_named(tmp_path):
    (fault, *_) = faults_of(training.resumes_exactly, Examined(NoExactResume(), tmp_path))
    assert "a resumed training equals an uninterrupted one" in str(fault)


@pytest.mark.parametrize("system", [Planted, toy.Toy, toy.ToyGan])
def test_a_sound_system_has_no_fault(system, tmp_path):
    said = []
    assert not check(Examined(system(), tmp_path), said.append)
    assert len(said) == len(RULES)


def test_where_declarations_are_broken_no_more_is_asked(tmp_path):
    said = []
    assert check(Examined(NoDirection(), tmp_path), said.append)
    assert "builds from the seed" not in said


def test_one_cause_is_one_line(tmp_path):
    """Of a mistake that every rule comes to, and of a draw that makes every question unclear."""
    for planted, words in ((a_mistake, "KeyError at test_faults.py"), (a_global_draw, "draws")):
        faults = check(Examined(summed(planted)(), tmp_path))
        assert sum(words in str(fault) for fault in faults) == 1, faults
        assert len(faults) <= 3, faults


def test_tensors_of_ones_own_are_looked_at(tmp_path):
    """A system may say on what its terms are audited."""

    class Own(summed(a_mean)):
        def audit_tensors(self, settings, prepared):
            y = torch.linspace(0.0, 1.0, 6)[:, None]
            return {"model": ({"y": y}, {"x": y, "y": 1.0 - y})}

    lines = [str(fault) for rule in QUICK for fault in faults_of(rule, Examined(Own(), tmp_path))]
    assert any("0.6 over the whole" in line for line in lines), lines


SOUND = {
    "a late term": (toy.Toy, {"loss.absolute.schedule.kind": "linear", **LATE}),
    "a balancer": (toy.Toy, {"loss.balancer.kind": "uncertainty"}),
    "an average": (toy.ToyGan, {"train.ema_decay": 0.9, "train.accumulate": 2}),
    "a critic that is off": (toy.ToyGan, {"loss.adversarial.enabled": False}),
    "one validation sample": (OneSample, {}),
    "dropout": (toy.Toy, {"model.dropout": 0.5}),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_is_left_alone(name, tmp_path):
    system, changes = SOUND[name]
    assert not [str(fault) for fault in check(Examined(system(), tmp_path, changes))]
