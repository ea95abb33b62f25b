"""`train` says why a training ended by itself, and says it again instead of training again. One
that ends without a value of its objective has failed.
"""

from __future__ import annotations

import json

import pytest

from ray_jobs.train import main

TOY = "trainables.toy:Toy"
ENDING = ["optimizer.kind=sgd", "optimizer.lr=0.3", "data.noise=1.0", "train.steps=40"]
ENDING += ["train.report_every=1", "train.patience=3", "train.tensorboard=false"]


def test_train_prints_why_it_ended(tmp_path, capsys):
    directory = tmp_path / "run"
    assert main([TOY, "--dir", str(directory), "--no-ray", *ENDING]) == 0
    lines = (directory / "reports.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == len(lines) < 40
    ended = f"ended by itself at step {last['step']}: {last['stop_reason']}"
    assert ended in capsys.readouterr().out.splitlines()
    assert last["stop_reason"].startswith("patience: val.mse was best with")
    assert main([TOY, "--dir", str(directory), "--no-ray", "--resume"]) == 0
    said = capsys.readouterr().out
    assert ended in said.splitlines()
    assert "goes on with another" not in said
    assert (directory / "reports.jsonl").read_text().splitlines() == lines


def test_a_resume_says_which_settings_are_others(tmp_path, capsys):
    first = [TOY, "--dir", str(tmp_path / "run"), "--no-ray", "train.steps=4"]
    assert main([*first, "train.tensorboard=false"]) == 0
    capsys.readouterr()
    assert main([*first[:-1], "--resume", "train.steps=8", "data.samples=32"]) == 0
    said = [row for row in capsys.readouterr().out.splitlines() if "goes on with another" in row]
    assert said == [
        "goes on with another data.samples: 64 -> 32",
        "goes on with another train.steps: 4 -> 8",
    ]


BLIND = """
import dataclasses, math
from trainables.toy import Toy

class Blind(Toy):
    name = "blind_of_a_test:Blind"

    def metrics(self, settings, prepared):
        first, *others = super().metrics(settings, prepared)
        if settings.train.seed == 7:
            first = dataclasses.replace(first, finish=lambda sums, count: math.nan)
        return [first, *others]
"""
"""The toy system, whose objective has no value under seed 7."""


@pytest.fixture
def blind(tmp_path, monkeypatch):
    (tmp_path / "blind_of_a_test.py").write_text(BLIND)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments):
        return main(["--dir", str(tmp_path / "run"), "--no-ray", *arguments])

    return run


OFTEN = ("blind_of_a_test:Blind", "train.report_every=2", "train.tensorboard=false")
SHORT = (*OFTEN, "train.steps=4")


@pytest.mark.parametrize(("patience", "step"), [(0, 4), (1, 2)])
def test_an_end_without_an_objective_is_a_failure(blind, capsys, patience, step):
    begin = (*SHORT, f"train.patience={patience}", "train.seed=7")
    for arguments in (begin, ("--resume",)):
        assert blind(*arguments) == 1
        said = capsys.readouterr()
        (line,) = said.err.splitlines()
        assert line.startswith(f"error: no objective: no finite value of val.mse at step {step}, ")
        assert "change what leads there" in line
        assert "checkpoints, reports and TensorBoard files are in" in said.out


def test_a_training_that_a_health_check_ended_stays_what_it_is(blind, capsys):
    """It has said why it ended."""
    ill = ("train.overfit_ratio=2", "data.noise=0", "data.samples=1", "optimizer.kind=sgd")
    assert blind(*OFTEN, *ill, "optimizer.lr=0.1", "train.seed=7", "train.steps=40") == 0
    said = capsys.readouterr()
    assert "ended by itself at step" in said.out and "health: overfit_ratio" in said.out
    assert said.err == ""


@pytest.mark.parametrize(("seeds", "last"), [("7,1", 1), ("1,7", 2)])
def test_a_stage_without_an_objective_ends_the_sequence(blind, tmp_path, capsys, seeds, last):
    assert blind(*SHORT, "--stages", f"train.seed={seeds}") == 3
    said = capsys.readouterr()
    assert said.err.startswith("error: no objective: no finite value of val.mse at step 4, ")
    assert ("The later stages have not begun." in said.out) == (last == 1)
    stages = json.loads((tmp_path / "run/stages.json").read_text())["stages"]
    assert [stage["finished"] for stage in stages] == [stage < last for stage in (1, 2)]
    assert stages[last - 1]["stop_reason"].startswith("no objective: ")
    assert blind("--resume") == 3
