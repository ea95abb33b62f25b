from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.jobs import Done, Job, Wait, next_job
from search.log import SweepState
from search.seeds import derive
from search_spaces.space import Point
from settings.schema import SettingsError

POINTS = (
    Point("before", {"x": 0.5, "y": 0.5}),
    Point("document", {"x": 3.0, "y": 0.0, "other": 1}, ("other", "x")),
)


def check_log(plan, log):
    """What every log must keep, whatever happened: no duplicate, no loss, no second run of what is
    final.
    """
    trials: dict[int, list[dict]] = {}
    live: set[int] = set()
    final: set[int] = set()
    failures: dict[int, int] = {}
    for event in log:
        if event["event"] == "resumed":
            live.clear()
        if event["event"] == "handed_out":
            number = event["trial"]
            assert number not in live
            assert number not in final
            segments = trials.setdefault(number, [])
            assert event["segment"] == len(segments)
            assert number == 0 or number - 1 in trials
            segments.append(event)
            live.add(number)
        if event["event"] == "ended":
            number = event["trial"]
            live.discard(number)
            if event["state"] == "failed":
                failures[number] = failures.get(number, 0) + 1
            given_up = failures.get(number, 0) > plan.max_failures
            if event["state"] in ("complete", "stopped") or given_up:
                final.add(number)
    for segments in trials.values():
        assert all(segment["sampled"] == segments[0]["sampled"] for segment in segments)
        assert all(segment["seed"] == segments[0]["seed"] for segment in segments)
    return trials, final


@settings(max_examples=2 * settings.default.max_examples)
@given(data=st.data())
def test_any_interleaving_with_crashes_and_failures_loses_and_repeats_nothing(
    data, make_plan, executor
):
    plan = make_plan(trials=7, points=POINTS, scheduler="asha", eta=2, grace=10, steps=40)
    run = executor(plan)
    actions = st.sampled_from(["hand out", "hand out", "report", "fail", "preempt", "crash"])
    for action in data.draw(st.lists(actions, max_size=60)):
        pick = st.sampled_from(sorted(run.running)) if run.running else None
        if action == "hand out" and len(run.running) < 3:
            run.hand_out()
        elif action == "crash":
            log = json.loads(json.dumps(run.log))  # what a new process reads
            run = executor(plan, log=log)
            run.resume()
        elif pick is not None and action == "report":
            run.report(data.draw(pick))
        elif pick is not None and action in ("fail", "preempt"):
            trial = data.draw(pick)
            state = "failed" if action == "fail" else "interrupted"
            run.end(trial, state, run.running[trial][1], None)
    run.run(concurrent=2)
    trials, final = check_log(plan, run.log)
    assert sorted(trials) == list(range(plan.trials))
    assert final == set(range(plan.trials))
    assert isinstance(next_job(plan, run.state), Done)
    assert [trials[0][0]["point"], trials[1][0]["point"]] == ["before", "document"]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_sweep_killed_after_any_event_ends_like_the_one_that_was_not(
    sampler, make_plan, executor
):
    plan = make_plan(trials=14, scheduler="asha", eta=2, grace=10, steps=40, sampler=sampler)
    whole = executor(plan).run()
    for length in range(0, len(whole.log), 5):
        resumed = executor(plan, log=whole.log[:length])
        resumed.resume()
        resumed.run()
        _trials, final = check_log(plan, resumed.log)
        assert final == set(range(plan.trials))
        # One job at a time: what the sampler knew is the same, so is every trial and every
        # decision.
        for number, record in whole.state.trials.items():
            again = resumed.state.trials[number]
            assert again.sampled == record.sampled
            assert (again.status, again.step, again.value) == (
                record.status,
                record.step,
                record.value,
            )


def test_points_come_first_and_keep_their_marks(make_plan, executor):
    plan = make_plan(trials=4, points=POINTS)
    run = executor(plan).run()
    records = [run.state.trials[number] for number in range(4)]
    assert [record.point for record in records] == ["before", "document", None, None]
    assert records[1].outside == ("other", "x")
    assert records[1].sampled == {"x": 3.0, "y": 0.0, "other": 1}
    assert [record.seed for record in records] == [derive(5, "trial", n) for n in range(4)]
    assert make_plan(trials=1, points=POINTS).points_left_out == ("document",)


def test_interrupted_before_failed_before_new(make_plan, executor):
    plan = make_plan(trials=5)
    run = executor(plan)
    for _ in range(3):
        run.hand_out()
    run.end(0, "failed", 10, None)
    run.end(2, "interrupted", 10, None)
    order = []
    for _ in range(4):
        job = run.hand_out()
        order.append((job.trial, job.segment, job.resume))
    assert order == [(2, 1, True), (0, 1, True), (3, 0, False), (4, 0, False)]
    assert next_job(plan, run.state) == Wait((0, 1, 2, 3, 4))


def test_failures_are_retried_up_to_the_limit(make_plan, executor):
    plan = make_plan(trials=1, max_failures=2)
    run = executor(plan)
    for segment in range(3):
        assert run.hand_out().segment == segment
        run.end(0, "failed", 0, None, "out of memory")
    assert isinstance(next_job(plan, run.state), Done)
    assert run.state.trials[0].failures == 3
    assert run.state.trials[0].is_final(plan.max_failures)
    more = make_plan(trials=1, max_failures=3)
    assert next_job(more, run.state).segment == 3


def test_preemption_is_no_failure(make_plan, executor):
    plan = make_plan(trials=1, max_failures=0)
    run = executor(plan)
    for _ in range(5):
        run.hand_out()
        run.end(0, "interrupted", 0, None)
    assert run.state.trials[0].failures == 0
    assert isinstance(run.hand_out(), Job)


def test_more_trials_continue_a_finished_sweep(make_plan, executor):
    short = executor(make_plan(trials=3)).run()
    longer = executor(make_plan(trials=5), log=short.log).run()
    straight = executor(make_plan(trials=5)).run()
    assert longer.state.trials == straight.state.trials


def test_a_report_of_an_earlier_segment_changes_nothing(make_plan, executor):
    run = executor(make_plan(trials=1))
    run.hand_out()
    run.resume()
    run.hand_out()
    late = {"trial": 0, "segment": 0, "step": 10, "value": 1.0}
    run.write("ended", state="failed", **late)
    run.write("rung", values={"val.error": 1.0}, judged=True, **late)
    assert run.state.live == [0]
    assert run.state.trials[0].failures == 0
    assert run.state.rungs == run.state.ladders == {}


def test_a_damaged_log_is_named():
    with pytest.raises(ValueError, match="trial 3"):
        SweepState([{"event": "rung", "trial": 3, "step": 1, "value": 0.0}])


def test_unknown_events_are_left_alone():
    assert SweepState([{"event": "started"}, {"event": "new thing", "trial": 9}]).trials == {}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sampler": "grid"}, "tpe, random"),
        ({"scheduler": "hyperband"}, "brackets, asha"),
        ({"trials": 0}, "--trials must be a whole number from 1"),
        ({"scheduler": "asha", "eta": 1}, "--eta must be a whole number from 2"),
        ({"scheduler": "asha", "grace": 15}, "multiple of train.report_every"),
        ({"grace": 20, "last_change": 25, "scheduler": "asha"}, "step 25.*Begin at 30"),
        ({"rung_steps": (30, 10), "scheduler": "asha"}, "ascend"),
        ({"rung_steps": (30, 90), "scheduler": "asha"}, "not below train.steps"),
        ({"budget": 0.0}, "budget must be above 0"),
    ],
)
def test_plans_are_checked(options, word, make_plan):
    with pytest.raises(SettingsError, match=word):
        make_plan(**options)


@given(steps=st.integers(1, 10**6), eta=st.integers(2, 6), report_every=st.integers(1, 1000))
def test_rungs_are_reported_steps_below_the_end(steps, eta, report_every, make_plan):
    plan = make_plan(scheduler="asha", steps=steps, eta=eta, report_every=report_every)
    assert list(plan.rungs) == sorted(set(plan.rungs))
    assert len(plan.rungs) <= 3
    for rung in plan.rungs:
        assert rung % report_every == 0
        assert rung < steps
        assert any(0 <= rung - steps / eta**k < report_every for k in (1, 2, 3))


@given(grace=st.integers(1, 10**4), eta=st.integers(2, 6), steps=st.integers(1, 10**6))
def test_rungs_from_a_first_one_grow_by_eta(grace, eta, steps, make_plan):
    rungs = make_plan(scheduler="asha", grace=grace, eta=eta, steps=steps, report_every=1).rungs
    assert all(after == rung * eta for rung, after in itertools.pairwise(rungs))
    assert rungs[:1] == ((grace,) if grace < steps else ())
    assert not rungs or rungs[-1] < steps <= rungs[-1] * eta


def test_default_rungs_divide_the_length(make_plan):
    assert make_plan(scheduler="asha", steps=270).rungs == (10, 30, 90)
    assert make_plan(scheduler="asha", steps=180, report_every=30).rungs == (30, 60)
    assert make_plan(scheduler="asha", steps=270, last_change=15).rungs == (30, 90)
    assert make_plan(scheduler="none").rungs == ()


@pytest.mark.parametrize("scheduler", ["brackets", "asha_promotion", "halving"])
def test_a_budget_that_is_spent_still_takes_the_best_to_its_end(scheduler, make_plan, executor):
    plan = make_plan(scheduler=scheduler, trials=1000, budget=2.0, steps=270)
    state = executor(plan).run(concurrent=2).state
    complete = state.with_status("complete")
    assert complete
    assert all(state.trials[number].point is None for number in complete)
    assert 2.0 <= sum(state.steps.values()) / plan.steps <= 3.5


def test_repeats_leave_the_budget_of_the_search_alone(make_plan, executor):
    """A sweep that is given more afterwards has all of it for the search."""
    short = executor(make_plan(trials=100, budget=3.0, repeats=4)).run()
    assert sum(short.state.steps.values()) == 3 * 90
    assert sum(trial.repeat_of is not None for trial in short.state.trials.values()) == 12
    longer = executor(make_plan(trials=100, budget=5.0, repeats=4), log=short.log).run()
    assert longer.state.own_trials == 5


def test_paired_trials_have_one_seed_and_each_draw_of_their_repeats_another(make_plan, executor):
    def seeds(**options):
        plan = make_plan(trials=4, points=POINTS, repeats=2, repeat_top=2, **options)
        trials = executor(plan).run().state.trials.values()
        own = [trial.seed for trial in trials if trial.repeat_of is None]
        repeats = [trial.seed for trial in trials if trial.repeat_of is not None]
        return own, repeats

    own, repeats = seeds(paired=True)
    assert len(own) == 4
    assert len(set(own)) == 1
    assert len(repeats) > 2
    assert len(set(repeats)) == 2
    assert not set(own) & set(repeats)
    own, repeats = seeds()
    assert len(set(own)) == 4, "each its own, as before"
    assert len({*own, *repeats}) == 4 + len(repeats)
