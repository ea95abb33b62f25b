"""Faults planted in splits, units and references."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from trainables import toy
from trainables.contract.beside import RULES
from trainables.contract.check import faults_of
from trainables.contract.examined import Examined
from trainables.reference import Reference


class Sound(toy.Toy):
    """The toy with a test split, units and a reference."""

    name = "tests:Sound"
    shown = toy.Line(toy.ToyData(noise=0.0), 3, 6)
    units: ClassVar = {"validation": ("a",) * 37, "test": ("b",) * 6}

    def loaders(self, settings, prepared):
        loaders = super().loaders(settings, prepared)
        return dataclasses.replace(loaders, test=self.shown, units=self.units)

    def references(self, settings, prepared):
        return {"zero": Reference(lambda batch: {"y": 0.0 * batch["y"]}, "nothing")}


class TrainedOn(Sound):
    shown = toy.Line(toy.ToyData(noise=0.0), 1, 6)


class ValidatedOn(Sound):
    shown = toy.Line(toy.ToyData(noise=0.0), 2, 6)


class Empty(Sound):
    shown = toy.Line(toy.ToyData(noise=0.0), 3, 0)
    units: ClassVar = {}


class TooFewUnits(Sound):
    units: ClassVar = {"validation": ("a",) * 36}


class NoText(Sound):
    units: ClassVar = {"test": (1, 2, 3, 4, 5, 6)}


class NoSuchSplit(Sound):
    units: ClassVar = {"val": ("a",)}


class Silent(Sound):
    def references(self, settings, prepared):
        return {"zero": Reference(lambda batch: {"x": batch["x"]}, "nothing")}


class Taken(Sound):
    def references(self, settings, prepared):
        return {"untrained": Reference(lambda batch: {"y": batch["y"]}, "mine")}


FAULTS = {
    TrainedOn: "no training sample is in it, for nothing may have chosen by it; its sample 0",
    ValidatedOn: "no validation sample is in it",
    Empty: "it is None or has samples; it is empty",
    TooFewUnits: "it has 36 for 37 samples. Give one for each",
    NoText: "a unit is a text; one is 1",
    NoSuchSplit: "it names the units of validation or test; it is of 'val'",
    Silent: "zero have no value of it on validation",
    Taken: "has a reference 'untrained', which is the platform's own",
}


def told(system, cache):
    examined = Examined(system(), cache, {"data.noise": 0.0})
    return " | ".join(str(fault) for rule in RULES for fault in faults_of(rule, examined))


def test_a_sound_system_has_no_fault(tmp_path):
    assert told(Sound, tmp_path) == ""


@pytest.mark.parametrize("system", FAULTS, ids=lambda system: system.__name__)
def test_a_fault_is_named(system, tmp_path):
    assert FAULTS[system] in told(system, tmp_path)
