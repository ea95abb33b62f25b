"""From the options of a sweep to its plan, and what `--plan` prints of it."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from ray_jobs.engine.cluster import Demand, workers_on
from ray_jobs.sweep import main
from ray_jobs.sweeping.options import SweepOptions, given, sweep_parser
from ray_jobs.sweeping.planning import new_setup
from results.store import SweepError
from search.jobs import next_job
from search.log import SweepState
from search.objectives import Constraint, Objective
from settings.schema import SettingsError
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader

TOY = "trainables.toy:Toy"
LENGTH = ("train.steps=54", "train.report_every=2")


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
        ("--trials 8 --eta 9", "lets one trial in 9 pass"),
        ("--scheduler asha --shares 0.5,0.5", "asha does not read --shares"),
        ("--scheduler pbt --budget 20", "--trials N says how"),
        ("--repeat-top 5", "add --repeats"),
        ("--reference sweeps/first:3", "--metric names neither"),
        ("--sampler cmaes --metric val.mse --metric val.loss.absolute", "cmaes"),
        ("--reference-point val.mse=1", "there is one, val.mse: leave it out"),
        (
            "--metric val.mse --metric val.loss.absolute --reference-point val.mse=1",
            "Write val.mse=NUMBER,val.loss.absolute=NUMBER",
        ),
    ],
)
def test_what_cannot_be_judged_or_planned_is_refused(make, line, says):
    with pytest.raises(SettingsError, match=says.replace("(", r"\(")):
        make(line)


def test_no_rung_lies_before_the_end_of_a_warm_up(make):
    free, warm = make("--trials 30"), make("--trials 30", "optimizer.warmup=0.2")
    assert free.plan.rungs == (2, 6, 18)
    assert warm.plan.last_change == 11
    assert warm.plan.rungs == (18,)
    assert any("no rung before step 12" in note for note in warm.notes)


@pytest.mark.parametrize("rungs", ["30.7", "6,inf", "6,,18", "-6", "six"])
def test_rungs_are_whole_numbers(capsys, rungs):
    with pytest.raises(SystemExit):
        sweep_parser().parse_args([f"--rungs={rungs}"])
    assert "argument --rungs: a whole number from 1 on, not" in capsys.readouterr().err


def test_rungs_may_be_apart():
    assert sweep_parser().parse_args(["--rungs", "6, 18"]).rungs == [6, 18]


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
    assert "one for all trials" not in said
    assert main([*line, "--plan", "--paired"]) == 0
    assert "seeds      one for all trials" in capsys.readouterr().out
    assert not directory.exists()


LIMITS = ("--max-failed-in-a-row", "5", "--max-failed-share", "1", "--max-failures", "2")
TWO = ("--metric", "val.mse", "--metric", "val.loss.absolute")
POINT = ("--reference-point", "val.mse=1,val.loss.absolute=2")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            (),
            "failures 20 in a row or more than 0.9 of 20 or more trials end the sweep; a trial "
            "that fails is tried only once keeps checkpoints: all that a trial keeps while",
        ),
        (LIMITS, "failures 5 in a row end the sweep; a trial that fails is tried 2 times more"),
        (
            ("--max-failed-in-a-row", "0", "--max-failed-share", "1"),
            "failures no number of them ends the sweep;",
        ),
        (("--keep-checkpoints", "best:2"), "keeps checkpoints: best:2 of the trials that have"),
        (TWO, "reference point of the hypervolume: the worst of the documented points"),
        ((*TWO, *POINT), f"reference point of the hypervolume: {POINT[1]}"),
    ],
)
def test_the_plan_has_limits_and_what_is_kept(space, tmp_path, capsys, options, says):
    line = [TOY, *LENGTH, "--space", space, "--dir", str(tmp_path / "sweep"), "--plan"]
    assert main([*line, *options]) == 0
    assert says in " ".join(capsys.readouterr().out.split())


def test_a_population_s_plan_fits_a_line(space, tmp_path, capsys):
    line = [TOY, *LENGTH, "--space", space, "--dir", str(tmp_path / "sweep"), "--plan"]
    assert main([*line, "--scheduler", "pbt", "--trials", "8"]) == 0
    said = capsys.readouterr().out
    assert [row.split()[:3] for row in said.splitlines() if "step 54" in row] == [
        ["│", "step", "54"]
    ]


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
    filled = set(given({**vars(arguments), **values}))
    fields = {field.name for field in dataclasses.fields(SweepOptions)}
    assert filled == fields - {"system", "overrides"}


def test_an_earlier_sweep_and_a_storage_are_taken_from_the_line(make, tmp_path):
    with pytest.raises(SweepError, match="no such directory"):
        make(f"--warm-start {tmp_path / 'nowhere'}")
    assert make(f"--storage sqlite:///{tmp_path}/x.db").options.storage.startswith("sqlite:")
    with pytest.raises(SettingsError, match="sqlite:///FILE"):
        make("--storage redis://host")


GROUPED = """
from dataclasses import dataclass, field

from trainables.api import Built, OptimizerSettings, RateSettings, setting
from trainables.toy import Toy, ToySettings


@dataclass(frozen=True, kw_only=True)
class Rates(RateSettings):
    slope: float = setting(1.0, "of the slope", low=0.0, high=100.0)


@dataclass(frozen=True, kw_only=True)
class Optimizer(OptimizerSettings):
    rate: Rates = field(default_factory=Rates)


@dataclass(frozen=True, kw_only=True)
class Settings(ToySettings):
    optimizer: Optimizer = field(default_factory=Optimizer)


class Grouped(Toy):
    name = "grouped_toy:Grouped"
    Settings = Settings

    def build(self, settings, prepared):
        modules = super().build(settings, prepared).modules
        return Built(modules, groups={"slope": ("model.*weight",)})
"""


def test_the_rate_of_a_group_is_searched_and_reaches_its_parameters(tmp_path, monkeypatch, capsys):
    (tmp_path / "grouped_toy.py").write_text(GROUPED)
    monkeypatch.syspath_prepend(str(tmp_path))
    space = tmp_path / "rates.yaml"
    space.write_text("optimizer.rate.slope: {log_uniform: [3, 9]}\n")
    system = "grouped_toy:Grouped"
    line = [system, *LENGTH, "--space", str(space), "--trials", "2", "--plan"]
    assert main([*line, "--dir", str(tmp_path / "sweep")]) == 0
    assert "optimizer.rate.slope" in capsys.readouterr().out
    overrides = (*LENGTH, "optimizer.schedule=constant", "optimizer.lr=0.01")
    setup = new_setup(SweepOptions(system=system, space=str(space), overrides=overrides))
    job = next_job(setup.plan, SweepState())
    (drawn,) = job.sampled.values()
    assert 3.0 <= drawn <= 9.0
    configured = setup.configured.under(job.sampled)
    started = Training(configured.system, configured.settings, LocalRun(tmp_path / "run"), None)
    batches = iter(train_loader(started.loaders, Share(8, 1), 0, 0, 1))
    started.one_step([next(batches)])
    model = started.modules["model"]
    rates = {
        name: group["lr"]
        for group in started.updates[0].optimizer.param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is each for each in group["params"])
    }
    started.close()
    assert rates == {"linear.weight": pytest.approx(0.01 * drawn), "linear.bias": 0.01}
