"""The driver without Ray: what it writes of illegal draws, early ends, stops and takeovers."""

from __future__ import annotations

import pytest

from ray_jobs.engine.driver import Driver
from ray_jobs.engine.trial import SweepContext
from results.store import EventLog
from search.jobs import Done, Job
from search.mirror import Mirror
from search.plan import Plan
from search_spaces.domains import Uniform
from search_spaces.space import Point, Space
from settings.schema import SettingsError
from trainables.run import SupersededError


@pytest.fixture
def make_driver(tmp_path):
    def make(preflight=lambda sampled: [], still_owner=lambda: True, **planned):
        space = Space("line", "toy", {"x": Uniform(0.0, 1.0)})
        options = {
            "trials": 3,
            "seed": 0,
            "metric": "val.x",
            "mode": "min",
            "steps": 10,
            "report_every": 5,
            "sampler": "random",
            "scheduler": "none",
        }
        plan = Plan(space=space, **{**options, **planned})
        context = SweepContext(
            system="toy",
            settings={},
            directory=str(tmp_path),
            cache=str(tmp_path),
            session="s",
            objective=("val.x", "min"),
            workers=1,
            cpus=1.0,
            gpus=0.0,
        )
        return Driver(
            plan=plan,
            context=context,
            log=EventLog(tmp_path / "log.jsonl"),
            mirror=Mirror(tmp_path / "journal.log", plan, "line"),
            max_concurrent=2,
            preflight=preflight,
            still_owner=still_owner,
        )

    return make


def ends(driver):
    return [event for event in driver.log.read() if event["event"] == "ended"]


def test_an_illegal_draw_fails_its_trial_and_the_sweep_goes_on(make_driver, tmp_path):
    def preflight(sampled):
        if not drawn:
            drawn.append(sampled)
            raise SettingsError("x and y must agree")
        return []

    drawn = []
    driver = make_driver(preflight)
    job = driver.next("first")
    assert isinstance(job, Job)
    assert job.trial == 1
    (refused,) = ends(driver)
    assert (refused["trial"], refused["state"]) == (0, "failed")
    assert refused["reason"] == "SettingsError: x and y must agree"
    assert (tmp_path / "trials/0000/error.txt").read_text().startswith("SettingsError")


def test_a_segment_that_ends_early_by_itself_has_failed(make_driver):
    """Were it "interrupted", it would be handed out again for ever."""
    driver = make_driver()
    driver.next("a")
    driver.reported("a", 5, 0.5, 1.0, began=0.0)
    driver.ended("a", failed=False)
    (end,) = ends(driver)
    assert (end["state"], end["reason"]) == ("failed", "it ended at step 5 of 10 without an error")


@pytest.mark.parametrize(
    ("reason", "state"), [("patience: val.x", "complete"), ("overfit: val.x", "stopped")]
)
def test_a_training_that_ends_by_itself_says_why(make_driver, reason, state):
    """It says so in its last report and returns; nobody stops it, and nobody runs it again."""
    driver = make_driver(trials=1)
    driver.next("a")
    assert not driver.reported("a", 5, 0.5, 1.0, began=0.0, own_reason=reason)
    driver.ended("a", failed=False)
    (end,) = ends(driver)
    assert (end["state"], end["reason"]) == (state, reason)
    assert (end["step"], end["value"]) == (5, 0.5)
    assert isinstance(driver.next("b"), Done)
    assert isinstance(make_driver(trials=1).next("c"), Done), "nor after a resume"


def test_its_own_reason_goes_before_that_of_a_rule(make_driver):
    """At a rung both may speak; the value counts there for the others all the same."""
    driver = make_driver(scheduler="asha", eta=2, grace=5, report_every=5)
    for ray_id, value in (("a", 0.1), ("b", 0.9)):
        driver.next(ray_id)
        driver.reported(ray_id, 5, value, 1.0, 0.0, "overfit: b" if ray_id == "b" else "")
    driver.ended("b", failed=False)
    (end,) = ends(driver)
    assert (end["trial"], end["state"], end["reason"]) == (1, "stopped", "overfit: b")
    rungs = [event for event in driver.log.read() if event["event"] == "rung"]
    assert [(event["trial"], event["value"]) for event in rungs] == [(0, 0.1), (1, 0.9)]


def test_a_documented_point_may_end_by_itself(make_driver):
    """No rule stops it, but what it says itself holds."""
    driver = make_driver(points=(Point("document", {"x": 0.5}),), scheduler="asha", grace=5)
    assert driver.next("a").point == "document"
    driver.reported("a", 5, 9.0, 1.0, 0.0, "patience: val.x")
    driver.ended("a", failed=False)
    assert [(end["state"], end["reason"]) for end in ends(driver)] == [
        ("complete", "patience: val.x")
    ]


def test_what_fails_after_its_own_end_has_failed(make_driver):
    driver = make_driver()
    driver.next("a")
    driver.reported("a", 5, 0.5, 1.0, 0.0, "patience: val.x")
    driver.ended("a", failed=True)
    assert [end["state"] for end in ends(driver)] == ["failed"]


def test_a_segment_that_a_stop_ends_is_interrupted(make_driver):
    driver = make_driver()
    driver.next("a")
    driver.stopping = "Ctrl-C"
    driver.ended("a", failed=True)  # its process got the signal as well, and left no error.txt
    (end,) = ends(driver)
    assert (end["state"], end["reason"]) == ("interrupted", "Ctrl-C")
    assert isinstance(driver.next("b"), Done)


def test_waiting_for_a_place_is_nobodys_time(make_driver):
    driver = make_driver()
    driver.next("a")
    driver.next("b")
    driver.ended("a", failed=True)
    driver.reported("b", 10, 0.5, 1.0, began=0.0)
    driver.ended("b", failed=False)
    never_began, began_long_ago = ends(driver)
    assert never_began["seconds"] == 0.0
    assert began_long_ago["seconds"] > 1e9


def test_a_driver_that_was_superseded_writes_nothing_more(make_driver):
    owner = [True]
    driver = make_driver(still_owner=lambda: owner[0])
    driver.next("a")
    before = driver.log.read()
    owner[0] = False
    with pytest.raises(SupersededError):
        driver.ended("a", failed=False)
    assert driver.log.read() == before
