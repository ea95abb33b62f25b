"""`train --time-budget`: ends at a report, resumable, and in the numbers of one training."""

from __future__ import annotations

import json
import shlex
import time

import pytest
import torch

from ray_jobs.train import main
from ray_jobs.training.timeline import Part, train_parts
from trainables.checkpoints import checkpoint
from trainables.parts import Finding
from trainables.run import Budget
from trainables.toy import ToyGan

pytestmark = pytest.mark.usefixtures("module_on_one_thread")

TOY = "trainables.toy:ToyGan"
SETTINGS = ("train.report_every=2", "train.tensorboard=false", "data.noise=0.3", "--no-ray")
NO_TIME = ("--time-budget", "0.001")


def train(directory, *more):
    return main([*more, "--dir", str(directory)])


def rows(directory):
    lines = (directory / "reports.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


@pytest.mark.slow
def test_trainings_of_some_seconds_in_a_row_end_as_one(tmp_path, capsys):
    settings = ("train.steps=16", "train.ema_decay=0.5", "train.checkpoint_every=3", *SETTINGS)
    slow = (TOY, *settings, "train.patience=20", "data.delay_seconds=0.01")
    assert train(tmp_path / "whole", *slow) == 0
    cut = tmp_path / "cut"
    statuses = [train(cut, *slow, "--time-budget", "0.5")]
    while statuses[-1] == 130 and len(statuses) < 9:
        said = capsys.readouterr().out
        reached = rows(cut)[-1]["step"]
        assert f"stopped at step {reached} (time budget of 0.5 s). Go on by" in said
        words = shlex.split(said.splitlines()[-1])
        assert words[:3] == ["python", "-m", "ray_jobs.train"]
        statuses.append(main(words[3:]))
        assert rows(cut)[-1]["step"] > reached
    assert statuses[-1] == 0 and len(statuses) > 2
    assert rows(cut) == rows(tmp_path / "whole")
    whole, found = (
        checkpoint.load(checkpoint.find(directory), TOY) for directory in (tmp_path / "whole", cut)
    )
    for key, tensor in whole.tensors.items():
        assert torch.equal(found.tensors[key], tensor), key
    assert found.meta["best"] == whole.meta["best"]


def test_one_interval_is_always_made_and_an_end_is_an_end(tmp_path):
    given = (TOY, "train.steps=4", *SETTINGS)
    assert train(tmp_path, *given, *NO_TIME) == 130
    assert [row["step"] for row in rows(tmp_path)] == [2]
    assert train(tmp_path, "--resume", "--no-ray", *NO_TIME) == 0
    assert [row["step"] for row in rows(tmp_path)] == [2, 4]
    assert train(tmp_path, "--resume", "--no-ray", *NO_TIME) == 0


def test_an_end_by_time_has_a_checkpoint_that_neither_the_settings_nor_the_best_report_ask_for(
    tmp_path,
):
    worse = ("optimizer.lr=10", "optimizer.kind=sgd", "train.checkpoint_every=1000")
    assert train(tmp_path, TOY, "train.steps=8", *worse, *SETTINGS, *NO_TIME) == 130
    assert train(tmp_path, "--resume", "--no-ray", *NO_TIME) == 130
    first, second = rows(tmp_path)
    assert second["step"] == 4 and second["val.mse"] > first["val.mse"]
    newest = checkpoint.load(checkpoint.available(tmp_path / "checkpoints")[-1], TOY)
    assert newest.meta["report"]["step"] == 4


def test_a_stretch_of_a_timeline_is_not_begun_without_time(tmp_path, capsys):
    file = tmp_path / "timed.yaml"
    file.write_text(
        "train.steps: 4\ntimeline:\n  - {until: 2, optimizer.lr: 0.2}\n"
        "  - {until: 4, optimizer.lr: 0.1}\n"
    )
    given = (TOY, "--settings", str(file), *SETTINGS)
    assert train(tmp_path / "run", *given, *NO_TIME) == 130
    assert "stopped at step 2" in capsys.readouterr().out
    assert train(tmp_path / "run", "--resume", "--no-ray", *NO_TIME) == 0
    assert [row["train.lr"] for row in rows(tmp_path / "run")] == [0.2, 0.1]


def test_the_budget_is_that_of_all_stages(tmp_path, capsys):
    given = (TOY, *SETTINGS, "--stages", "train.steps=2,4")
    said = []
    resume = ("--resume", "--no-ray")
    for arguments, status in ((given, 130), (resume, 130), (resume, 0)):
        assert train(tmp_path, *arguments, *NO_TIME) == status
        said.append(capsys.readouterr().out)
        if len(said) == 1:
            assert not (tmp_path / "stage-2").exists()
    assert "stopped before stage 2 (time budget" in said[0]
    assert "stopped in stage 2 at step 2 (time budget" in said[1]
    ends = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert [(stage["step"], stage["finished"]) for stage in ends] == [(2, True), (4, True)]


def test_the_longest_interval_and_a_checkpoint_have_to_fit():
    budget = Budget(time.time() + 100.0)
    for seconds, is_over in ((30.0, False), (70.0, False), (10.0, False)):
        budget.note(seconds)
        assert budget.is_over == is_over
    budget.saved(40.0)
    budget.note(10.0)
    assert budget.is_over
    endless = Budget.of(None, 0.0)
    endless.begin()
    endless.note(1e9)
    assert not endless.is_over


def test_the_command_to_go_on_keeps_force(tmp_path, capsys, monkeypatch):
    hopeless = Finding("not with these data.", hopeless=True)
    monkeypatch.setattr(ToyGan, "preflight", lambda *given: [hopeless])
    assert train(tmp_path, TOY, "train.steps=4", *SETTINGS, "--force", *NO_TIME) == 130
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main(words[3:]) == 0


def test_a_group_that_has_found_its_time_used_up_ends_the_timeline():
    """Its process knows how long a validation and a checkpoint take, the driver does not."""
    asked = []

    def train_part(part, resume):
        asked.append(part.stop_step)
        return {"step": 4}

    parts = [Part(None, 6), Part(None, 8)]
    assert train_parts(parts, train_part, resume=False, budget=Budget(time.time() + 100.0))
    assert asked == [6]
