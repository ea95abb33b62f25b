"""Which checkpoints a sweep keeps, from the plan and the log alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import repeats
from search.log import SweepState
from search.objectives import Constraint, Goal, Objective
from search.options import Retention
from search.retention import kept_of, spared
from search.simulator import simulate
from search_spaces.space import DOCUMENT, Point
from settings.schema import SettingsError
from settings.stop_reasons import HealthStop

ONE = Goal((Objective("val.error", "min"),))
TWO = Goal((Objective("a", "min"), Objective("b", "max")))


@pytest.mark.parametrize("text", ["all", "rungs", "best:1", "best:12"])
def test_what_may_be_said_is_read_and_said_again(text):
    assert str(Retention.parse(text)) == text


@pytest.mark.parametrize("text", ["", "best", "best:", "best:0", "best:-1", "rungs:2", "All", 3])
def test_what_may_not_be_said_is_named_with_the_rule(text):
    with pytest.raises(SettingsError, match="must be all, best:N with N from 1 on, or rungs, not"):
        Retention.parse(text)


class Log:
    """A log written by hand: trials with their ends."""

    def __init__(self):
        self.events = []

    def trial(self, number, state, step=90, values=None, **more):
        said = {"trial": number, "segment": 0, "sampled": {}, "seed": 0, "stop_step": step}
        place = {key: more.pop(key) for key in ("point", "repeat_of") if key in more}
        self.events.append({"event": "handed_out", **said, **place})
        if state != "running":
            end = {"trial": number, "segment": 0, "state": state, "step": step, "value": 1.0}
            self.events.append({"event": "ended", **end, "values": values or {}, **more})
        return self

    @property
    def state(self):
        return SweepState(self.events)


def errors(log, plan, *values, state="complete", step=90):
    for value in values:
        log.trial(len(log.state.trials), state, step, {"val.error": value})
    return log


def kept(text, plan, log):
    return dict(kept_of(Retention.parse(text), plan, log.state))


def test_all_leaves_everything_alone(make_plan):
    log = errors(Log(), make_plan(), 1.0, 2.0)
    assert kept("all", make_plan(), log) == {}


def test_the_best_keep_their_best_and_newest_and_the_others_none(make_plan):
    log = errors(Log(), make_plan(), 5.0, 3.0, math.nan, 4.0, 1.0)
    assert kept("best:2", make_plan(), log) == {0: None, 1: (), 2: None, 3: None, 4: ()}
    most = make_plan(goal=Goal((Objective("val.error", "max"),)))
    assert kept("best:2", most, log) == {0: (), 1: None, 2: None, 3: (), 4: None}


def test_a_bound_comes_before_the_objective(make_plan):
    plan = make_plan(goal=Goal(ONE.objectives, (Constraint.parse("val.seam<=1"),)))
    log = Log()
    for number, (error, seam) in enumerate(((1.0, 9.0), (5.0, 0.5), (2.0, 3.0))):
        log.trial(number, "complete", values={"val.error": error, "val.seam": seam})
    assert spared(plan, log.state, 1) == {1}
    assert spared(plan, log.state, 2) == {1, 2}


RUNGS = {"scheduler": "asha", "rung_steps": (10, 30)}


def test_at_rungs_who_has_ended_keeps_these_and_nothing_is_lost_for_good(make_plan):
    plan = make_plan(**RUNGS, max_failures=0)
    log = errors(Log(), plan, 1.0, 2.0)
    log.trial(2, "stopped", 10).trial(3, "failed", 20).trial(4, "paused", 30)
    assert kept("rungs", plan, log) == dict.fromkeys(range(5), (10, 30))


@pytest.mark.parametrize("text", ["best:1", "rungs"])
def test_who_may_go_on_keeps_what_it_needs(make_plan, text):
    """All that runs, was interrupted or may try again is left alone; who waits at a rung keeps its
    newest and its best.
    """
    plan = make_plan(scheduler="brackets", rung_steps=(10, 30), max_failures=1)
    log = errors(Log(), plan, 1.0)
    log.trial(1, "running").trial(2, "interrupted", 20).trial(3, "failed", 20)
    log.trial(4, "paused", 30, {"val.error": 9.0})
    found = kept(text, plan, log)
    beside = () if text == "best:1" else (10, 30)
    assert found == {0: beside, 4: beside}


def test_who_has_failed_for_good_or_was_ill_is_no_result(make_plan):
    plan = make_plan(max_failures=0)
    log = Log().trial(0, "failed", 20, {"val.error": 0.1})
    ill = str(HealthStop("gradient_norm_high", 73.2, 50.0, 20))
    log.trial(1, "stopped", 20, {"val.error": 0.2}, reason=ill)
    assert kept("best:5", plan, log) == {0: None, 1: None}


def test_those_that_were_stopped_fill_up_what_no_complete_one_takes(make_plan):
    """The furthest first: a value at another step does not compare."""
    plan, log = make_plan(**RUNGS), Log()
    errors(log, plan, 0.1, 0.2, state="stopped", step=10)
    errors(log, plan, 0.8, 0.7, state="stopped", step=30)
    errors(log, plan, 5.0)
    assert [spared(plan, log.state, n) for n in (1, 2, 3, 4)] == [
        {4},
        {4, 3},
        {4, 3, 2},
        {4, 3, 2, 0},
    ]


def test_documented_points_and_those_that_are_repeated_stay(make_plan):
    points = (Point(DOCUMENT, {}), Point("other", {}))
    plan = make_plan(points=points, repeats=2, repeat_top=3)
    log = Log()
    log.trial(0, "complete", values={"val.error": 9.0}, point=DOCUMENT)
    log.trial(1, "complete", values={"val.error": 8.0}, point="other")
    errors(log, plan, 1.0, 4.0, 2.0, 3.0)
    log.trial(6, "complete", values={"val.error": 0.5}, repeat_of=2)
    assert spared(plan, log.state, 1) == {0, 1, 2, 4, 5, 6}
    assert kept("best:1", plan, log)[6] == (), "the winner is measured by its repeats"
    assert spared(make_plan(points=points), log.state, 1) == {0, 1, 2, 6}


def test_a_population_keeps_all_until_nobody_may_copy(make_plan):
    """A member that is complete may still be copied by a slower one."""
    plan = make_plan(scheduler="pbt", trials=4, grace=10)
    log = errors(Log(), plan, 1.0, 2.0, 3.0)
    assert kept("best:1", plan, log) == {}, "the fourth has not begun"
    for state in ("running", "paused", "interrupted"):
        slow = Log()
        slow.events = [*log.events]
        assert kept("rungs", plan, slow.trial(3, state, 80)) == {}
    errors(log, plan, 4.0)
    assert kept("best:1", plan, log) == {0: (), 1: None, 2: None, 3: None}


def of_two(rows):
    log = Log()
    for number, (a, b) in enumerate(rows):
        log.trial(number, "complete", values={"a": a, "b": b})
    return log


def test_with_several_objectives_nobody_goes_who_may_come_back(make_plan):
    """Of a front of three one is too many, and a fourth that beats the two others brings it back.
    At the end the order of the goal decides.
    """
    plan = make_plan(goal=TWO)
    log = of_two([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (9.0, 0.0)])
    assert spared(plan, log.state, 2) == {0, 1, 2}, "the last is behind all three"
    log.events.append({"event": "finished"})
    best = plan.goal.best([{"a": a, "b": a} for a in (1.0, 2.0, 3.0)], 2)
    assert spared(plan, log.state, 2) == {0, *best}


def test_the_trial_that_is_named_the_best_stays_whatever_the_front_says(make_plan):
    """`--trial best` is that of the best first objective; the goal's order has another first."""
    plan = make_plan(goal=TWO)
    log = of_two([(9.0, 9.0), (1.0, 1.0), (5.0, 4.0)])
    log.events.append({"event": "finished"})
    assert plan.goal.best([trial.values for trial in log.state.trials.values()], 1) == [0]
    assert spared(plan, log.state, 1) == {0, 1}


def test_with_several_objectives_who_may_still_be_repeated_stays(make_plan):
    """The first dominates three others, of which two are to be repeated; which two may change."""
    plan = make_plan(goal=TWO, repeats=2, repeat_top=3)
    log = of_two([(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 8.0)])
    assert repeats.chosen(plan, log.state) == [0, 1, 3]
    assert spared(plan, log.state, 1) == {0, 1, 2, 3}


values = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])


@given(
    rows=st.lists(st.tuples(values, values, st.sampled_from([0.0, 1.0, 2.0])), max_size=9),
    count=st.integers(1, 3),
    several=st.booleans(),
)
def test_nothing_that_was_given_up_is_wanted_later(make_plan, rows, count, several):
    """After every further end of a trial, and at the end of the sweep."""
    objectives = TWO.objectives if several else TWO.objectives[:1]
    plan = make_plan(goal=Goal(objectives, (Constraint.parse("c<=1"),)))
    log, given_up = Log(), set()
    for number, (a, b, c) in enumerate(rows):
        log.trial(number, "complete", values={"a": a, "b": b, "c": c})
        best = spared(plan, log.state, count)
        assert not best & given_up
        given_up |= set(log.state.trials) - best
    log.events.append({"event": "finished"})
    assert not spared(plan, log.state, count) & given_up
    measured = [trial.values for trial in log.state.trials.values()]
    assert set(plan.goal.best(measured, count)) <= spared(plan, log.state, count)


@pytest.mark.parametrize("scheduler", ["brackets", "asha", "pasha", "halving", "none", "pbt"])
@pytest.mark.parametrize("text", ["best:2", "rungs"])
def test_no_job_needs_what_was_given_up(make_plan, scheduler, text):
    """Over a whole sweep: every segment that goes on finds the newest checkpoint of its trial, and
    that of the trial that it copies.
    """
    rungs = {} if scheduler == "none" else {"grace": 10}
    plan = make_plan(scheduler=scheduler, trials=16, **rungs)

    def error(job, step):
        return {"val.error": (job.sampled["x"] - 0.3) ** 2 + 1.0 / step}

    events = simulate(plan, error, workers=3).events
    state, without = SweepState(), set()
    for event in events:
        state.apply(event)
        if event["event"] == "handed_out":
            assert event["trial"] not in without
            assert not event.get("from") or event["from"][0] not in without
        found = kept_of(Retention.parse(text), plan, state)
        without |= {number for number, steps in found.items() if steps is None}
        if scheduler == "pbt":
            assert not found or not state.live
    many_end = scheduler in ("asha", "none", "pbt")  # the others leave most waiting at a rung
    assert not without if text == "rungs" else (without or not many_end)
