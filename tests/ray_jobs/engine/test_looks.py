"""References and looks without Ray: who measures, what is written, and what a failure costs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ray_jobs.engine import looks as of_looks
from ray_jobs.engine.references_once import ReferencesOnce
from ray_jobs.engine.trial import measure_references_once
from settings.flat import flatten, replace
from settings.paths import SweepPaths
from trainables.run import SupersededError
from trainables.system import load_system

BROKEN = """
from trainables.toy import Toy

class Broken(Toy):
    name = "systems_of_a_test:Broken"

    def references(self, settings, prepared):
        raise RuntimeError("no such codec")
"""


@pytest.fixture
def make_context(tmp_path, make_context):
    def make(system="trainables.toy:Toy", **changes):
        settings = flatten(replace(load_system(system).Settings(), {"train.steps": 4}))
        directory = tmp_path / "sweep"
        directory.mkdir(exist_ok=True)
        return make_context(directory, system=system, settings=settings, **changes)

    return make


@pytest.fixture
def broken(tmp_path, monkeypatch, make_context):
    (tmp_path / "systems_of_a_test.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    return make_context("systems_of_a_test:Broken")


def test_one_segment_is_asked_at_a_time_until_one_has_measured(make_context):
    context = make_context()
    once = ReferencesOnce(context.paths)
    assert once.asked_of("a")
    assert not once.asked_of("b"), "a does it"
    once.ended("b", at_its_end=True)
    once.ended("a", at_its_end=False)  # killed, or stopped, before it could
    assert once.asked_of("c")
    measure_references_once(context)
    once.ended("c", at_its_end=True)
    assert not once.asked_of("d")
    assert not ReferencesOnce(context.paths).asked_of("a"), "nor after a resume"


def test_the_network_at_step_0_is_the_documents(make_context):
    found = []
    for document in ({}, {"train.seed": 5}):
        measure_references_once(make_context(document=document))
        found.append(json.loads(make_context().paths.references.read_text())["untrained"])
    assert found[0].keys() == found[1].keys()
    assert found[0]["val.mse"] != found[1]["val.mse"]


def test_what_cannot_be_measured_costs_the_references_alone(broken, capsys):
    once = ReferencesOnce(broken.paths)
    assert once.asked_of("a")
    measure_references_once(broken)
    once.ended("a", at_its_end=True)
    told = capsys.readouterr().err
    assert told.startswith("warning: the references could not be measured: RuntimeError: no such")
    assert "references_error.txt" in told
    assert not once.asked_of("b"), "it would fail again"
    assert "Traceback" in SweepPaths(broken.root).references_error.read_text()
    again = ReferencesOnce(broken.paths)
    assert again.asked_of("a"), "a resume may have mended it"
    again.ended("a", at_its_end=False)
    assert capsys.readouterr().err == "", "the error was of the session before"
    assert again.asked_of("b")


def test_a_process_that_dies_of_it_is_not_followed_by_another(make_context, capsys):
    once = ReferencesOnce(make_context().paths)
    assert once.asked_of("a")
    assert once.ended("a", at_its_end=True)
    assert "the process that measured them has died, or could not" in capsys.readouterr().err
    assert not once.asked_of("b")
    assert once.failed


@pytest.fixture
def looks(make_context, monkeypatch):
    """A driver whose looks are counted, and whose trainings lie nowhere."""
    taken = []

    def take(context, split, trials, references):
        taken.append((split, dict(trials), references))
        return {
            "trials": {
                str(trial): {"configuration": it[0], "step": it[1]} for trial, it in trials.items()
            },
            "references": {},
        }

    monkeypatch.setattr(of_looks, "take_look", take)
    state = SimpleNamespace(changes=[0, 0])
    owner = {"still_owner": lambda: True}
    return SimpleNamespace(context=make_context(), state=state, stopping="", **owner), taken


def test_a_look_is_taken_once_for_each_state_of_the_sweep(looks):
    driver, taken = looks
    for _ in range(2):
        of_looks._test(driver, {0: (0, 4)})
    assert taken == [("test", {0: (0, 4)}, True)]
    driver.state.changes.append(1)
    of_looks._test(driver, {1: (1, 4)})
    stored = json.loads(driver.context.paths.test.read_text())["looks"]
    assert [(look["look"], look["place"]) for look in stored] == [(1, 2), (2, 3)]
    assert list(stored[1]["trials"]) == ["1"]


def test_by_unit_only_what_is_not_known_is_measured(looks):
    driver, taken = looks
    of_looks._measure_by_unit(driver, {0: (0, 4), 1: (1, 4)})
    of_looks._measure_by_unit(driver, {0: (0, 4), 1: (1, 4)})
    of_looks._measure_by_unit(driver, {0: (0, 8), 2: (2, 4)})
    assert [list(trials.items()) for _, trials, _ in taken] == [
        [(0, (0, 4)), (1, (1, 4))],
        [(0, (0, 8)), (2, (2, 4))],
    ]
    stored = json.loads(driver.context.paths.by_unit.read_text())
    assert {trial: it["step"] for trial, it in stored.items()} == {"0": 8, "1": 4, "2": 4}


def test_without_the_winners_checkpoint_there_is_no_look(looks, monkeypatch, capsys):
    from results import directory, frame, references

    driver, taken = looks
    driver.references = SimpleNamespace(failed=False)
    monkeypatch.setattr(directory, "read_sweep", lambda path: None)
    monkeypatch.setattr(frame, "load_sweep", lambda path, repeats: None)
    monkeypatch.setattr(references, "compared", lambda frame, sweep: {3: (3, 4), 0: (0, 4)})
    driver.context.checkpoint(0, 4).mkdir(parents=True)
    of_looks.look_at_the_winner(driver, test=True)
    assert taken == [("validation", {}, True)], "the references, which no segment has measured"
    told = capsys.readouterr().err
    assert told.count("trial 3 is not measured by unit, for its checkpoint of step 4 is gone") == 1
    driver.context.checkpoint(3, 4).mkdir(parents=True)
    of_looks.look_at_the_winner(driver, test=True)
    both = {3: (3, 4), 0: (0, 4)}
    assert taken[1:] == [("validation", both, False), ("test", both, True)]


def test_who_has_lost_the_sweep_writes_nothing(looks):
    driver, _ = looks
    driver.still_owner = lambda: False
    with pytest.raises(SupersededError):
        of_looks._test(driver, {0: (0, 4)})
    assert not driver.context.paths.test.exists()
