from __future__ import annotations

import json

import pytest

from metrics.combined import Combined
from results.store import EventLog
from results.warm import read_warm
from search.objectives import Constraint, Goal, Objective
from search.warm import Earlier, Measured, Warm, warm_from
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Space
from settings.schema import SettingsError

GOAL = Goal((Objective("val.error", "min"),))
SETTINGS = {
    "model.width": 8,
    "model.widths": (1, 2),
    "loss.a.enabled": True,
    "loss.a.weight": 1.0,
    "optimizer.lr": 0.001,
    "data.crop": 64,
    "metric.mu": 300.0,
    "train.steps": 90,
    "train.seed": 0,
}
SPACE = Space(
    "new",
    "toy",
    {
        "loss.a.enabled": Choice((True, False)),
        "loss.a.weight": LogUniform(0.1, 10.0, when={"loss.a.enabled": (True,)}),
        "model.width": Integer(4, 16, step=4),
    },
)


def trial(number, value=0.5, **sampled):
    keys = {"weight": "loss.a.weight", "width": "model.width", "on": "loss.a.enabled"}
    named = {keys.get(name, name): item for name, item in sampled.items()}
    return Measured(number, named, {90: {"val.error": value}})


def earlier(*trials, settings=None, **changes):
    fields = {"name": "old", "system": "toy", "modes": {"val.error": "min"}}
    fields |= {"columns": ("val.error",), "settings": {**SETTINGS, **(settings or {})}}
    return Earlier(trials=trials, **(fields | changes))


def rows_of(sweep, goal=GOAL, space=SPACE):
    return warm_from(sweep, space, goal, SETTINGS)


def test_rows_that_fit_are_taken_over_as_they_are():
    rows, notes = rows_of(earlier(trial(3, on=True, weight=2.0, width=12)))
    active = {"loss.a.enabled": True, "loss.a.weight": 2.0, "model.width": 12}
    assert rows == (Warm(active, {90: {"val.error": 0.5}}, "old trial 3"),)
    assert notes == ["old: 1 trial taken over"]


def test_inactive_keys_are_no_part_of_a_row():
    rows, _ = rows_of(earlier(trial(0, on=False, width=4)))
    assert rows[0].sampled == {"loss.a.enabled": False, "model.width": 4}


def test_what_was_fixed_there_and_is_searched_here_has_its_value_there():
    rows, _ = rows_of(earlier(trial(0, weight=3.0), settings={"model.width": 16}))
    assert rows[0].sampled["model.width"] == 16


@pytest.mark.parametrize(("width", "inside"), [(8, True), (10, False), (20, False), (8.0, False)])
def test_nothing_is_moved_into_a_range_or_onto_a_step(width, inside):
    rows, notes = rows_of(earlier(trial(0, weight=3.0, width=width), trial(1, width=4)))
    assert len(rows) == 1 + inside
    left_out = "1 of 2 trials left out: model.width lies outside this sweep's range"
    assert any(left_out in note for note in notes) != inside


def test_what_was_searched_there_must_be_what_is_set_here():
    sweep = earlier(*(trial(i, **{"optimizer.lr": lr}) for i, lr in enumerate((0.001, 0.01, 0.1))))
    rows, notes = rows_of(sweep)
    assert [row.origin for row in rows] == ["old trial 0"]
    assert any("2 of 3" in note and "optimizer.lr is not 0.001" in note for note in notes)


def test_a_key_that_varied_and_no_longer_exists_makes_rows_useless():
    sweep = earlier(*(trial(i, **{"loss.b.weight": 1.0 + i}) for i in range(3)))
    rows, notes = rows_of(sweep)
    assert rows == ()
    assert any("3 of 3" in note and "loss.b.weight no longer exists" in note for note in notes)
    assert any("Nearest: loss.a.weight" in note for note in notes)


def test_a_key_that_no_longer_exists_and_had_one_value_is_named():
    sweep = earlier(
        *(trial(i, **{"loss.b.weight": 1.0}, weight=1.0 + i) for i in range(3)),
        settings={"model.old": "x"},
    )
    rows, notes = rows_of(sweep)
    assert len(rows) == 3
    assert [note for note in notes if "loss.b.weight" in note]
    assert [note for note in notes if "model.old no longer exists" in note]


def test_a_key_that_is_searched_here_and_did_not_exist_there_is_not_guessed():
    settings = {key: value for key, value in SETTINGS.items() if key != "model.width"}
    sweep = Earlier("old", "toy", {}, ("val.error",), settings, (trial(0, weight=1.0),))
    rows, notes = rows_of(sweep)
    assert rows == ()
    assert any("model.width is searched here and did not exist there" in n for n in notes)


def test_what_both_set_differently_makes_a_line():
    sweep = earlier(trial(0, weight=1.0), settings={"optimizer.lr": 0.1, "train.seed": 4})
    rows, notes = rows_of(sweep)
    assert len(rows) == 1
    assert notes[0] == "old: optimizer.lr was 0.1, here it is 0.001"
    assert not any("train.seed" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data.crop": 32}, "data.crop 32 there, 64 here"),
        ({"metric.mu": 100.0}, "metric.mu 100.0 there"),
        ({"train.steps": 45}, "train.steps 45 there, 90 here"),
    ],
)
def test_values_that_do_not_compare_are_refused(settings, words):
    with pytest.raises(SettingsError, match=words):
        rows_of(earlier(trial(0), settings=settings))


def test_another_system_or_objective_is_refused():
    with pytest.raises(SettingsError, match="a sweep of 'other' says nothing about 'toy'"):
        rows_of(earlier(trial(0), system="other"))
    with pytest.raises(SettingsError, match=r"judged by val\.dice"):
        rows_of(earlier(trial(0), columns=("val.dice",), modes={"val.dice": "max"}))
    with pytest.raises(SettingsError, match=r"the other way round: val.error"):
        rows_of(earlier(trial(0), modes={"val.error": "max"}))
    bound = Goal(GOAL.objectives, (Constraint.parse("val.size<=1"),))
    with pytest.raises(SettingsError, match=r"this sweep by val.error, val.size"):
        rows_of(earlier(trial(0)), goal=bound)


def test_json_and_back():
    sampled = {"a": (1, 2), "b": True, "c": 0.1, "d": "x"}
    warm = Warm(sampled, {10: {"val.error": 0.25}, 90: {}}, "old trial 3")
    assert Warm.from_json(json.loads(json.dumps(warm.to_json()))) == warm


@pytest.fixture
def directory(make_plan, executor, tmp_path):
    """A sweep with rungs on disk, that stopped one trial for its health and repeats its best."""

    def write(name="old", **document):
        plan = make_plan(
            trials=12, seed=3, scheduler="brackets", rung_steps=(10, 30), repeats=2, repeat_top=1
        )
        run = executor(plan)
        run.hand_out()
        run.end(0, "stopped", 5, 0.01, "health: dead")
        run.run(concurrent=2)
        folder = tmp_path / name
        folder.mkdir()
        settings = {"x": 0.0, "y": 0.0, "train.steps": 90, "model.widths": [1, 2]}
        body = {"format": 2, "system": "toy", "created": 0.0, "settings": settings}
        body |= {"objectives": [{"metric": "val.error", "mode": "min"}], "constraints": []}
        body |= {"space": plan.space.to_json(), "points": [], "trials": 12, **document}
        (folder / "sweep.json").write_text(json.dumps(body))
        with EventLog(folder / "log.jsonl") as log:
            for event in run.log:
                fields = {k: v for k, v in event.items() if k not in ("event", "time")}
                log.append(event["event"], **fields)
        return folder, run

    return write


NEW = {"x": 0.0, "y": 0.0, "train.steps": 90, "model.widths": (1, 2)}


def test_a_sweep_on_disk_gives_its_rows(directory, make_plan):
    folder, run = directory()
    rows, notes = read_warm([folder, str(folder)], make_plan().space, GOAL, NEW)
    trials = run.state.trials
    assert notes == ["old: 12 trials taken over"]  # the repeats are not among them
    for row in rows:
        trial = trials[int(row.origin.rsplit(" ", 1)[1])]
        assert row.sampled == trial.sampled
        assert row.values == (trial.rungs if trial.number else {90: {}})
    assert sum(90 in row.values for row in rows) == len(run.state.rungs[90]) + 1


def test_a_trial_that_failed_for_good_is_told_as_ill(directory, make_plan):
    folder, _ = directory(max_failures=1)
    fields = {"trial": 90, "seed": 0, "stop_step": 90, "sampled": {"x": 0.5, "y": 0.5}}
    for failures in range(2):
        rows, _ = read_warm([folder], make_plan().space, GOAL, NEW)
        assert not [row for row in rows if row.origin == "old trial 90"]
        with EventLog(folder / "log.jsonl") as log:
            log.append("handed_out", segment=failures, **fields)
            log.append("ended", trial=90, segment=failures, state="failed", step=0)
    rows, _ = read_warm([folder], make_plan().space, GOAL, NEW)
    (failed,) = [row for row in rows if row.origin == "old trial 90"]
    assert failed.values == {90: {}}


def test_a_log_of_the_first_format_gives_its_values_at_the_end(directory, make_plan):
    folder, run = directory()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("values", None)
        line.pop("holds", None)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, _ = read_warm([folder], make_plan().space, GOAL, NEW)
    full = {n: t.value for n, t in run.state.trials.items() if 90 in t.rungs}
    found = {int(r.origin.rsplit(" ", 1)[1]): r.values[90] for r in rows}
    repeats = {n for n, t in run.state.trials.items() if t.repeat_of is not None}
    assert found.pop(0) == {}
    assert found == {n: {"val.error": v} for n, v in full.items() if n not in repeats}


def test_an_objective_made_of_columns_must_be_made_alike(directory, make_plan):
    made = [Combined("weighted", {"val.a": weight}) for weight in (1.0, 2.0)]
    column = made[0].column
    objectives = [{"metric": column, "mode": "min"}]
    folder, _ = directory(objectives=objectives, derived=[made[0].to_json()])
    goal = Goal((Objective(column, "min"),))
    read_warm([folder], make_plan().space, goal, NEW, made[:1])
    with pytest.raises(SettingsError, match="choose the same constants"):
        read_warm([folder], make_plan().space, goal, NEW, made[1:])


def test_a_range_may_have_moved(directory, make_plan):
    folder, run = directory()
    space = Space("half", "toy", {"x": Uniform(0.0, 1.0), "y": Uniform(-1.0, 1.0)})
    rows, notes = read_warm([folder], space, GOAL, NEW)
    own = [t for t in run.state.trials.values() if t.repeat_of is None]
    assert len(rows) == sum(t.sampled["x"] >= 0 for t in own)
    assert any("x lies outside this sweep's range" in note for note in notes)
