"""A trial that ill health has stopped is no result: not promoted, not best, not taught as good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import repeats
from search.log import SweepState
from search.simulator import simulate
from search_spaces.space import Point
from settings.stop_reasons import HealthStop

SCHEDULED = {"scheduler": "brackets", "grace": 10, "eta": 3, "trials": 24}
BEST = {"x": 0.3, "y": -0.2}


def error(job, step):
    """The better, the nearer to `BEST` and the longer the training."""
    distance = (job.sampled["x"] - BEST["x"]) ** 2 + (job.sampled["y"] - BEST["y"]) ** 2
    return {"val.error": distance + 1.0 / step}


def ill_from(step, is_ill):
    reason = str(HealthStop("gradient_norm_high", 73.2, 50.0, step))
    return lambda job: (step, reason) if is_ill(job) else None


def near_the_best(job):
    return abs(job.sampled["x"] - BEST["x"]) < 0.4


def handed_out(events, trial):
    return [e for e in events if e["event"] == "handed_out" and e["trial"] == trial]


def assert_no_result(plan, found, is_ill):
    """Of every trial that fell ill."""
    state = found.state
    ended = [t for t in state.trials.values() if t.infeasible]
    healthy = [t for t in state.trials.values() if t.status == "complete"]
    for trial in ended:
        assert (trial.status, trial.reason[:8]) == ("stopped", "health: ")
        stopped = max(i for i, e in enumerate(found.events) if e.get("trial") == trial.number)
        assert found.events[stopped]["event"] == "ended", "nothing comes after it"
        for rung in trial.rungs:
            keys = plan.goal.badness(
                [state.observed(trial.number, rung), *({"val.error": 1e9} for _ in range(2))]
            )
            assert keys[0] > keys[1], "worse than anything that was measured"
    assert not {t.number for t in ended} & set(repeats.chosen(plan, state))
    assert not [t for t in healthy if is_ill(t)]
    return ended, healthy


@pytest.mark.parametrize("pausing", [True, False])
@pytest.mark.parametrize("step", [7, 10, 20, 30])
def test_who_falls_ill_is_not_promoted(make_plan, pausing, step):
    """Before the first rung, at a rung, between two."""
    plan = make_plan(pausing=pausing, **SCHEDULED)
    assert plan.rungs == (10, 30)
    found = simulate(plan, error, ends=ill_from(step, near_the_best), workers=3)
    ended, healthy = assert_no_result(plan, found, near_the_best)
    assert ended and healthy
    for trial in ended:
        assert trial.step == step
        assert len(handed_out(found.events, trial.number)) <= 1 + (pausing and step > 10)


@pytest.mark.parametrize("scheduler", ["asha", "brackets", "none"])
@pytest.mark.parametrize("step", [7, 10])
def test_a_documented_point_is_not_spared(make_plan, scheduler, step):
    points = (Point("document", BEST), Point("sound", {"x": -0.9, "y": 0.9}))
    plan = make_plan(points=points, repeats=1, **{**SCHEDULED, "scheduler": scheduler})
    found = simulate(plan, error, ends=ill_from(step, near_the_best))
    assert_no_result(plan, found, near_the_best)
    document, sound = (found.state.trials[number] for number in (0, 1))
    assert (document.point, document.infeasible, document.step) == ("document", True, step)
    assert (sound.point, sound.status) == ("sound", "complete")
    repeated = {t.repeat_of for t in found.state.trials.values()} - {None}
    assert 1 in repeated and 0 not in repeated


@given(ill=st.sets(st.integers(0, 11)), step=st.sampled_from([5, 10, 15, 30, 90]))
def test_whoever_it_is_the_others_go_on(make_plan, ill, step):
    plan = make_plan(**{**SCHEDULED, "trials": 12})
    found = simulate(plan, error, ends=ill_from(step, lambda job: job.trial in ill), workers=2)
    state = found.state
    assert len(state.trials) == 12 and not state.live
    for number, trial in state.trials.items():
        assert not (trial.infeasible and number not in ill)
        assert not (trial.status == "complete" and number in ill)
    again = simulate(plan, error, ends=ill_from(step, lambda job: job.trial in ill), workers=2)
    assert again.events == found.events


def test_a_crash_at_the_report_that_stops_loses_nothing(make_plan):
    """The rung was written, the end was not: the trial says so again when it is resumed."""
    plan = make_plan(**{**SCHEDULED, "trials": 6})
    ends = ill_from(10, near_the_best)
    whole = simulate(plan, error, ends=ends)
    ill = next(t.number for t in whole.state.trials.values() if t.infeasible)
    cut = next(
        i for i, e in enumerate(whole.events) if e["event"] == "ended" and e["trial"] == ill
    )
    rest = simulate(plan, error, ends=ends, events=whole.events[:cut])
    assert rest.state.trials[ill].infeasible and rest.state.trials[ill].step == 10
    final = {n: (t.status, t.sampled, t.values) for n, t in whole.state.trials.items()}
    assert {n: (t.status, t.sampled, t.values) for n, t in rest.state.trials.items()} == final


def share_near(found, first, last):
    trials = [found.state.trials[number] for number in range(first, last)]
    return sum(map(near_the_best, trials)) / len(trials)


def test_the_sampler_is_not_taught_that_it_was_good(make_plan):
    """The best values lie where every training falls ill, just before its end."""
    plan = make_plan(trials=60, sampler="tpe", seed=3)
    healthy = simulate(plan, error)
    ill = simulate(plan, error, ends=ill_from(89, near_the_best))
    assert share_near(healthy, 30, 60) > 0.8, "the sampler finds the best"
    assert share_near(ill, 30, 60) < share_near(healthy, 30, 60) - 0.3


def test_its_values_at_rungs_become_void_when_it_falls_ill(make_plan):
    plan = make_plan(**SCHEDULED)
    found = simulate(plan, error, ends=ill_from(20, near_the_best))
    late = next(t for t in found.state.trials.values() if t.infeasible and 10 in t.rungs)
    before = SweepState(e for e in found.events if e["event"] != "ended")
    assert before.observed(late.number, 10) == late.rungs[10] != {}
    assert found.state.observed(late.number, 10) == {}
