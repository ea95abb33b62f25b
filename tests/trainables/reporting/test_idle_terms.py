"""What `train.measure_idle_terms=false` leaves out of a validation, and what it does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from losses.composite import Composite
from metrics.combined import Combined
from metrics.health import HealthSettings
from metrics.health_signs import MeasuredSign
from settings.flat import replace
from trainables.loop import fit
from trainables.reporting.measure import evaluate_checkpoint
from trainables.reporting.watch import Watch
from trainables.run import LocalRun
from trainables.toy import ToyGan

SMALL = {"train.steps": 8, "train.report_every": 4, "train.tensorboard": False}
IDLE = "val.loss.absolute"


def report_of(directory: Path, system=None, measured: bool = False, run=None, **changes):
    system = system or ToyGan()
    off = {"loss.absolute.enabled": False, "train.measure_idle_terms": measured}
    named = {key.replace("__", "."): value for key, value in changes.items()}
    tree = replace(system.Settings(), {**SMALL, **off, **named})
    return fit(system, tree, LocalRun(directory, **(run or {})), None)


def test_a_term_that_is_off_is_not_asked_and_nothing_else_changes(tmp_path, monkeypatch):
    terms = ToyGan().phases(ToyGan.Settings(), None)[0].composite.terms
    every = report_of(tmp_path / "every", measured=True)
    asked = []
    original = Composite.measure

    def spied(self, prediction, batch, settings, idle=()):
        asked.append(set(idle))
        return original(self, prediction, batch, settings, idle)

    monkeypatch.setattr(Composite, "measure", spied)
    few = report_of(tmp_path / "few")
    assert set(map(frozenset, asked)) == {frozenset({"absolute"}), frozenset()}
    assert every[IDLE] > 0.0 and few[IDLE] is None and IDLE in few
    assert list(few) == list(every)
    own = [key for key in every if key not in (IDLE, "seconds")]
    assert {key: few[key] for key in own} == {key: every[key] for key in own}
    assert "absolute" in terms


@pytest.mark.parametrize(
    "run",
    [
        {"objective": (IDLE, "min")},
        {"columns": (IDLE,)},
        {"derived": (Combined("weighted", {IDLE: 1.0, "val.mse": 1.0}),)},
    ],
    ids=["objective", "decision", "sum"],
)
def test_what_a_decision_reads_is_measured(tmp_path, run):
    found = report_of(tmp_path, run=run)
    assert found[IDLE] > 0.0


def test_what_patience_waits_for_is_measured_though_nobody_names_an_objective(tmp_path):
    """That is the first metric with a direction."""
    system, settings = ToyGan(), ToyGan.Settings()
    phases, metrics = system.phases(settings, None), system.metrics(settings, None)
    judged = dataclasses.replace(metrics[0], name="loss.absolute")
    for named, given, column in (
        (None, metrics, "val.mse"),
        (None, (judged, *metrics), IDLE),
        ((IDLE, "min"), metrics, IDLE),
    ):
        watch = Watch(settings, phases, given, named, None, pytest.fail)
        assert watch.read == {column}
    off = replace(settings, {"loss.absolute.enabled": False})
    composite = system.phases(off, None)[0].composite
    assert composite.idle({"val.mse"}) == {"absolute"} and not composite.idle({IDLE})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitive(HealthSettings):
    measured = (MeasuredSign("off", IDLE, "a term that is off:"),)
    off: float = 0.0


class Watched(ToyGan):
    def health(self, settings):
        return Sensitive()


def test_what_a_health_sign_reads_is_measured(tmp_path):
    assert report_of(tmp_path, Watched())["health.off"] > 0.0


def test_a_term_whose_schedule_has_not_begun_is_on(tmp_path):
    late = {"loss__absolute__schedule__kind": "step", "loss__absolute__schedule__start": 0.9}
    found = report_of(tmp_path, loss__absolute__enabled=True, **late)
    assert found[IDLE] > 0.0


def test_evaluate_measures_all(tmp_path):
    report_of(tmp_path)
    system = ToyGan()
    tree = replace(system.Settings(), {**SMALL, "train.measure_idle_terms": False})
    tree = replace(tree, {"loss.absolute.enabled": False})
    (path,) = sorted((tmp_path / "checkpoints").glob("step-*"))[-1:]
    assert evaluate_checkpoint(system, tree, None, path)[IDLE] > 0.0


def test_where_every_term_is_off_sums_and_counts_are_nothing():
    settings = replace(ToyGan.Settings(), {"critic.hinge.enabled": False})
    critic = ToyGan().phases(settings, None)[1].composite
    prediction = {"real": torch.ones(3, 1), "fake": torch.ones(3, 1)}
    batch = SimpleNamespace()
    sums, counts = critic.measure(prediction, batch, settings, critic.idle(()))
    assert sums.tolist() == counts.tolist() == [0.0]
    assert critic.idle({"val.critic.hinge"}) == frozenset()
