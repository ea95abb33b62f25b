"""`python -m ray_jobs.simulate DIR` on a sweep whose curves are known."""

from __future__ import annotations

import json

import pytest

from ray_jobs import sweep
from ray_jobs.simulate import main, read_workload
from results.directory import read_sweep
from results.store import EventLog, ReportWriter
from search.objectives import Goal, Objective
from search.plan import Plan
from search.simulator import simulate
from search_spaces.domains import Uniform
from search_spaces.space import Space
from settings.paths import SweepPaths
from settings.stop_reasons import no_objective

TOY = "trainables.toy:Toy"
STEPS, EVERY = 40, 5
DOCUMENT = {
    "format": 2,
    "system": TOY,
    "settings": {"train.steps": STEPS, "train.report_every": EVERY},
    "space": {"name": "line", "domains": {"x": {"kind": "uniform", "low": 0.0, "high": 1.0}}},
    "objectives": [{"metric": "val.mse", "mode": "min"}],
    "scheduler": {"name": "none", "eta": 3, "settled": 0},
    "trials": 12,
}


def value(trial, step):
    """Orders do not cross; the best is trial 5."""
    return (1.0 + (trial * 5 + 11) % 12) * (1.0 + 10.0 / step)


@pytest.fixture
def swept(tmp_path):
    """Writes a sweep that a scheduler has run; 0.5 s a step, 2 s a start, two at once."""

    def make(scheduler, /, **document):
        space = Space("line", TOY, {"x": Uniform(0.0, 1.0)})
        plan = Plan(
            space=space,
            trials=12,
            seed=0,
            goal=Goal((Objective("val.mse", "min"),)),
            steps=STEPS,
            report_every=EVERY,
            sampler="random",
            scheduler=scheduler,
        )
        ran = simulate(
            plan,
            lambda job, step: {"val.mse": value(job.trial, step)},
            workers=2,
            step_seconds=lambda job: 0.5,
            start_seconds=2.0,
        )
        (tmp_path / "sweep.json").write_text(json.dumps({**DOCUMENT, **document}))
        clock = [0.0]
        log = EventLog(tmp_path / "log.jsonl", lambda: clock[0])
        for logged in ran.events:
            event = dict(logged)
            clock[0] = event.pop("time")
            if event["event"] == "ended":
                event["seconds"] = 2.0 + 0.5 * event["step"]
            log.append(event.pop("event"), **event)
        for number, trial in ran.state.trials.items():
            writer = ReportWriter(SweepPaths(tmp_path).reports_of(number))
            for step in range(EVERY, trial.step + 1, EVERY):
                row = {"step": step, "segment": 0, "seconds": 0.5 * step}
                writer.append({**row, "val.mse": value(number, step)})
            writer.close()
        return tmp_path

    return make


def table(text):
    """The rows of the table that was printed, split at two spaces or more."""
    lines = text.splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("scheduler"))
    return [
        [cell.strip() for cell in row.split("  ") if cell.strip()] for row in lines[head + 1 :]
    ]


def test_curves_times_and_slots_are_those_of_the_log(swept):
    workload, slots = read_workload(read_sweep(swept("none")))
    assert slots == 2
    assert workload.start_seconds == pytest.approx(2.0)
    assert [curve.trial for curve in workload.curves] == list(range(12))
    for curve in workload.curves:
        assert curve.step_seconds == pytest.approx(0.5)
        assert curve.values == {
            step: {"val.mse": value(curve.trial, step)} for step in range(EVERY, STEPS + 1, EVERY)
        }
    assert workload.best == value(5, STEPS)


def test_the_table(swept, capsys):
    assert main([str(swept("none")), "--orders", "1"]) == 0
    printed = capsys.readouterr().out
    assert "12 trials" in printed
    assert "left out" not in printed
    rows = {row[0]: row for row in table(printed)}
    assert list(rows) == ["brackets", "asha", "none"]
    trials, complete, trainings, hours, regret = rows["none"][2:]
    assert (trials, complete, trainings, regret) == ("12.0", "12.0", "12.00", "0")
    assert float(hours) == pytest.approx(6 * (2.0 + 0.5 * STEPS) / 3600.0, rel=1e-2)
    for name in ("brackets", "asha"):
        assert float(rows[name][4]) < 12.0


def test_budgets_and_schedulers_by_name(swept, capsys):
    directory = str(swept("none"))
    options = ("--scheduler", "none", "--scheduler", "median", "--budget", "2", "--budget", "4")
    assert main([directory, *options, "--orders", "5", "--workers-at-once", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 at once; mean and standard error over 5 orders" in printed
    rows = table(printed)
    assert [row[:2] for row in rows] == [
        ["none", "2"], ["median", "2"], ["none", "4"], ["median", "4"],
    ]
    assert [row[4] for row in rows if row[0] == "none"] == ["2.00", "4.00"]
    assert all("+-" in row[-1] for row in rows)


@pytest.mark.parametrize("asked", ["pbt", "pb2"])
@pytest.mark.parametrize("verb", ["simulate", "sweep"])
def test_a_population_cannot_be_asked_for(swept, capsys, verb, asked):
    directory = str(swept("none"))
    given = [directory] if verb == "simulate" else ["--simulate", directory]
    run = main if verb == "simulate" else sweep.main
    assert run([*given, "--scheduler", asked]) == 2
    said = capsys.readouterr()
    assert f"--scheduler {asked} cannot be simulated" in said.err
    assert "Name one of brackets, asha, " in said.err
    assert not said.out


def test_a_population_is_not_replayed(swept, capsys):
    directory = str(swept("none", scheduler={**DOCUMENT["scheduler"], "name": "pbt"}))
    assert main([directory, "--scheduler", "none"]) == 2
    assert f"{directory} was run by pbt, whose trials take over" in capsys.readouterr().err


def test_trials_pause_only_where_those_of_the_sweep_could(swept, capsys):
    directory = str(swept("none", resources={"workers": 2, "cpus": 1.0, "gpus": 0.0}))
    workload, slots = read_workload(read_sweep(directory))
    running, paused = (
        workload.outcome(workload.run(workload.plan("brackets", pausing=pausing), slots))
        for pausing in (False, True)
    )
    assert main([directory, "--scheduler", "brackets", "--orders", "1"]) == 0
    (row,) = table(capsys.readouterr().out)
    assert row[4] == f"{running.spent:.2f}" != f"{paused.spent:.2f}"


def test_rungs_and_shares_are_those_of_the_sweep(swept, capsys):
    """Unless others are asked for."""
    shares = [0.0, 0.0, 1.0]  # all steps to the bracket that judges nobody
    own = {"name": "brackets", "rung_steps": [10, 20], "shares": shares}
    directory = str(swept("none", scheduler={**DOCUMENT["scheduler"], **own}))
    line = [directory, "--scheduler", "brackets", "--scheduler", "asha", "--orders", "1"]
    assert main(line) == 0
    brackets, asha = table(capsys.readouterr().out)
    assert brackets[4] == "12.00"
    workload, slots = read_workload(read_sweep(directory))
    known = workload.outcome(workload.run(workload.plan("asha", rung_steps=(10, 20)), slots))
    assert asha[4] == f"{known.spent:.2f}"
    assert main([*line, "--grace", "5"]) == 0
    other, _ = table(capsys.readouterr().out)
    assert float(other[4]) < 12.0


def test_what_the_simulation_would_not_read_is_refused(swept, capsys):
    directory = str(swept("none"))
    assert sweep.main(["--simulate", directory, "--budget", "4", "--max-concurrent", "2"]) == 0
    capsys.readouterr()
    line = [TOY, "--simulate", directory, "--rungs", "10,20", "--metric", "val.mse"]
    assert sweep.main(line) == 2
    said = "it does not read --metric, --rungs, key=value: leave that out"
    assert said in capsys.readouterr().err


def test_what_was_stopped_is_left_out_in_words(swept, capsys):
    assert main([str(swept("asha")), "--orders", "2"]) == 0
    printed = capsys.readouterr().out
    assert "trials (stopped, failed or waiting at a rung), for nobody knows" in printed


def test_who_ended_early_without_an_objective_does_so_again(swept):
    """It is a whole curve, though it has no reports up to the last step."""
    directory, end = swept("none"), 20
    log, reports = SweepPaths(directory).log, SweepPaths(directory).reports_of(5)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    for event in events:
        if event["event"] == "ended" and event["trial"] == 5:
            reason = no_objective(["val.mse"], end)
            event |= {"state": "failed", "step": end, "value": None, "values": {}, "holds": []}
            event |= {"reason": reason}
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    rows = [json.loads(line) for line in reports.read_text().splitlines()][: end // EVERY]
    rows[-1]["val.mse"] = None
    reports.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workload, _ = read_workload(read_sweep(directory))
    assert workload.left_out == 0
    state = workload.run(workload.plan("none"), workers=2).state
    (failed,) = [trial for trial in state.trials.values() if trial.status == "failed"]
    assert (failed.step, failed.reason) == (end, reason)


def test_a_sweep_without_a_whole_curve_is_refused(swept, capsys):
    longer = {"settings": {"train.steps": 80, "train.report_every": EVERY}}
    assert main([str(swept("none", **longer))]) == 2
    said = capsys.readouterr().err
    assert "none of the 12 logged trials has reports up to step 80" in said
    assert "--scheduler none" in said


def test_no_sweep(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "is not a sweep directory" in capsys.readouterr().err
