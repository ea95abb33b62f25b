"""Faults in what modules begin with: weights of a file, and what makes them ready."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables.contract import beginning
from trainables.contract.check import check, faults_of
from trainables.contract.examined import Examined

SEAMS = Path(__file__).parents[1] / "seams"


@pytest.fixture
def toy_file(monkeypatch, one_thread):
    monkeypatch.syspath_prepend(SEAMS)
    return importlib.import_module("external_toy")


@pytest.mark.parametrize("name", ["Frozen", "Unbuilt", "Branched", "Other"])
def test_sound_systems_have_no_fault(toy_file, tmp_path, name):
    assert check(Examined(getattr(toy_file, name)(), tmp_path)) == []


def changed(toy_file, change):
    """The system with a frozen module, whose `build` is changed."""

    class Changed(toy_file.Frozen):
        def build(self, settings, prepared):
            built = super().build(settings, prepared)
            change(built, prepared)
            return built

    return Changed()


def misnamed(built, prepared):
    built.external = {"glass": prepared}


def updated(built, prepared):
    built.external = {**built.external, "model": prepared}


def wrongly_printed(built, prepared):
    built.external = {"lens": replace(prepared, fingerprint="0" * 64)}


def rounded(built, prepared):
    built.modules["lens"].half()


def changed_when_ready(built, prepared):
    def ready(modules):
        modules["lens"].norm.running_mean.add_(1.0)

    built.ready = ready


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (misnamed, "Built.external['glass']: it is a module; there are model, lens"),
        (updated, "Built.external['model']: no phase updates it"),
        (wrongly_printed, "Built.external['lens']: its fingerprint is that of its file"),
        (rounded, "after build it has others"),
        (changed_when_ready, "after ready it has others"),
    ],
)
def test_external_modules_are_held_to_their_file(toy_file, tmp_path, change, said):
    examined = Examined(changed(toy_file, change), tmp_path)
    faults = faults_of(beginning.holds_external_weights_as_they_are, examined)
    assert [said in str(fault) for fault in faults] == [True], faults


def test_ready_draws_from_the_seed(toy_file, tmp_path):
    generator = torch.Generator().manual_seed(0)

    def drawn(built, prepared):
        def ready(modules):
            with torch.no_grad():
                modules["model"].up.bias.add_(torch.rand(1, generator=generator))

        built.ready = ready

    examined = Examined(changed(toy_file, drawn), tmp_path)
    (fault,) = faults_of(beginning.is_made_ready_from_the_seed, examined)
    assert "one state of torch's generator gives one model" in str(fault)
