"""From the options of a sweep to its plan and back from `sweep.json`; what `--plan` prints, and
what a resume may change.
"""

from __future__ import annotations

import dataclasses
import json
import os
from argparse import Namespace

import pytest
import torch

from ray_jobs.engine.cluster import Demand, workers_on
from ray_jobs.planning import SweepOptions, new_setup
from ray_jobs.resume import asked_document, stored_setup, what_changed
from ray_jobs.sweep import main
from ray_jobs.sweep_options import given, sweep_parser
from results.store import SweepError
from search.objectives import Constraint, Objective
from settings.schema import SettingsError

TOY = "benchmarks.toy:Toy"
SPACE = "loss.squared.weight: {log_uniform: [0.01, 10]}\noptimizer.lr: {log_uniform: [0.001, 1]}\n"
LENGTH = ("train.steps=54", "train.report_every=2")


@pytest.fixture
def space(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return str(file)


@pytest.fixture
def make(space):
    def made(line="", *overrides):
        arguments = sweep_parser().parse_args(line.split())
        options = SweepOptions(
            system=TOY, space=space, overrides=(*LENGTH, *overrides), **given(arguments)
        )
        return new_setup(options)

    return made


@pytest.fixture
def stored(make, tmp_path):
    """A setup, written and read again."""

    def made(line):
        setup = make(line)
        directory = tmp_path / "stored"
        directory.mkdir()
        (directory / "sweep.json").write_text(json.dumps(setup.document))
        return setup, stored_setup(directory)

    return made


@pytest.mark.parametrize(
    ("line", "scheduler"),
    [
        ("", "asha"),
        ("--trials 19", "asha"),
        ("--trials 20", "brackets"),
        ("--budget 3", "brackets"),
        ("--trials 60 --scheduler none", "none"),
    ],
)
def test_the_scheduler_follows_from_how_many_trials_there_are(make, line, scheduler):
    setup = make(line)
    assert setup.plan.scheduler == scheduler
    said = any("the default for" in note for note in setup.notes)
    assert said == ("--scheduler" not in line)


def test_worker_groups_do_not_pause_and_that_is_said(make):
    alone, group = make("--trials 30"), make("--trials 30 --workers 2")
    assert alone.plan.pausing
    assert not group.plan.pausing
    assert any("do not pause" in note for note in group.notes)


def test_several_objectives_constraints_and_sums(make):
    setup = make(
        "--metric val.mse --metric worst_ratio(val.mse=0.5,val.loss.absolute=0.2) "
        "--subject-to val.loss.absolute<=0.1234567"
    )
    goal = setup.plan.goal
    assert goal.objectives == (Objective("val.mse", "min"), Objective("val.worst_ratio", "min"))
    assert goal.constraints == (Constraint("val.loss.absolute", "<=", 0.1234567),)
    assert setup.document["derived"] == [
        {"kind": "worst_ratio", "of": {"val.mse": 0.5, "val.loss.absolute": 0.2}}
    ]
    assert setup.document["metrics"]["val.worst_ratio"]["mode"] == "min"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--metric train.loss.total", "train.loss.total"),
        ("--metric val.mse --metric val.mse", "val.mse is an objective twice"),
        ("--metric val.mse --mode max", "better when min"),
        ("--metric val.mse --mode min --mode min", "--mode is given 2 times for 1"),
        ("--subject-to val.mse<0.1", "write COLUMN<=NUMBER"),
        ("--subject-to val.nothing<=0.1", "val.nothing"),
        ("--subject-to val.mse<=0.1 --subject-to val.mse>=0.2", "no trial can keep"),
        ("--subject-to val.mse<=0.1 --subject-to val.mse<=0.2", "by <= twice"),
        ("--warm-start sweeps/first train.steps=9", "train.steps=9 is a setting"),
        ("--metric log_ratio(val.mse)", "has no constant"),
        ("--trials 30 --rungs 3,9", "multiple of train.report_every"),
        ("--trials 30 --shares 0.5,0.5", "shares names 2 brackets"),
        ("--trials 30 --workers 2 --scheduler asha_promotion", "asha"),
        ("--trials 30 --grace 54", "below train.steps"),
        ("--trials 30 --rungs 6,18 --grace 6", "--grace says nothing"),
        ("--scheduler none --rungs 6,18", "none does not read --rungs"),
        ("--scheduler none --eta 4", "none does not read --eta"),
        ("--scheduler asha --shares 0.5,0.5", "asha does not read --shares"),
        ("--scheduler pbt --budget 20", "--trials N says how"),
        ("--repeat-top 5", "add --repeats"),
        ("--reference sweeps/first:3", "--metric names neither"),
        ("--sampler cmaes --metric val.mse --metric val.loss.absolute", "cmaes"),
    ],
)
def test_what_cannot_be_judged_or_planned_is_refused(make, line, says):
    with pytest.raises(SettingsError, match=says.replace("(", r"\(")):
        make(line)


def test_no_rung_lies_before_the_end_of_a_warm_up(make):
    free, warm = make("--trials 30"), make("--trials 30", "optimizer.warmup=0.2")
    assert free.plan.rungs == (2, 6, 18)
    assert warm.plan.settled == 11
    assert warm.plan.rungs == (18,)
    assert any("no rung before step 12" in note for note in warm.notes)


def test_a_stored_plan_is_the_plan(stored):
    setup, again = stored(
        "--trials 30 --budget 7 --metric val.mse --metric weighted(val.mse=2) --repeats 2 "
        "--repeat-top 4 --rungs 6,18 --shares 0.6,0.3,0.1 --subject-to val.mse>=0.001 "
        "--max-failures 2 --sampler nsga2"
    )
    assert again.plan == setup.plan


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("", []),
        ("--trials 30", []),
        ("--metric val.mse", []),
        ("--metric val.loss.absolute", ["objectives"]),
        ("--eta 4", ["scheduler"]),
        ("--rungs 6,18", ["scheduler"]),
        ("--subject-to val.mse<=1", ["constraints"]),
        ("--sampler random", ["sampler"]),
        ("--storage journal", []),
        ("--storage sqlite:///other.db", ["storage"]),
    ],
)
def test_a_resume_names_what_would_change(stored, line, changed):
    assert changes(stored("--trials 30"), line) == changed


def changes(stored, line):
    """The parts that a resume with these options would change."""
    document = json.loads(json.dumps(stored[0].document))
    said = given(sweep_parser().parse_args(line.split()))
    lines = what_changed(document, asked_document(document, said, []))
    return [line.split(":")[0].split()[0] for line in lines]


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


@pytest.mark.parametrize("rungs", ["30.7", "6,inf", "6,,18", "-6", "six"])
def test_rungs_are_whole_numbers(capsys, rungs):
    with pytest.raises(SystemExit):
        sweep_parser().parse_args([f"--rungs={rungs}"])
    assert "argument --rungs: a whole number from 1 on, not" in capsys.readouterr().err


def test_rungs_may_be_apart():
    assert sweep_parser().parse_args(["--rungs", "6, 18"]).rungs == [6, 18]


def test_how_many_at_a_time_outlives_a_resume(stored, tmp_path, capsys):
    stored("--trials 3 --max-concurrent 1")
    resume = ["--resume", str(tmp_path / "stored"), "--plan"]
    assert main(resume) == 0
    assert "at once: 1 " in capsys.readouterr().out
    assert main([*resume, "--max-concurrent", "7"]) == 0
    assert "at once: 7 " in capsys.readouterr().out


def test_a_resume_takes_no_repeats_away(stored, tmp_path, capsys):
    stored("--trials 6 --repeats 3 --repeat-top 2")
    resume = ["--resume", str(tmp_path / "stored"), "--plan"]
    assert main([*resume, "--repeats", "4", "--repeat-top", "2"]) == 0
    assert main([*resume, "--repeats", "2"]) == 2
    assert main([*resume, "--repeat-top", "1"]) == 2
    said = capsys.readouterr().err
    assert "--repeats 2 would take some away" in said
    assert "--repeat-top 1 would take some away" in said


def test_without_a_rung_it_is_said(make):
    made = make("--scheduler brackets", "optimizer.warmup=0.99")
    assert made.plan.rungs == ()
    assert any("every trial is trained to its end" in note for note in made.notes)


def test_the_plan_is_printed_and_nothing_starts(space, tmp_path, capsys):
    directory = tmp_path / "sweep"
    line = [TOY, *LENGTH, "--space", space, "--trials", "30", "--dir", str(directory)]
    assert main([*line, "--plan", "--step-seconds", "3600", "--max-concurrent", "2"]) == 0
    said = capsys.readouterr().out
    for word in ("bracket", "step 18", "trainings of full length", "CPU hours", "tpe"):
        assert word in said
    assert not directory.exists()


def test_a_population_s_plan_fits_a_line(space, tmp_path, capsys):
    line = [TOY, *LENGTH, "--space", space, "--dir", str(tmp_path / "sweep"), "--plan"]
    assert main([*line, "--scheduler", "pbt", "--trials", "8"]) == 0
    said = capsys.readouterr().out
    assert [row.split()[:3] for row in said.splitlines() if "step 54" in row] == [
        ["│", "step", "54"]
    ]


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
    assert "--budget 0.3 would take some away" in capsys.readouterr().err
    assert main(["--resume", str(begun), "--plan", "--budget", "20"]) == 0


def test_trials_without_their_log_are_not_trained_over(begun, capsys):
    (begun / "log.jsonl").unlink()
    assert main(["--resume", str(begun), "--plan"]) == 2
    assert "restore the log from a copy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [("trials", None), ("scheduler", {"name": "asha"}), ("space", {}), ("warm", None)],
)
def test_a_damaged_document_is_no_traceback(begun, capsys, key, value):
    document = json.loads((begun / "sweep.json").read_text())
    (begun / "sweep.json").write_text(json.dumps({**document, key: value}))
    assert main(["--resume", str(begun), "--plan"]) == 2
    assert "sweep.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--resume", "--simulate", "--dir"])
def test_an_empty_directory_is_not_another_sweep(option, capsys):
    assert main([option, "", TOY, "--plan"]) == 2
    assert f"{option} names no directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("held", "code"),
    [
        pytest.param((), 0, id="new"),
        pytest.param(("lock", ".lock.1a", ".lock.stale.1a", ".sweep.json.1a"), 0, id="died-early"),
        pytest.param((".env",), 2, id="a-dot-file"),
        pytest.param(("notes.txt",), 2, id="a-file"),
    ],
)
def test_a_sweep_begins_where_nothing_is_but_an_early_death_of_its_own(
    space, tmp_path, capsys, held, code
):
    directory = tmp_path / "sweep"
    directory.mkdir()
    for name in held:
        (directory / name).touch()
    line = (TOY, *LENGTH, "--space", space, "--trials", "2", "--dir", str(directory), "--plan")
    assert main([*line]) == code
    assert ("is not empty and no sweep" in capsys.readouterr().err) == (code == 2)


@pytest.mark.parametrize(
    ("demand", "cpus", "gpus", "workers"),
    [
        (Demand(1, 1.0, 0.0), 64, 4, 64),
        (Demand(1, 1.0, 1.0), 64, 4, 4),
        (Demand(1, 1.0, 1.0), 64, 0, 0),
        (Demand(2, 8.0, 0.5), 63, 4, 7),
    ],
)
def test_how_many_workers_a_machine_holds(demand, cpus, gpus, workers):
    assert workers_on({"CPU": cpus, "GPU": gpus}, demand) == workers


def test_the_plan_counts_gpus(space, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    line = [TOY, *LENGTH, "--space", space, "--dir", str(tmp_path / "sweep"), "--plan"]
    cpus, gpus = os.cpu_count(), torch.cuda.device_count()
    assert main([*line, "--gpus", "1"]) == 0
    said = capsys.readouterr().out
    assert f"at once: {max(min(cpus, gpus), 1)} (this machine has {cpus} CPU" in said
    assert ("give --max-concurrent" in said) == (gpus == 0)
    assert main([*line, "--gpus", "1", "--max-concurrent", "5"]) == 0
    said = capsys.readouterr().out
    assert "at once: 5 (" in said
    assert "give --max-concurrent" not in said


def test_every_option_of_a_plan_reaches_it():
    """A field that no option fills would be given in vain."""
    arguments = sweep_parser().parse_args([])
    values = {name: ["set"] for name, value in vars(arguments).items() if value is None}
    filled = set(given(Namespace(**{**vars(arguments), **values})))
    fields = {field.name for field in dataclasses.fields(SweepOptions)}
    assert filled == fields - {"system", "overrides"}


def test_an_earlier_sweep_and_a_storage_are_taken_from_the_line(make, tmp_path):
    with pytest.raises(SweepError, match="no such directory"):
        make(f"--warm-start {tmp_path / 'nowhere'}")
    assert make(f"--storage sqlite:///{tmp_path}/x.db").document["storage"].startswith("sqlite:")
    with pytest.raises(SettingsError, match="sqlite:///FILE"):
        make("--storage redis://host")
