"""The driver without Ray: what it writes of illegal draws, early ends, stops and takeovers."""

from __future__ import annotations

import time

import pytest

from ray_jobs.engine.driver import Driver
from ray_jobs.engine.nodes import Loss
from results.store import EventLog
from search.jobs import Done, Job
from search.objectives import Goal, Objective
from search.optuna.mirror import Mirror
from search.plan import Plan
from search_spaces.domains import Uniform
from search_spaces.space import Point, Space
from settings.schema import SettingsError
from trainables.run import SupersededError


@pytest.fixture
def make_driver(tmp_path, make_context):
    def make(
        preflight=lambda sampled: [], still_owner=lambda: True, lost=None, events=None, **planned
    ):
        space = Space("line", "toy", {"x": Uniform(0.0, 1.0)})
        options = {
            "trials": 3,
            "seed": 0,
            "goal": Goal((Objective("val.x", "min"),)),
            "steps": 10,
            "report_every": 5,
            "sampler": "random",
            "scheduler": "none",
        }
        plan = Plan(space=space, **{**options, **planned})
        context = make_context(tmp_path, objective=("val.x", "min"), columns=("val.x",))
        mirror = Mirror(tmp_path / "journal.log", plan, "line")
        mirror.open()
        return Driver(
            plan=plan,
            context=context,
            log=EventLog(tmp_path / "log.jsonl"),
            events=events,
            mirror=mirror,
            max_concurrent=2,
            preflight=preflight,
            still_owner=still_owner,
            lost_node=lambda job, seconds: lost() if callable(lost) else lost,
        )

    return make


def report(driver, ray_id, step, value, reason="", segment_seconds=0.0):
    return driver.reported(ray_id, step, {"val.x": value}, 1.0, segment_seconds, reason)


def trials(driver):
    """All it knows of them, as text: a trial that has measured nothing has NaN, which equals
    nothing.
    """
    return repr(driver.state.trials)


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


def test_draws_that_are_all_refused_end_the_sweep(make_driver):
    def preflight(sampled):
        raise SettingsError("x and y must agree")

    driver = make_driver(preflight, trials=1000, max_failed_in_a_row=7)
    assert isinstance(driver.next("first"), Done)
    reason = "7 failures in a row, without a report between them"
    assert (driver.gave_up, driver.stopping) == (reason, reason)
    assert len(ends(driver)) == 7
    assert driver.log.read()[-1]["event"] == "gave_up"
    assert make_driver().state.gave_up == reason


def test_a_segment_that_ends_early_by_itself_has_failed(make_driver, tmp_path):
    """Were it "interrupted", it would be handed out again for ever."""
    driver = make_driver()
    driver.next("a")
    report(driver, "a", 5, 0.5)
    driver.ended("a", failed=False)
    (end,) = ends(driver)
    reason = "it ended at step 5 of 10 without an error"
    assert (end["state"], end["reason"]) == ("failed", reason)
    assert (tmp_path / "trials/0000/error.txt").read_text() == f"{reason}\n"


@pytest.mark.parametrize(("step", "reason"), [(10, ""), (5, "patience: val.x")])
def test_an_end_without_an_objective_is_a_failure_for_good(make_driver, tmp_path, step, reason):
    driver = make_driver(trials=1, max_failures=2)
    driver.next("a")
    assert not driver.reported("a", step, {}, 1.0, 0.0, reason)
    driver.ended("a", failed=False)
    (end,) = ends(driver)
    assert (end["state"], end["step"], end["value"]) == ("failed", step, None)
    assert end["reason"].startswith(f"no objective: no finite value of val.x at step {step}, ")
    assert (tmp_path / "trials/0000/error.txt").read_text() == f"{end['reason']}\n"
    assert isinstance(driver.next("b"), Done)
    assert isinstance(make_driver(trials=1, max_failures=9).next("c"), Done), "nor after a resume"


@pytest.mark.parametrize(
    ("reason", "state"), [("patience: val.x", "complete"), ("health: val.x", "stopped")]
)
def test_a_training_that_ends_by_itself_says_why(make_driver, reason, state):
    """It says so in its last report and returns; nobody stops it, and nobody runs it again."""
    driver = make_driver(trials=1)
    driver.next("a")
    assert not report(driver, "a", 5, 0.5, reason)
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
        report(driver, ray_id, 5, value, "health: b" if ray_id == "b" else "")
    driver.ended("b", failed=False)
    (end,) = ends(driver)
    assert (end["trial"], end["state"], end["reason"]) == (1, "stopped", "health: b")
    rungs = [event for event in driver.log.read() if event["event"] == "rung"]
    assert [(event["trial"], event["value"]) for event in rungs] == [(0, 0.1), (1, 0.9)]


def test_a_documented_point_may_end_by_itself(make_driver):
    """No rule stops it, but what it says itself holds."""
    driver = make_driver(points=(Point("document", {"x": 0.5}),), scheduler="asha", grace=5)
    assert driver.next("a").point == "document"
    report(driver, "a", 5, 9.0, "patience: val.x")
    driver.ended("a", failed=False)
    assert [(end["state"], end["reason"]) for end in ends(driver)] == [
        ("complete", "patience: val.x")
    ]


def test_what_dies_of_measuring_the_references_has_trained(make_driver, capsys):
    driver = make_driver()
    driver.next("a")
    assert driver.references.asked_of("a")
    report(driver, "a", 10, 0.5, segment_seconds=3.0)
    driver.ended("a", failed=True)
    (end,) = ends(driver)
    assert end["state"] == "complete" and end["seconds"] == pytest.approx(3.0, abs=0.5)
    assert "the process that measured them has died, or could not" in capsys.readouterr().err
    driver.next("b")
    assert not driver.references.asked_of("b")


def test_what_fails_after_its_own_end_has_failed(make_driver):
    driver = make_driver()
    driver.next("a")
    report(driver, "a", 5, 0.5, "patience: val.x")
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
    report(driver, "b", 10, 0.5, segment_seconds=1e9)
    driver.ended("b", failed=False)
    never_began, began_long_ago = ends(driver)
    assert never_began["seconds"] == 0.0
    assert 1e9 <= began_long_ago["seconds"] < 1e9 + 600.0, "since its beginning, not the driver's"


@pytest.mark.parametrize("failed", [False, True])
def test_time_goes_on_after_the_last_report(make_driver, failed):
    """By the driver's own clock, whatever ends it; what it says again counts too."""
    driver = make_driver()
    driver.next("a")
    for step, seconds in ((5, 100.0), (5, 200.0)):
        report(driver, "a", step, 0.5, segment_seconds=seconds)
    time.sleep(0.2)
    driver.ended("a", failed=failed)
    (end,) = ends(driver)
    assert 200.2 <= end["seconds"] < 800.0


GONE, ANNOUNCED = Loss("node 1 is gone"), Loss("node 1 is being taken away", announced=True)


def lose(driver, *reports):
    """One attempt of trial 0, which ends with its node; how it was taken."""
    assert driver.next("a").trial == 0
    for step in reports:
        report(driver, "a", step, 0.5)
    driver.ended("a", failed=True)
    return ends(driver)[-1]["state"]


def test_the_end_of_a_node_is_no_failure(make_driver):
    """However often it is announced, and as long as the trial comes further in between: it goes on
    at once.
    """
    driver = make_driver(lost=ANNOUNCED)
    assert {lose(driver) for _ in range(5)} == {"interrupted"}
    assert {end["reason"] for end in ends(driver)} == {"preempted: node 1 is being taken away"}
    driver = make_driver(lost=GONE)
    assert {lose(driver, *range(1, step)) for step in range(1, 8)} == {"interrupted"}
    assert ends(driver)[-1]["reason"] == "preempted: node 1 is gone"
    assert driver.state.trials[0].failures == 0


@pytest.mark.parametrize("max_failures", [0, 2])
def test_a_trial_that_takes_node_after_node_has_failed(make_driver, tmp_path, max_failures):
    """The third time in a row without a step in between, although it says again what its
    checkpoint has, an announced preemption comes between, and the driver is another one.
    """
    kinds = [GONE, GONE, ANNOUNCED, *[GONE] * (1 + max_failures)]
    said, expected = iter(kinds), ["interrupted"] * 3 + ["failed"] * (1 + max_failures)
    options = {"lost": lambda: next(said), "max_failures": max_failures}
    driver = make_driver(**options)
    found = [lose(driver, 5), lose(driver)]
    driver = make_driver(**options)
    found += [lose(driver, 5) for _ in kinds[2:]]
    assert found == expected
    line = f"node 1 is gone: {3 + max_failures} in a row under this trial, which came no further"
    assert ends(driver)[-1]["reason"] == line
    said = (tmp_path / "trials/0000/error.txt").read_text()
    assert "all memory of its node? --max-failures N lets it try again." in said
    assert said.endswith(f"\n{line}\n")
    assert driver.next("a").trial == 1
    assert trials(make_driver(**options)) == trials(driver)


def test_an_error_of_its_own_breaks_the_row(make_driver, tmp_path):
    said = iter([GONE, GONE, None, GONE, GONE, GONE])
    error = tmp_path / "trials/0000/error.txt"
    error.parent.mkdir(parents=True)

    def fall():
        """What the trial says before its node is found to be gone."""
        error.write_text("ConnectionError: the rank beside me\n")
        return next(said)

    driver = make_driver(lost=fall, max_failures=1)
    found = [lose(driver, 5) for _ in range(6)]
    assert found == [*["interrupted"] * 2, "failed", *["interrupted"] * 2, "failed"]
    assert error.read_text().splitlines()[-1].startswith("node 1 is gone: 3 in a row")
    assert "ConnectionError: the rank" in error.read_text(), "what the trial said is kept"


def test_a_failure_is_tried_again_so_often_and_then_recorded(make_driver, tmp_path):
    driver = make_driver(max_failures=2)
    for attempt in range(3):
        assert (driver.next("a").trial, driver.state.trials[0].segment) == (0, attempt)
        report(driver, "a", 5, 0.5)
        error = tmp_path / "trials/0000/error.txt"
        error.parent.mkdir(parents=True, exist_ok=True)
        error.write_text(f"Traceback: its stack\n\nRuntimeError: attempt {attempt}\n")
        driver.ended("a", failed=True)
    assert [end["reason"] for end in ends(driver)] == [
        f"RuntimeError: attempt {attempt}" for attempt in range(3)
    ]
    assert driver.next("a").trial == 1


class TestGoingOn:
    """A segment begins by saying again what its checkpoint has."""

    def test_what_was_promoted_is_not_judged_again(self, make_driver):
        driver = self.promoted(make_driver)
        assert not report(driver, "next", 5, 0.5)
        rungs = [e for e in driver.log.read() if e["event"] == "rung"]
        assert sorted((e["trial"], e["step"]) for e in rungs) == [(0, 5), (1, 5)]
        report(driver, "next", 10, 0.1)
        driver.ended("next", failed=False)
        assert (ends(driver)[-1]["state"], ends(driver)[-1]["value"]) == ("complete", 0.1)

    def test_one_that_dies_before_it_reports_has_lost_nothing(self, make_driver):
        """Its step and value are those of the rung, not zero."""
        driver = self.promoted(make_driver)
        before = driver.state.trials[0].seconds
        driver.ended("next", failed=True)
        end = ends(driver)[-1]
        assert (end["state"], end["step"], end["value"]) == ("failed", 5, 0.5)
        assert driver.state.trials[0].seconds == before
        assert sum(driver.state.steps.values()) == 10  # two trials of five steps: the rest is back

    def test_a_rung_whose_end_was_lost_ends_it_again(self, make_driver):
        """The driver died between the two lines. Its checkpoint is where the segment stops, so
        nothing is trained, and only what it says again tells that it is over.
        """
        driver = make_driver(scheduler="brackets", eta=2, rung_steps=(5,), trials=20)
        driver.next("a")
        report(driver, "a", 5, 0.5)
        driver.log.append("resumed")
        again = make_driver(scheduler="brackets", eta=2, rung_steps=(5,), trials=20)
        job = again.next("b")
        assert (job.trial, job.segment, job.stop_step) == (0, 1, 5)
        report(again, "b", 5, 0.5)
        again.ended("b", failed=False)
        assert [(e["state"], e["step"], e["value"]) for e in ends(again)] == [("paused", 5, 0.5)]
        assert again.state.ladders == {(0, 5): {0: None}}

    def test_a_verdict_that_was_lost_is_made_again(self, make_driver):
        """asha had decided to stop the trial, and nobody heard: it must not go on."""
        options = {"scheduler": "asha", "eta": 2, "rung_steps": (5,)}
        driver = make_driver(**options)
        for ray_id, value in (("a", 0.1), ("b", 0.9)):
            driver.next(ray_id)
            report(driver, ray_id, 5, value)
        driver.log.append("resumed")
        again = make_driver(**options)
        for ray_id, value, stops in (("c", 0.1, False), ("d", 0.9, True)):
            again.next(ray_id)
            assert report(again, ray_id, 5, value) is stops
        again.ended("d", failed=False)
        (end,) = ends(again)
        assert (end["trial"], end["state"]) == (1, "stopped")
        assert end["reason"].startswith("asha: place 2 of 2")

    @staticmethod
    def promoted(make_driver):
        """Two trials wait at the rung; the better one has been handed out again."""
        driver = make_driver(scheduler="brackets", eta=2, rung_steps=(5,), trials=20)
        for ray_id, value in (("a", 0.5), ("b", 0.9)):
            driver.next(ray_id)
            report(driver, ray_id, 5, value)
            driver.ended(ray_id, failed=False)
        job = driver.next("next")
        assert (job.trial, job.segment, job.stop_step) == (0, 1, 10)
        return driver


def test_a_log_that_has_been_read_is_taken_as_it_is(make_driver):
    driver = make_driver()
    driver.next("a")
    report(driver, "a", 10, 0.5)
    driver.ended("a", failed=False)
    again = make_driver(events=driver.log.read())
    assert trials(again) == trials(make_driver()) == trials(driver)
    assert not make_driver(events=[]).state.trials


def test_a_driver_that_was_superseded_writes_nothing_more(make_driver):
    owner = [True]
    driver = make_driver(still_owner=lambda: owner[0])
    driver.next("a")
    before = driver.log.read()
    owner[0] = False
    with pytest.raises(SupersededError):
        driver.ended("a", failed=False)
    assert driver.log.read() == before
