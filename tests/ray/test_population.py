"""A population on a real cluster: trials that go on from each other's checkpoints."""

from __future__ import annotations

import json

import pytest

from results.lineage import export_schedule, lineage
from results.store import read_events
from search.log import SweepState

OPTIONS = ("--scheduler", "pbt", "--sampler", "random", "--trials", 6, "--seed", 3, "--grace", 4)
SETTINGS = (
    "train.steps=24",
    "train.report_every=2",
    "train.tensorboard=false",
    "data.noise=0.5",
    "data.delay_seconds=0.002",
)


@pytest.fixture(scope="module")
def cluster(kit):
    with kit.new_cluster(cpus=2, api_server=False) as made:
        yield made


@pytest.fixture(scope="module")
def swept(cluster, kit):
    """Six members on two slots."""
    place, directory = cluster.place, cluster.place / "population"
    arguments = ("--space", place.space(), "--dir", directory, *OPTIONS, *SETTINGS)
    ran = place.run(kit.TOY, *arguments, "--address", cluster.address)
    assert ran.status == 0, ran.text
    return directory


def state_of(directory):
    return SweepState(read_events(directory / "log.jsonl"))


def lives(directory):
    """All that was decided and measured, without the order of the log and without clocks."""
    state = state_of(directory)
    return {
        number: (trial.status, trial.value, trial.spans, trial.rungs)
        for number, trial in state.trials.items()
    }


def rows(file):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "segment")} for row in lines]


def test_members_copy_each_other_and_end(swept):
    trials = state_of(swept).trials.values()
    assert [trial.status for trial in trials] == ["complete"] * 6
    assert any(span.start for trial in trials for span in trial.spans.values())
    assert not list(swept.glob("trials/*/error.txt"))


def test_a_schedule_is_exported_and_trained_again(swept, cluster, kit):
    number = max(range(6), key=lambda n: len(lineage(swept, n)))
    settings, again = cluster.place / "found.yaml", cluster.place / "again"
    stages = export_schedule(swept, number, settings)
    assert len(stages) > 1
    ran = cluster.place.run(kit.TOY, "--settings", settings, "--dir", again, verb="train")
    assert ran.status == 0, ran.text
    expected = []
    for stage in stages:
        own = rows(swept / f"reports/{stage.trial:04d}.jsonl")
        expected += [row for row in own if stage.from_step < row["step"] <= stage.to_step]
    assert rows(again / "reports.jsonl") == expected


def test_one_slot_and_a_killed_driver_come_to_the_same(swept, cluster, place, kit):
    """What is decided hangs neither on the slots nor on the process that decides."""
    directory = place / "killed"
    arguments = ("--space", place.space(), "--dir", directory, *OPTIONS, *SETTINGS)
    process = place.start(kit.TOY, *arguments, "--max-concurrent", 1)
    place.drain(process)
    kit.until(
        lambda: (
            any(event["from"] for event in kit.events(directory, "handed_out"))
            or process.poll() is not None
        )
    )
    kit.kill_group(process)
    ran = cluster.place.run("--resume", directory, "--address", cluster.address)
    assert ran.status == 0, ran.text
    assert lives(directory) == lives(swept)
    for number in range(6):
        name = f"reports/{number:04d}.jsonl"
        assert rows(directory / name) == rows(swept / name)
