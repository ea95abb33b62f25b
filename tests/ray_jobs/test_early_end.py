"""`train` says why a training ended by itself, and says it again instead of training again."""

from __future__ import annotations

import json

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
