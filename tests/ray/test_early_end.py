"""Trials that end by themselves, in Tune's own actor and as a worker group: stopped, with the
reason, and for good.
"""

from __future__ import annotations

import json

import pytest

from results.frame import load_reports, load_sweep

ENDING = ("optimizer.kind=sgd", "data.noise=1.0", "train.steps=40", "train.report_every=1")
SPACE = "optimizer.lr: {log_uniform: [0.2, 0.4]}\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_of_trials_that_end_by_patience(place, kit, workers):
    directory = place / "sweep"
    batch = f"train.batch_size={8 // workers}"
    ran = place.run(
        kit.TOY, "--space", place.space(SPACE), "--dir", directory, "--trials", 3 - workers,
        "--workers", workers, "--scheduler", "none", "train.patience=3", batch, *ENDING,
    )  # fmt: skip
    assert ran.status == 0, ran.text
    assert "Traceback" not in ran.text, ran.text
    found, reports = load_sweep(directory), load_reports(directory)
    assert found["state"].tolist() == ["complete"] * (3 - workers), ran.text
    for trial, reason in zip(found["trial"], found["stop_reason"], strict=True):
        assert reason.startswith("patience: val.mse was best with"), reason
        values = reports[reports["trial"] == trial]["val.mse"].tolist()
        assert len(values) < 40
        assert len(values) - 1 - values.index(min(values)) == 3
        last = (directory / f"reports/{trial:04d}.jsonl").read_text().splitlines()[-1]
        assert json.loads(last)["stop_reason"] == reason
    before = kit.decisions(directory)
    again = place.run("--resume", directory)
    assert again.status == 0, again.text
    new = kit.decisions(directory)[len(before) :]
    assert [event["event"] for event in new] == ["resumed", "finished"]


def test_a_trial_whose_end_nobody_heard_says_so_again(place, kit):
    """The driver was killed between the last report and the end of the segment."""
    directory = place / "sweep"
    options = ("--space", place.space(SPACE), "--dir", directory, "--trials", 1)
    ran = place.run(kit.TOY, *options, "--scheduler", "none", "train.patience=3", *ENDING)
    assert ran.status == 0, ran.text
    log = directory / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["event"] not in ("ended", "finished")]
    log.write_text("".join(kept))
    before = load_reports(directory)
    again = place.run("--resume", directory)
    assert again.status == 0, again.text
    (end,) = kit.events(directory, "ended")
    assert (end["segment"], end["state"]) == (1, "complete")
    assert end["reason"].startswith("patience: val.mse")
    assert load_reports(directory).equals(before)
