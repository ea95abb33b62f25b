"""Trials that end by themselves, in Tune's own actor and as a worker group: stopped, with the
reason, and for good.
"""

from __future__ import annotations

import json
import shutil

import pytest

from results.frame import load_reports, load_sweep

ENDING = (
    "--scheduler", "none", "optimizer.kind=sgd", "data.noise=1.0", "train.steps=40",
    "train.report_every=1", "train.patience=3",
)
ONE_AT_A_TIME = ("--max-concurrent", 1)  # in one process, which takes seconds to import
SPACE = "optimizer.lr: {log_uniform: [0.2, 0.4]}\n"


@pytest.fixture(scope="module")
def cluster(kit):
    with kit.new_cluster(cpus=2, api_server=False) as made:
        yield made


def sweep(cluster, kit, directory, workers):
    ran = cluster.place.run(
        kit.TOY, "--space", cluster.place.space(SPACE), "--dir", directory, "--address",
        cluster.address, "--trials", 3 - workers, "--workers", workers, *ENDING, *ONE_AT_A_TIME,
        f"train.batch_size={8 // workers}",
    )
    assert ran.status == 0, ran.text
    assert "Traceback" not in ran.text, ran.text
    return directory


def resume(cluster, directory):
    options = ("--address", cluster.address, *ONE_AT_A_TIME)
    ran = cluster.place.run("--resume", directory, *options)
    assert ran.status == 0, ran.text


def check_ended_by_patience(directory, trials):
    frame, reports = load_sweep(directory), load_reports(directory)
    assert frame["state"].tolist() == ["complete"] * trials
    for trial, reason in zip(frame["trial"], frame["stop_reason"], strict=True):
        assert reason.startswith("patience: val.mse was best with"), reason
        values = reports[reports["trial"] == trial]["val.mse"].tolist()
        assert len(values) < 40
        assert len(values) - 1 - values.index(min(values)) == 3
        last = (directory / f"reports/{trial:04d}.jsonl").read_text().splitlines()[-1]
        assert json.loads(last)["stop_reason"] == reason


@pytest.fixture(scope="module")
def swept(cluster, kit):
    return sweep(cluster, kit, cluster.place / "sweep", workers=1)


def test_trials_end_by_patience(swept):
    check_ended_by_patience(swept, trials=2)


def test_trials_of_a_group_end_by_patience(cluster, kit):
    directory = sweep(cluster, kit, cluster.place / "groups", workers=2)
    check_ended_by_patience(directory, trials=1)
    assert "untrained" in json.loads((directory / "references.json").read_text())


def test_who_has_ended_does_not_go_on(swept, cluster, kit):
    before = kit.decisions(swept)
    resume(cluster, swept)
    new = kit.decisions(swept)[len(before) :]
    assert [event["event"] for event in new] == ["resumed", "finished"]


def test_a_trial_whose_end_nobody_heard_says_so_again(swept, cluster, kit):
    """The driver was killed between the last report and the end of the segment."""
    directory = cluster.place / "unheard"
    shutil.copytree(swept, directory, ignore=shutil.ignore_patterns("tune"))
    log = directory / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    heard = [line for line in lines if json.loads(line)["event"] not in ("ended", "finished")]
    log.write_text("".join(heard))
    before = load_reports(directory)
    resume(cluster, directory)
    ends = kit.events(directory, "ended")
    assert sorted(end["trial"] for end in ends) == [0, 1]
    assert [(end["segment"], end["state"]) for end in ends] == [(1, "complete")] * 2
    assert all(end["reason"].startswith("patience: val.mse") for end in ends)
    assert load_reports(directory).equals(before)
