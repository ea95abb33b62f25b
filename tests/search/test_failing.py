"""Trials that fail: samplers leave them, a budget ends, and so does a sweep of nothing else."""

from __future__ import annotations

import pytest

from search.failing import narrowest_part, wider_limit
from search.jobs import Job, Wait
from search.log import FAILED, SweepState
from search.optuna.distributions import share_between
from search.samplers.ask import ask
from search.simulator import simulate
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Space
from settings.schema import SettingsError

OPTIONS = {"max_failures": 0, "seed": 1}
UNLIMITED = {"max_failed_in_a_row": 0, "max_failed_share": 1.0, **OPTIONS}


def towards_the_edge(job, step):
    """Better towards x = 0, beyond which trials fail."""
    return {"val.error": 1.0 - job.sampled["x"] + job.sampled["y"] ** 2}


def beyond_the_edge(job):
    return job.sampled["x"] > 0.0


def always(job):
    return True


def failed_of(found, first=0):
    trials = found.state.trials.values()
    return [t.number for t in trials if t.status == FAILED and t.number >= first]


@pytest.mark.parametrize(
    "sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow), "nsga2", "cmaes"]
)
def test_a_sampler_that_learns_leaves_where_trials_fail(make_plan, sampler):
    """Half of the space fails, and values get better towards it: who forgets goes back there."""
    trials = {"gp": 32}.get(sampler, 60)  # its draws cost the most, and ever more
    plan = make_plan(trials=trials, sampler=sampler, **UNLIMITED)
    found = simulate(plan, towards_the_edge, fails=beyond_the_edge)
    assert len(failed_of(found, 20)) <= 0.6 * (trials - 20)


def test_failures_before_any_value_teach_nothing(make_plan):
    """There is nothing yet that they are worse than."""
    plan = make_plan(trials=30, sampler="tpe", **UNLIMITED)
    found = simulate(plan, towards_the_edge, fails=always)
    drawn = [trial.sampled for trial in found.state.trials.values()]
    assert drawn == [ask(plan, SweepState(), number) for number in range(30)]


def test_those_before_the_first_value_are_told_after_it(make_plan):
    plan = make_plan(trials=30, sampler="tpe", **UNLIMITED)
    late = simulate(plan, towards_the_edge, fails=lambda job: job.trial != 14)
    whole = SweepState(late.events)
    for trial in range(16, 30):  # the same from a log that is read at once
        assert ask(plan, whole, 30 + trial) == ask(plan, late.state, 30 + trial)
    assert ask(plan, whole, 30) != ask(plan, SweepState(), 30)


@pytest.mark.parametrize(("rungs", "least"), [((10, 30), 10), ((), 10), ((30,), 30)])
def test_a_failed_trial_is_charged_the_first_rung_at_least(make_plan, rungs, least):
    scheduler = "brackets" if rungs else "none"
    plan = make_plan(trials=3, scheduler=scheduler, rung_steps=rungs, **UNLIMITED)
    found = simulate(plan, towards_the_edge, fails=always)
    assert sum(found.state.steps.values()) == 3 * least


def test_what_it_has_trained_is_not_charged_twice(make_plan, executor):
    plan = make_plan(trials=1, scheduler="brackets", rung_steps=(10, 30), **UNLIMITED)
    swept = executor(plan)
    swept.hand_out()
    swept.report(0)
    job = swept.hand_out()
    assert (job.trial, job.stop_step) == (0, 90), "the only trial goes on to the end"
    swept.end(0, FAILED, 50, None)
    assert sum(swept.state.steps.values()) == 50


def test_a_failure_that_is_tried_again_is_charged_once(make_plan):
    plan = make_plan(trials=2, max_failures=3, max_failed_in_a_row=0)
    found = simulate(plan, towards_the_edge, fails=always)
    assert sum(found.state.steps.values()) == 2 * plan.report_every


def test_a_budget_ends_where_everything_fails(make_plan):
    plan = make_plan(trials=1_000_000, budget=2.0, **UNLIMITED)
    found = simulate(plan, towards_the_edge, fails=always)
    assert len(failed_of(found)) == 2 * 90 // 10


@pytest.mark.parametrize("most", [1, 7, 20])
def test_failures_in_a_row_end_a_sweep(make_plan, most):
    plan = make_plan(trials=1_000_000, budget=1000.0, max_failed_in_a_row=most, **OPTIONS)
    found = simulate(plan, towards_the_edge, fails=always)
    assert found.reason == f"{most} failures in a row, without a report between them"
    assert len(found.state.trials) == most
    assert not found.state.finished


def test_a_report_between_two_failures_ends_the_row(make_plan):
    plan = make_plan(trials=40, max_failed_in_a_row=3, **OPTIONS)
    found = simulate(plan, towards_the_edge, fails=lambda job: job.trial % 3 != 0)
    assert (found.reason, found.state.finished) == ("", True)
    assert len(found.state.trials) == 40


def test_a_trial_that_failed_after_a_report_begins_a_row(make_plan, executor):
    swept = executor(make_plan(trials=9, max_failed_in_a_row=2, **OPTIONS))
    for step in (0, 5, 0):
        job = swept.hand_out()
        swept.end(job.trial, FAILED, step, None)
    assert swept.state.failed_in_a_row == 2


@pytest.fixture
def two_failed_beside_one(make_plan, executor):
    """As many as may fail in a row, while trial 0 runs."""
    plan = make_plan(trials=9, scheduler="asha", grace=10, max_failed_in_a_row=2, **OPTIONS)
    swept = executor(plan)
    swept.hand_out()
    for _ in range(2):
        swept.end(swept.hand_out().trial, FAILED, 0, None)
    return swept


def test_while_others_run_their_reports_are_waited_for(two_failed_beside_one):
    swept = two_failed_beside_one
    assert swept.hand_out() == Wait((0,))
    swept.report(0)
    assert isinstance(swept.hand_out(), Job)


def test_the_share_of_failures_ends_a_sweep(make_plan):
    plan = make_plan(trials=400, max_failed_in_a_row=0, max_failed_share=0.5, **OPTIONS)
    few = simulate(plan, towards_the_edge, fails=lambda job: job.trial % 2 == 1)
    assert few.reason == "" and len(few.state.trials) == 400
    many = simulate(plan, towards_the_edge, fails=lambda job: job.trial % 3 != 0)
    assert many.reason == "13 of 20 trials failed"


def test_a_resume_with_another_limit_goes_on(make_plan):
    plan = make_plan(trials=100, max_failed_in_a_row=5, **OPTIONS)
    events = simulate(plan, towards_the_edge, fails=always).events
    same = simulate(plan, towards_the_edge, events=events)
    assert same.reason and len(same.state.trials) == 5
    more = make_plan(trials=100, max_failed_in_a_row=6, **OPTIONS)
    mended = simulate(more, towards_the_edge, events=events)
    assert mended.reason == "" and len(mended.state.trials) == 100


@pytest.mark.parametrize(
    ("change", "trials"),
    [
        ({"max_failed_in_a_row": 0}, 40),
        ({"max_failed_in_a_row": 40}, 40),
        ({"max_failed_share": 1.0}, 40),
        ({"max_failures": 1}, 20),  # the same ones, which fail again
        ({"max_failures": 1, "max_failed_in_a_row": 0}, 20),
    ],
)
def test_a_resume_that_changes_one_limit_counts_anew_for_both(make_plan, change, trials):
    """After twenty failures of twenty trials both limits hold."""
    plan = make_plan(trials=100, **OPTIONS)
    events = simulate(plan, towards_the_edge, fails=always).events
    wider = make_plan(trials=100, **{**OPTIONS, **change})
    mended = simulate(wider, towards_the_edge, events=events)
    assert mended.reason == "" and len(mended.state.trials) == 100
    still = simulate(wider, towards_the_edge, events=events, fails=always)
    assert still.reason and len(still.state.trials) == trials
    assert not failed_of(mended) or "max_failures" not in change


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_failed_in_a_row": 7}, "--max-failed-in-a-row 14"),
        ({"max_failed_in_a_row": 0}, "--max-failed-share 0.95"),
        ({"max_failed_in_a_row": 20, "max_failed_share": 0.5}, "--max-failed-in-a-row 40"),
    ],
)
def test_the_limit_that_has_acted_is_the_one_to_widen(make_plan, limits, said):
    plan = make_plan(trials=100, **{**OPTIONS, **limits})
    found = simulate(plan, towards_the_edge, fails=always)
    assert found.reason and wider_limit(plan, found.state) == said


def test_a_log_without_tries_has_the_limits_that_it_has(make_plan):
    """Versions before this one wrote two numbers: the same two are no other limits."""
    plan = make_plan(trials=100, max_failed_in_a_row=5, **OPTIONS)
    events = simulate(plan, towards_the_edge, fails=always).events
    for event in events:
        if "limits" in event:
            event["limits"] = event["limits"][:2]
    same = simulate(plan, towards_the_edge, events=events)
    assert same.reason and len(same.state.trials) == 5


def test_a_killed_sweep_decides_as_one_that_was_not(two_failed_beside_one):
    """What ran when it was killed goes on, for its report may end the row."""
    swept = two_failed_beside_one
    assert swept.hand_out() == Wait((0,))
    swept.resume()
    assert swept.hand_out().trial == 0
    assert swept.hand_out() == Wait((0,))
    swept.report(0)
    assert isinstance(swept.hand_out(), Job)


@pytest.mark.parametrize(("tries", "bad"), [(20, 1), (5, 4)])
def test_tries_of_one_trial_are_one_failure(make_plan, tries, bad):
    plan = make_plan(trials=40, max_failures=tries, seed=1)
    found = simulate(plan, towards_the_edge, fails=lambda job: 5 <= job.trial < 5 + bad)
    assert (found.reason, len(found.state.trials)) == ("", 40)
    assert failed_of(found) == list(range(5, 5 + bad))
    assert found.state.trials[5].failures == tries + 1


def test_what_is_hopeless_is_not_tried_again(make_plan, executor):
    swept = executor(make_plan(trials=9, max_failures=5, seed=1))
    job = swept.hand_out()
    swept.decider.ended(job, 0, {}, state=FAILED, reason="it breaks a rule", hopeless=True)
    assert swept.hand_out().trial == 1
    assert swept.state.trials[0].has_failed(5)
    assert swept.state.failed_in_a_row == 1


def test_the_end_of_a_plan_is_no_end_for_failures(make_plan):
    """Nothing is left to do, so nothing is given up."""
    plan = make_plan(trials=5, max_failed_in_a_row=5, **OPTIONS)
    found = simulate(plan, towards_the_edge, fails=always)
    assert (found.reason, found.state.finished) == ("", True)


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_failed_in_a_row", -1), ("max_failed_share", 0.0), ("max_failed_share", 1.5)],
)
def test_limits_out_of_range_are_refused(make_plan, option, value):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(SettingsError, match=f"{flag} must be .* not {value}"):
        make_plan(**{option: value})


SPACE = Space(
    "mixed",
    "toy",
    {
        "lr": LogUniform(1e-4, 1.0),
        "width": Uniform(0.0, 100.0),
        "kind": Choice(("a", "b", "c", "d")),
    },
)


def configuration(lr, width, kind):
    return {"lr": lr, "width": width, "kind": kind}


class TestWhereTheyLie:
    def test_a_number_on_its_own_scale(self):
        failed = [configuration(1e-1, w, k) for w, k in [(1.0, "a"), (99.0, "c")]]
        failed.append(configuration(1.0, 50.0, "d"))
        part = narrowest_part(SPACE, failed, [configuration(1e-3, 50.0, "b")])
        assert (part.key, part.low, part.high, part.others) == ("lr", 0.1, 1.0, 0)
        assert part.share == pytest.approx(0.25)
        assert str(part) == "lr from 0.1 to 1"

    def test_options_of_a_choice(self):
        failed = [configuration(lr, w, "b") for lr, w in [(1e-4, 0.0), (1.0, 100.0)]]
        part = narrowest_part(SPACE, failed, [configuration(1e-2, 40.0, "a")])
        assert (str(part), part.share) == ("kind in b", 0.25)

    def test_a_part_without_other_trials_is_preferred_to_a_narrower_one(self):
        failed = [configuration(1e-2, 60.0, "a"), configuration(1e-2, 90.0, "b")]
        part = narrowest_part(SPACE, failed, [configuration(1e-2, 40.0, "c")])
        assert part.key == "width"

    def test_nothing_sets_them_apart(self):
        failed = [configuration(1e-4, 0.0, "a"), configuration(1.0, 100.0, "b")]
        failed += [configuration(1.0, 100.0, "c"), configuration(1.0, 100.0, "d")]
        assert narrowest_part(SPACE, failed, []) is None
        assert narrowest_part(SPACE, [], []) is None

    def test_keys_that_some_do_not_have_are_left_out(self):
        failed = [configuration(1e-2, 60.0, "a"), {"lr": 1e-2, "kind": "a"}]
        assert narrowest_part(SPACE, failed, []).key == "lr"


@pytest.mark.parametrize(
    ("domain", "low", "high", "share"),
    [
        (Integer(1, 2), 1, 2, 1.0),
        (Integer(1, 4), 3, 4, 0.5),
        (Uniform(0.0, 1.0, step=0.25), 0.0, 0.25, 0.4),
        (Uniform(0.0, 4.0), 1.0, 2.0, 0.25),
        (LogUniform(1e-4, 1.0), 1e-4, 1e-2, 0.5),
        (Integer(1, 64, log=True), 1, 64, 1.0),
    ],
)
def test_the_share_of_a_discrete_domain_is_that_of_its_values(domain, low, high, share):
    assert share_between(domain, low, high) == pytest.approx(share)
