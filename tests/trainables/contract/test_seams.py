"""Sound systems and planted faults at the seams: schedules, shapes, seeds, frozen networks."""

from __future__ import annotations

import dataclasses
import importlib
import runpy
from pathlib import Path

import pytest
import torch

from trainables import toy
from trainables.contract import beginning, beside, examinations, metrics, samples, training
from trainables.contract.check import check, faults_of
from trainables.contract.examined import Examined
from trainables.parts import Loaders
from trainables.reference import Reference

SEAMS = Path(__file__).parents[1] / "seams"
ORDERS = runpy.run_path(str(SEAMS / "orders_toy.py"))


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """Every test of this file."""


def said(system, folder, rule, **changes):
    examined = Examined(system(), folder, {k.replace("__", "."): v for k, v in changes.items()})
    return " | ".join(str(fault) for fault in faults_of(rule, examined))


@pytest.fixture
def windowed(monkeypatch):
    monkeypatch.syspath_prepend(SEAMS)
    return importlib.import_module("draws_toy").Windowed


def test_a_schedule_of_a_phase_is_a_declared_column(windowed, tmp_path):
    assert said(windowed, tmp_path, training.keeps_every_column) == ""


def test_a_schedule_that_validation_does_not_have(windowed, tmp_path):
    def predict(self, modules, batch, settings):
        return {"y": modules["model"](batch["x"], batch["schedule.model.noise"])}

    blind = type("Blind", (windowed,), {"predict": predict})
    told = said(blind, tmp_path, samples.draws_by_sample)
    assert "'schedule.model.noise'" in told
    assert "in validation not of Phase.training_schedules" in told


@pytest.fixture
def grouped(monkeypatch):
    monkeypatch.syspath_prepend(SEAMS)
    return importlib.import_module("update_toy").Grouped


@pytest.mark.parametrize("key", ["optimizer__rate__head", "train__term_gradients"])
def test_rates_of_groups_and_gradients_of_terms_are_declared_columns(grouped, tmp_path, key):
    value = 0.5 if key.endswith("head") else True
    assert said(grouped, tmp_path, training.keeps_every_column, **{key: value}) == ""


def test_counted_operations_are_declared_columns(tmp_path):
    changes = {"train__count_flops": True}
    assert said(toy.Toy, tmp_path, training.keeps_every_column, **changes) == ""


class Shaped(ORDERS["Grouped"]):
    """Validation samples of three lengths as well."""

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        fixed = loaders.validation

        class Fixed:
            def __len__(self):
                return len(fixed)

            def __getitem__(self, index):
                length = 1 + index % 3
                return {key: v.expand(length, 1) for key, v in fixed[index].items()}

        return dataclasses.replace(loaders, validation=Fixed())


@pytest.mark.parametrize(
    "rule", [metrics.measures_by_sums, training.validates_alike_in_any_batches]
)
def test_validation_samples_of_several_shapes_are_no_fault(tmp_path, rule):
    changes = {"train__validation_batch_size": 1}
    assert "stack" not in (told := said(Shaped, tmp_path, rule, **changes)), told
    assert "shape" not in told


class Seeded(toy.Toy):
    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)

        class Same(toy.Line):
            def __getitem__(self, key):
                return {**super().__getitem__(key), "seed": torch.tensor(7)}

        return Loaders(Same(settings.data, 1, 8), loaders.validation)


def test_a_tensor_called_seed_that_is_none(tmp_path):
    told = said(Seeded, tmp_path, samples.draws_samples_from_their_seed)
    assert "its `seed`, where it has one, is its own seed" in told
    assert "it is 7 for two seeds. Leave it out" in told


class Elsewhere(toy.Toy):
    def references(self, settings, prepared):
        predict = lambda batch: {"y": 0.0 * batch["y"]}  # noqa: E731
        return {"zero": Reference(predict, "nothing", examine={"drawn": lambda exam: {}})}


def test_a_reference_takes_part_in_no_examination_of_that_name(tmp_path):
    told = said(Elsewhere, tmp_path, beside.measures_its_references)
    assert "reference zero" in told
    assert "`examine` names 'drawn', and there are none" in told


def test_a_count_of_an_examination_that_is_no_tensor(tmp_path):
    drawn = runpy.run_path(str(SEAMS / "examination_toy.py"))
    examination = drawn["DRAWN"]

    def run(exam):
        return {c.name: (torch.zeros(()).double(), 3.0) for c in examination.columns}

    planted = dataclasses.replace(examination, run=run)
    system = type("Counts", (drawn["Examined"],), {"examinations": lambda *a: [planted]})
    told = said(system, tmp_path, examinations.examines_case_by_case)
    assert f"examination {examination.name}, column {examination.columns[0].name}, " in told
    assert "returns (Tensor, float), and measures are two tensors" in told


class Misfit(toy.Toy):
    def phases(self, settings, prepared):
        def forward(modules, batch, settings):
            return {"y": modules["model"](torch.ones(1, 5))}

        (phase,) = super().phases(settings, prepared)
        return [dataclasses.replace(phase, forward=forward)]


def test_what_torch_raises_is_placed_in_the_systems_own_code(tmp_path):
    told = said(Misfit, tmp_path, metrics.measures_by_sums)
    assert "mat1 and mat2" in told
    assert ".py:" in told
    assert "linear.py" not in told


def test_a_missing_member_is_told_once(tmp_path):
    bare = type("Bare", (toy.Toy,), {"phases": None})
    (fault,) = check(Examined(bare(), tmp_path))
    assert "member phases" in str(fault)


@pytest.fixture
def frozen(monkeypatch):
    monkeypatch.syspath_prepend(SEAMS)
    return importlib.import_module("external_toy").Frozen


def test_a_frozen_network_named_by_its_path(frozen, tmp_path):
    def build(self, settings, prepared):
        built = frozen.build(self, settings, prepared)
        built.external = {"lens": str(prepared.file)}
        return built

    system = type("Path", (frozen,), {"build": build})
    told = said(system, tmp_path, beginning.holds_external_weights_as_they_are)
    assert "it is what `external_file` makes; it is a str. Let `prepare` make it" in told
