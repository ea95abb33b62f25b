"""What a resume goes on with, what it may add, and what it refuses."""

from __future__ import annotations

import json

import pytest

from ray_jobs.sweep import main
from ray_jobs.sweeping.options import given, sweep_parser
from ray_jobs.sweeping.resume import grown, stored_setup, what_changed
from results.directory import read_sweep
from settings.schema import SettingsError


def test_a_stored_plan_is_the_plan(stored):
    setup, again = stored(
        "--trials 30 --budget 7 --metric val.mse --metric weighted(val.mse=2) --repeats 2 "
        "--repeat-top 4 --rungs 6,18 --shares 0.6,0.3,0.1 --subject-to val.mse>=0.001 "
        "--max-failures 2 --sampler nsga2 --paired"
    )
    assert again.plan == setup.plan


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("", []),
        ("--trials 30", []),
        ("--metric val.mse", []),
        ("--metric val.loss.absolute", ["objectives"]),
        ("--eta 4", ["--eta"]),
        ("--paired", ["--paired"]),
        ("--rungs 6,18", ["--rungs"]),
        ("--subject-to val.mse<=1", ["constraints"]),
        ("--sampler random", ["--sampler"]),
        ("--storage journal", []),
        ("--storage sqlite:///other.db", ["--storage"]),
    ],
)
def test_a_resume_names_what_would_change(stored, line, changed):
    assert changes(stored("--trials 30"), line) == changed


def changes(stored, line):
    """The parts that a resume with these options would change."""
    said = given(vars(sweep_parser().parse_args(line.split())))
    lines = what_changed(stored[1], said, [])
    return [line.split(":")[0].split()[0] for line in lines]


def test_a_key_that_is_newer_than_the_sweep_has_its_default(stored, tmp_path):
    stored("--trials 30")
    file = tmp_path / "stored" / "sweep.json"
    document = json.loads(file.read_text())
    del document["settings"]["data.fail_at"]
    file.write_text(json.dumps(document))
    again = stored_setup(file.parent)
    assert what_changed(again, {}, []) == []
    lines = what_changed(again, {}, ["optimizer.beta1=0.125", "data.fail_at=3"])
    assert [line.split(":")[0] for line in lines] == [
        "settings data.fail_at",
        "settings optimizer.beta1",
    ]


RATIO, SUM = "log_ratio(val.mse=0.5,val.loss.absolute=0.25)", "weighted(val.mse=2)"


@pytest.mark.parametrize(
    ("metrics", "changed"),
    [
        ((RATIO, SUM), []),
        (("log_ratio(val.loss.absolute,val.mse)", "weighted(val.mse=2.0)"), []),
        (("log_ratio(val.mse,val.loss.absolute=0.3)", SUM), ["derived"]),
        ((RATIO, "weighted(val.mse=3)"), ["derived"]),
        ((SUM, RATIO), ["objectives", "derived"]),
        ((RATIO, "val.mse"), ["objectives", "derived"]),
    ],
)
def test_sums_are_compared_by_what_they_are_made_of(stored, metrics, changed):
    line = " ".join(f"--metric {metric}" for metric in metrics)
    assert changes(stored(f"--metric {RATIO} --metric {SUM}"), line) == changed


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--metric log_ratio(val.loss.squared)", "has no constant of val.loss.squared"),
        ("--metric worst_ratio(val.mse)", "has no constant of val.mse"),
        ("--warm-start sweeps/first", "--warm-start is read when a sweep starts"),
        ("--reference sweeps/first:3", "--reference is read when a sweep starts"),
    ],
)
def test_what_a_resume_would_not_read_is_refused(stored, line, says):
    with pytest.raises(SettingsError, match=says):
        changes(stored(f"--metric {RATIO}"), line)


def test_what_its_scheduler_refuses_cannot_be_added_on_a_resume(stored, tmp_path, capsys):
    """In sweep.json it would end this resume in the midst, and every later one."""
    stored("--trials 6 --scheduler pbt")
    resume = ["--resume", str(tmp_path / "stored"), "--plan"]
    assert main(resume) == 0
    assert main([*resume, "--repeats", "3"]) == 2
    assert "Leave out --repeats" in capsys.readouterr().err


def test_a_resume_stays_in_its_directory(stored, tmp_path, capsys):
    """Another --dir would be left unused without a word; the same one says nothing new."""
    stored("--trials 3")
    directory = tmp_path / "stored"
    resume = ["--resume", str(directory), "--plan"]
    assert main([*resume, "--dir", f"{directory}/../stored"]) == 0
    assert main([*resume, "--dir", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert f"--dir {tmp_path / 'new'} names another: leave --dir out" in said


def test_how_many_at_a_time_outlives_a_resume(stored, tmp_path, capsys):
    stored("--trials 3 --max-concurrent 1")
    resume = ["--resume", str(tmp_path / "stored"), "--plan"]
    assert main(resume) == 0
    assert "at once: 1 " in capsys.readouterr().out
    assert main([*resume, "--max-concurrent", "7"]) == 0
    assert "at once: 7 " in capsys.readouterr().out


def test_a_resume_may_name_another_reference_point(stored, tmp_path, capsys):
    """No decision depends on it."""
    setup, again = stored(
        "--metric val.mse --metric val.loss.absolute "
        "--reference-point val.loss.absolute=2,val.mse=1.5"
    )
    point = {"val.mse": 1.5, "val.loss.absolute": 2.0}
    assert read_sweep(tmp_path / "stored").reference_point == point
    other = "val.mse=3,val.loss.absolute=4"
    after = grown(again, tmp_path / "stored", {"reference_point": other})
    assert after.plan == setup.plan
    assert after.document["options"]["reference_point"] == other
    resume = ["--resume", str(tmp_path / "stored"), "--plan", "--reference-point"]
    assert main([*resume, other]) == 0
    assert main([*resume, "val.mse=3"]) == 2
    assert "Write val.mse=NUMBER,val.loss.absolute=NUMBER" in capsys.readouterr().err


def test_what_is_kept_of_checkpoints_may_change_and_outlives_a_resume(stored, tmp_path):
    setup, again = stored("--trials 3 --keep-checkpoints best:2")
    assert (setup.options.keep_checkpoints, again.options.keep_checkpoints) == ("best:2", "best:2")
    said = given(vars(sweep_parser().parse_args(["--keep-checkpoints", "rungs"])))
    assert what_changed(again, said, []) == []
    changed = grown(again, tmp_path / "stored", said)
    assert changed.options.keep_checkpoints == "rungs"
    assert changed.document["options"]["keep_checkpoints"] == "rungs"
    assert changed.plan == setup.plan, "no decision depends on it"


def test_a_sweep_of_before_keeps_all(stored, tmp_path):
    stored("--trials 3")
    file = tmp_path / "stored" / "sweep.json"
    document = json.loads(file.read_text())
    del document["options"]["keep_checkpoints"], document["settings"]["train.checkpoint_every"]
    file.write_text(json.dumps(document))
    again = stored_setup(file.parent)
    assert again.options.keep_checkpoints == "all"
    assert again.configured.settings.train.checkpoint_every == 1


def test_how_often_trials_save_may_change_and_outlives_a_resume(stored, tmp_path):
    _, setup = stored("--trials 3")
    file = tmp_path / "stored" / "sweep.json"
    often = ["train.checkpoint_every=3"]
    assert what_changed(setup, {}, often) == []
    assert what_changed(setup, {}, ["train.finite_check_every=4"]) == []
    assert what_changed(setup, {}, ["train.external=/moved"]) == []
    assert what_changed(setup, {}, [*often, "train.batch_size=2"]) != []
    changed = grown(setup, file.parent, {}, often)
    assert changed.document["settings"]["train.checkpoint_every"] == 3
    assert changed.configured.settings.train.checkpoint_every == 3
    file.write_text(json.dumps(changed.document))
    again = stored_setup(file.parent)
    for said in ({}, {"preset": None}):  # with a preset that says every key that nobody overrode
        assert grown(again, file.parent, said).document == changed.document
    assert what_changed(again, {}, []) == []
    with pytest.raises(SettingsError, match=r"train\.checkpoint_every"):
        what_changed(again, {}, ["train.checkpoint_every=0"])


def test_a_resume_takes_no_repeats_away(stored, tmp_path, capsys):
    stored("--trials 6 --repeats 3 --repeat-top 2")
    resume = ["--resume", str(tmp_path / "stored"), "--plan"]
    assert main([*resume, "--repeats", "4", "--repeat-top", "2"]) == 0
    assert main([*resume, "--repeats", "2"]) == 2
    assert main([*resume, "--repeat-top", "1"]) == 2
    said = capsys.readouterr().err
    assert "--repeats 2 would take some away" in said
    assert "--repeat-top 1 would take some away" in said


@pytest.fixture
def begun(stored, tmp_path):
    """A sweep of 30 trials, one of which has come to step 18 of 54."""
    stored("--trials 30")
    log = tmp_path / "stored" / "log.jsonl"
    one = {"trial": 0, "segment": 0}
    handed_out = {"event": "handed_out", "sampled": {}, "seed": 1, "stop_step": 18}
    ended = {"event": "ended", "state": "stopped", "step": 18, "value": 1.0}
    log.write_text("".join(json.dumps({**event, **one}) + "\n" for event in (handed_out, ended)))
    (tmp_path / "stored" / "trials" / "0000").mkdir(parents=True)
    return tmp_path / "stored"


def test_the_plan_of_a_resume_says_what_is_done(begun, capsys):
    assert main(["--resume", str(begun), "--plan"]) == 0
    assert "so far     18 of these steps, 0.3 trainings" in capsys.readouterr().out


def test_a_resume_may_not_set_a_budget_that_is_spent(begun, capsys):
    assert main(["--resume", str(begun), "--plan", "--budget", "0.3"]) == 2
    assert "--budget 0.3 would take some away" in (said := capsys.readouterr().err)
    assert "has spent 0.333333 already" in said
    assert main(["--resume", str(begun), "--plan", "--budget", "20"]) == 0


def test_trials_without_their_log_are_not_trained_over(begun, capsys):
    (begun / "log.jsonl").unlink()
    assert main(["--resume", str(begun), "--plan"]) == 2
    assert "restore the log from a copy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("options.trials", None, "sweep.json: --trials must be a whole number from 1 on, not No"),
        ("options.seed", "a", "sweep.json: --seed must be a whole number from 0 on, not 'a'"),
        ("options.max_concurrent", 0, "sweep.json: --max-concurrent must be 1 or more"),
        ("options.keep_checkpoints", "best", "--keep-checkpoints must be all, best:N with N from"),
        ("options.patience", 3, "sweep.json: this version has no option patience"),
        ("options", None, "sweep.json is damaged"),
        ("options.repeats", True, "--repeats must be a whole number from 0 on, not True"),
        ("options.cpus", 0.0, "--workers must be 1 or more, --cpus above 0"),
        ("settings.optimizer", 1, "sweep.json: there is no setting 'optimizer'"),
        ("space", {}, "sweep.json is damaged"),
        ("warm", None, "sweep.json is damaged"),
    ],
)
def test_a_damaged_document_is_no_traceback(begun, capsys, key, value, says):
    document = json.loads((begun / "sweep.json").read_text())
    *above, last = key.split(".")
    node = document[above[0]] if above else document
    node[last] = value
    (begun / "sweep.json").write_text(json.dumps(document))
    assert main(["--resume", str(begun), "--plan"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("part", ["origins", "points", "constraints", "derived", "terms"])
def test_a_document_without_a_part_is_damaged(begun, capsys, part):
    document = json.loads((begun / "sweep.json").read_text())
    del document[part]
    (begun / "sweep.json").write_text(json.dumps(document))
    assert main(["--resume", str(begun), "--plan"]) == 2
    assert f"sweep.json is damaged, missing or malformed: '{part}'" in capsys.readouterr().err


def test_a_key_that_is_searched_cannot_be_fixed_by_a_resume(stored):
    setup = stored("--trials 3")[1]
    value = setup.configured.values["optimizer.lr"]
    with pytest.raises(SettingsError, match=r"optimizer\.lr is searched by this sweep"):
        what_changed(setup, {}, [f"optimizer.lr={value}"])


def test_how_many_are_repeated_says_nothing_without_repeats(stored, tmp_path, capsys):
    stored("--trials 3")
    assert main(["--resume", str(tmp_path / "stored"), "--plan", "--repeat-top", "5"]) == 2
    assert "add --repeats" in capsys.readouterr().err
