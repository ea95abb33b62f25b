from __future__ import annotations

import dataclasses
import math
import sqlite3

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.objectives import Constraint, Goal, Objective
from search.optuna.mirror import Mirror, check_storage
from search_spaces.domains import Choice, LogUniform
from search_spaces.space import Point, Space
from settings.schema import SettingsError

STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED}


def opened(*arguments, **named):
    mirror = Mirror(*arguments, **named)
    mirror.open()
    return mirror


def load(place):
    journal = not str(place).startswith("sqlite")
    storage = JournalStorage(JournalFileBackend(str(place))) if journal else RDBStorage(place)
    return optuna.load_study(study_name="sweep", storage=storage)


def content(study):
    """All that a study says; an attribute that is empty says nothing."""
    return [
        (
            t.number,
            t.state,
            t.values,
            t.params,
            t.distributions,
            {step: None if math.isnan(v) else v for step, v in t.intermediate_values.items()},
            t.constraints,
            {name: note for name, note in t.user_attrs.items() if note != ""},
        )
        for t in study.trials
    ]


def place_of(kind, folder, name):
    return folder / f"{name}.log" if kind == "journal" else f"sqlite:///{folder}/{name}.db"


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
    run.run(concurrent=3)
    run.write("finished")
    return run


@pytest.fixture(scope="module")
def halved(make_plan, executor):
    """Brackets, two objectives, a constraint, ill health, repeats."""
    goal = Goal(
        (Objective("val.error", "min"), Objective("val.cost", "max")),
        (Constraint.parse("val.cost>=0"),),
    )

    class TwoValues(executor):
        def values(self, value):
            return {} if value is None else {"val.error": value, "val.cost": 0.4 - value}

    plan = make_plan(trials=20, goal=goal, scheduler="brackets", rung_steps=(10, 30), repeats=1)
    run = TwoValues(plan)
    run.hand_out()
    run.report(0)
    run.hand_out()
    run.end(1, "stopped", 5, 0.01, "health: gradient norm 61 at step 5")
    run.run(concurrent=2)
    run.write("finished")
    return run


# A transaction on disk for each write: seconds a test.
SQLITE = pytest.param("sqlite", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["journal", SQLITE])
def test_the_mirror_tells_what_the_log_tells(sweep, tmp_path, kind):
    place = place_of(kind, tmp_path, "mirror")
    mirror = opened(place, sweep.plan, "sweep")
    for event in sweep.log:
        mirror.follow(event)
    study = load(place)
    assert len(study.trials) == sweep.plan.trials
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.user_attrs["objective"] == "val.error"
    for trial in study.trials:
        record = sweep.state.trials[trial.number]
        finite = record.status == "stopped" or math.isfinite(record.value)
        expected = STATES.get(record.status, TrialState.FAIL) if finite else TrialState.FAIL
        assert trial.state == expected
        told = {step: values.get("val.error") for step, values in record.rungs.items()}
        shown = trial.intermediate_values.items()
        assert {step: None if math.isnan(v) else v for step, v in shown} == told
        assert trial.value == (record.value if expected == TrialState.COMPLETE else None)
        assert trial.user_attrs["seed"] == record.seed
        assert trial.user_attrs["bracket"] == record.bracket
        if trial.number:
            assert trial.params == record.sampled
    best = min(
        record.value
        for record in sweep.state.trials.values()
        if record.status == "complete" and math.isfinite(record.value)
    )
    assert study.best_value == best
    assert study.trials[1].user_attrs["reason"] == "again"
    assert study.trials[5].user_attrs["checkpoint"].startswith("trials/0005/checkpoints/step-000")


def test_a_point_outside_is_shown_with_what_lies_outside(sweep, tmp_path):
    opened(tmp_path / "journal.log", sweep.plan, "sweep", sweep.log)
    first = load(tmp_path / "journal.log").trials[0]
    assert first.params == {"y": 0.0}
    assert first.user_attrs["point"] == "document"
    assert first.user_attrs["outside"] == {"other": 1, "x": 3.0}


def test_several_objectives_constraints_repeats_and_what_waits(halved, tmp_path):
    mirror = opened(tmp_path / "journal.log", halved.plan, "sweep")
    for event in halved.log:
        mirror.follow(event)
    study = load(tmp_path / "journal.log")
    assert [d.name for d in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["val.error", "val.cost"]
    statuses = set()
    for trial in study.trials:
        record = halved.state.trials[trial.number]
        statuses.add(record.status)
        if record.status == "complete":
            assert trial.values == [record.values["val.error"], record.values["val.cost"]]
            (bound,) = halved.plan.goal.constraints
            assert trial.constraints == {str(bound): pytest.approx(record.value - 0.4)}
        elif record.status == "paused":
            assert trial.state == TrialState.PRUNED  # the sweep is over, and it was not promoted
            assert max(trial.intermediate_values) == record.step
            assert trial.user_attrs["status"] == f"paused at step {record.step}"
        curve = {str(step): values["val.cost"] for step, values in record.rungs.items()}
        assert trial.user_attrs.get("val.cost by step", {}) == curve
        assert trial.user_attrs.get("repeat_of") == record.repeat_of
    assert statuses == {"complete", "paused", "stopped"}
    ill = study.trials[1]
    assert (ill.state, ill.constraints["health"]) == (TrialState.PRUNED, 1.0)
    assert sum("repeat_of" in trial.user_attrs for trial in study.trials) == 3
    feasible = {t.number for t in study.trials if all(v <= 0 for v in t.constraints.values())}
    assert {t.number for t in study.best_trials} <= feasible


CRASHES = [("journal", share) for share in (0.0, 0.1, 0.5, 1.0)] + [
    pytest.param("sqlite", 0.5, marks=pytest.mark.slow)
]


@pytest.mark.parametrize("which", ["sweep", "halved"])
@pytest.mark.parametrize(("kind", "share"), CRASHES)
def test_a_resumed_mirror_has_every_trial_once(request, tmp_path, kind, which, share):
    run = request.getfixturevalue(which)
    length = int(share * len(run.log))
    followed, resumed = place_of(kind, tmp_path, "followed"), place_of(kind, tmp_path, "resumed")
    mirror = opened(followed, run.plan, "sweep")
    for event in run.log:
        mirror.follow(event)
    interrupted = opened(resumed, run.plan, "sweep")
    for event in run.log[:length]:
        interrupted.follow(event)
    if kind == "journal":
        (tmp_path / "resumed.log.lock").symlink_to(resumed)  # a crash while it was writing
    continued = opened(resumed, run.plan, "sweep", run.log[:length])
    for event in run.log[length:]:
        continued.follow(event)
    assert content(load(resumed)) == content(load(followed))
    if kind == "journal":
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["followed.log", "resumed.log"]


@pytest.mark.parametrize("kind", ["journal", SQLITE])
def test_a_sweep_that_goes_on_after_its_end_goes_on_in_the_mirror(halved, tmp_path, kind):
    """What waited at a rung was ended in the mirror, and is promoted after all."""
    place = place_of(kind, tmp_path, "mirror")
    log = [*halved.log, {"event": "resumed"}]  # its mirror is made with this line
    waiting = next(t for t in halved.state.trials.values() if t.status == "paused")
    job = {"trial": waiting.number, "segment": waiting.segment + 1, "sampled": waiting.sampled}
    job |= {"seed": waiting.seed, "stop_step": 90}
    values = {"val.error": 0.1, "val.cost": 0.3}
    end = {"state": "complete", "step": 90, "value": 0.1, "values": values, "holds": [90]}
    more = [{"event": "handed_out", **job}, {"event": "ended", **job, **end}]
    opened(place, halved.plan, "sweep", halved.log)
    assert load(place).trials[waiting.number].state == TrialState.PRUNED
    mirror = opened(place, halved.plan, "sweep", log)
    for event in more:
        mirror.follow(event)
    shown = load(place).trials[waiting.number]
    assert (shown.state, shown.values) == (TrialState.COMPLETE, [0.1, 0.3])
    assert len(load(place).trials) == len(halved.state.trials)


def test_a_running_sweep_can_be_opened(make_plan, executor, tmp_path):
    run = executor(make_plan(scheduler="asha", grace=10))
    run.hand_out()
    run.report(0)
    opened(tmp_path / "journal.log", run.plan, "sweep", run.log)
    (trial,) = load(tmp_path / "journal.log").trials
    assert trial.state == TrialState.RUNNING
    assert trial.intermediate_values == {10: run.state.trials[0].value}


def test_a_late_line_about_a_finished_trial_changes_nothing(sweep, tmp_path):
    mirror = opened(tmp_path / "journal.log", sweep.plan, "sweep", sweep.log)
    before = content(load(tmp_path / "journal.log"))
    ended = next(event for event in reversed(sweep.log) if event["event"] == "ended")
    mirror.follow(ended)
    mirror.follow({**ended, "event": "rung", "step": 10, "value": 99.0})
    assert content(load(tmp_path / "journal.log")) == before


def test_dotted_keys_and_tuples(make_plan, executor, tmp_path):
    domains = {
        "loss.on": Choice((True, False)),
        "loss.weight": LogUniform(0.1, 1, when={"loss.on": (True,)}),
        "model.widths": Choice(((1, 2), (3,))),
    }
    plan = dataclasses.replace(make_plan(trials=8), space=Space("s", "toy", domains))
    run = executor(plan, lambda sampled, step: len(sampled)).run()
    opened(tmp_path / "journal.log", plan, "sweep", run.log)
    for trial in load(tmp_path / "journal.log").trials:
        record = run.state.trials[trial.number].sampled
        assert list(trial.params) == list(record)
        assert trial.params["model.widths"] in ("[1, 2]", "[3]")


def test_a_population_member_is_shown_with_its_lineage(make_plan, tmp_path):
    job = {"trial": 0, "seed": 1, "bracket": 0, "stop_step": 90}
    log = [
        {"event": "started"},
        {"event": "handed_out", **job, "segment": 0, "sampled": {"x": 0.1, "y": 0.0}},
        {"event": "ended", "trial": 0, "segment": 0, "state": "paused", "step": 10},
    ]
    other = {"sampled": {"x": 0.5, "y": 0.2}, "from": [3, 20]}
    goes_on = {"event": "handed_out", **job, "segment": 1, **other}
    mirror = opened(tmp_path / "followed.log", make_plan(), "sweep", log)
    mirror.follow(goes_on)
    opened(tmp_path / "resumed.log", make_plan(), "sweep", [*log, goes_on])
    assert content(load(tmp_path / "followed.log")) == content(load(tmp_path / "resumed.log"))
    (trial,) = load(tmp_path / "resumed.log").trials
    assert trial.params == {"x": 0.1, "y": 0.0}
    assert trial.user_attrs["lineage"] == {
        "20": {"from": [3, 20], "sampled": {"x": 0.5, "y": 0.2}}
    }


def test_a_mirror_that_is_left_while_it_opens_leaves_the_journal_as_it_was(sweep, tmp_path):
    """Of a resume that is stopped at once: the next one begins with what was there."""
    place = tmp_path / "journal.log"
    opened(place, sweep.plan, "sweep", sweep.log[:10])
    before = place.read_bytes()
    mirror = Mirror(place, sweep.plan, "sweep", sweep.log)
    mirror.leave()
    mirror.open()
    mirror.follow(sweep.log[-1])
    assert place.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["journal.log"]


@pytest.mark.slow
def test_a_database_that_goes_away_is_said_once_and_the_sweep_goes_on(sweep, tmp_path):
    said, place = [], place_of("sqlite", tmp_path, "mirror")
    mirror = opened(place, sweep.plan, "sweep", sweep.log[:10], warn=said.append)
    with sqlite3.connect(tmp_path / "mirror.db") as database:
        database.execute("DROP TABLE trials")
    for event in sweep.log[10:]:
        mirror.follow(event)
    assert len(said) == 1
    assert "is given up, and the sweep goes on" in said[0]
    assert mirror.state.trials.keys() == sweep.state.trials.keys()


def test_a_database_that_cannot_be_opened_is_said_without_its_password(sweep, tmp_path):
    said = []
    url = "mysql://me:secret@127.0.0.1:1/none"
    mirror = opened(url, sweep.plan, "sweep", sweep.log, warn=said.append)
    mirror.follow({"event": "finished"})
    assert len(said) == 1
    assert "mysql://127.0.0.1" in said[0]
    assert "secret" not in said[0]


@pytest.mark.slow
def test_a_study_of_another_sweep_is_left_alone(sweep, tmp_path):
    said, place = [], place_of("sqlite", tmp_path, "mirror")
    opened(place, sweep.plan, "sweep", sweep.log, identity="one")
    before = content(load(place))
    opened(place, sweep.plan, "sweep", sweep.log[:5], identity="other", warn=said.append)
    assert content(load(place)) == before
    assert "not of this sweep" in said[0]


@pytest.mark.parametrize("storage", ["journal", "sqlite:///a.db", "postgresql+psycopg://u@h/n"])
def test_storages(storage):
    check_storage(storage)


@pytest.mark.parametrize("storage", ["journals", "sqlite:a.db", "redis://h/0", "/tmp/a.log", ""])
def test_no_storage(storage):
    with pytest.raises(SettingsError, match="sqlite:///FILE"):
        check_storage(storage)
