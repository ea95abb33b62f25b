from __future__ import annotations

import math

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.mirror import Mirror
from search_spaces.domains import Choice, LogUniform
from search_spaces.space import Point, Space

STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}


def load(path):
    return optuna.load_study(
        study_name="sweep", storage=JournalStorage(JournalFileBackend(str(path)))
    )


def content(study):
    return [
        (
            t.number,
            t.state,
            t.values,
            t.params,
            t.distributions,
            t.intermediate_values,
            t.user_attrs,
        )
        for t in study.trials
    ]


@pytest.fixture(scope="module")
def sweep(make_plan, executor):
    """A log with everything in it: points, stops, a retry, a failure, a crash, a value that is not
    finite.
    """
    points = (Point("document", {"x": 3.0, "y": 0.0, "other": 1}, ("other", "x")),)
    plan = make_plan(trials=12, points=points, scheduler="asha", eta=2, grace=10, steps=40)
    run = executor(plan)
    for _ in range(4):
        run.hand_out()
    run.report(1)
    run.end(1, "failed", 10, None, "out of memory")
    run.report(2)
    run = executor(plan, log=run.log)
    run.resume()
    while run.state.trials.get(3, None) is None or 3 not in run.running:
        run.hand_out()
    run.end(3, "complete", 40, None)
    for _ in range(2):
        if 1 not in run.running:
            run.hand_out()
    run.end(1, "failed", 10, None, "again")
    return run.run(concurrent=3)


def test_the_journal_tells_what_the_log_tells(sweep, tmp_path):
    path = tmp_path / "journal.log"
    mirror = Mirror(path, sweep.plan, "sweep")
    for event in sweep.log:
        mirror.follow(event)
    study = load(path)
    assert len(study.trials) == sweep.plan.trials
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.user_attrs["objective"] == "val.error"
    for trial in study.trials:
        record = sweep.state.trials[trial.number]
        finite = record.status == "stopped" or math.isfinite(record.value)
        expected = STATES.get(record.status, TrialState.FAIL) if finite else TrialState.FAIL
        assert trial.state == expected
        assert trial.intermediate_values == record.rungs
        assert trial.value == (record.value if expected == TrialState.COMPLETE else None)
        if trial.number:
            assert trial.params == record.sampled
    best = min(
        record.value
        for record in sweep.state.trials.values()
        if record.status == "complete" and math.isfinite(record.value)
    )
    assert study.best_value == best
    assert study.trials[1].user_attrs["reason"] == "again"


def test_a_point_outside_is_shown_with_what_lies_outside(sweep, tmp_path):
    Mirror(tmp_path / "journal.log", sweep.plan, "sweep", sweep.log)
    first = load(tmp_path / "journal.log").trials[0]
    assert first.params == {"y": 0.0}
    assert first.user_attrs["point"] == "document"
    assert first.user_attrs["outside"] == {"other": 1, "x": 3.0}


@pytest.mark.parametrize("length", [0, 3, 9, 20, 100])
def test_a_resumed_mirror_has_every_trial_once(sweep, tmp_path, length):
    followed, resumed = tmp_path / "followed.log", tmp_path / "resumed.log"
    mirror = Mirror(followed, sweep.plan, "sweep")
    for event in sweep.log:
        mirror.follow(event)
    interrupted = Mirror(resumed, sweep.plan, "sweep")
    for event in sweep.log[:length]:
        interrupted.follow(event)
    (tmp_path / "resumed.log.lock").symlink_to(resumed)  # a crash while it was writing
    continued = Mirror(resumed, sweep.plan, "sweep", sweep.log[:length])
    for event in sweep.log[length:]:
        continued.follow(event)
    assert content(load(resumed)) == content(load(followed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["followed.log", "resumed.log"]


def test_a_running_sweep_can_be_opened(make_plan, executor, tmp_path):
    run = executor(make_plan(scheduler="asha", grace=10))
    run.hand_out()
    run.report(0)
    Mirror(tmp_path / "journal.log", run.plan, "sweep", run.log)
    (trial,) = load(tmp_path / "journal.log").trials
    assert trial.state == TrialState.RUNNING
    assert trial.intermediate_values == run.state.trials[0].rungs


def test_a_late_line_about_a_finished_trial_changes_nothing(sweep, tmp_path):
    mirror = Mirror(tmp_path / "journal.log", sweep.plan, "sweep", sweep.log)
    before = content(load(tmp_path / "journal.log"))
    ended = next(event for event in reversed(sweep.log) if event["event"] == "ended")
    mirror.follow(ended)
    mirror.follow({**ended, "event": "rung", "step": 10, "value": 99.0})
    assert content(load(tmp_path / "journal.log")) == before


def test_dotted_keys_and_tuples(make_plan, executor, tmp_path):
    import dataclasses

    domains = {
        "loss.on": Choice((True, False)),
        "loss.weight": LogUniform(0.1, 1, when={"loss.on": (True,)}),
        "model.widths": Choice(((1, 2), (3,))),
    }
    plan = dataclasses.replace(make_plan(trials=8), space=Space("s", "toy", domains))
    run = executor(plan, lambda sampled, step: len(sampled)).run()
    Mirror(tmp_path / "journal.log", plan, "sweep", run.log)
    for trial in load(tmp_path / "journal.log").trials:
        record = run.state.trials[trial.number].sampled
        assert list(trial.params) == list(record)
        assert trial.params["model.widths"] in ("[1, 2]", "[3]")
