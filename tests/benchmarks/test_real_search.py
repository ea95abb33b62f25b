from __future__ import annotations

import json

import pytest

from benchmarks.real_search import FRESH_SEEDS, again, incumbent, sweep
from ray_jobs.train import main as train

OBJECTIVE = {"metric": "val.mse", "mode": "min"}


@pytest.fixture
def directory(tmp_path):
    """Trainings of 90 steps: a documented point, 60 that stop at step 30, two whole ones, and the
    repeats of the winner, which are no part of the search.
    """
    folder = tmp_path / "conditioner-default-0"
    folder.mkdir()
    document = {"format": 2, "system": "toy", "settings": {"train.steps": 90}}
    document |= {"objectives": [OBJECTIVE], "constraints": [], "trials": 5}
    (folder / "sweep.json").write_text(json.dumps(document))
    events = [{"event": "started"}]

    def trial(number, step, value, state="complete", **fields):
        told = {"trial": number, "segment": 0, "time": float(len(events))}
        events.append({"event": "handed_out", **told, "sampled": {}, "seed": number, **fields})
        events.append({"event": "ended", **told, "state": state, "step": step, "value": value})

    trial(0, 90, 0.2, point="document")
    trial(1, 30, 0.9, state="stopped")
    trial(2, 90, 0.4)
    trial(3, 90, 0.3)
    trial(4, 90, 0.1, repeat_of=3)
    events.append({"event": "finished"})
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        (2.0, -1),  # a documented point was not found, and a stopped trial is no result
        (2.34, 2),
        (3.0, 2),
        (3.34, 3),
        (60.0, 3),  # a repeat finds nothing
    ],
)
def test_the_best_after_so_many_trainings(directory, spent, expected):
    assert incumbent(directory, spent) == expected


@pytest.mark.slow
def test_fresh_trainings_that_are_done_are_only_read(directory):
    reports = []
    for seed in FRESH_SEEDS:
        run = directory.parent / f"{directory.name}-trial-3-seed-{seed}"
        line = ["trainables.toy:Toy", "train.steps=4", "train.tensorboard=false", "--no-ray"]
        assert train([*line, f"train.seed={seed}", "--dir", str(run)]) == 0
        reports.append(run / "reports.jsonl")
    before = [path.read_text() for path in reports]
    values = [json.loads(text.splitlines()[-1])["val.mse"] for text in before]
    assert len(set(values)) == 3
    assert again(directory, 3) == pytest.approx(sum(values) / 3)
    assert [path.read_text() for path in reports] == before


def test_a_finished_sweep_is_not_run_again(directory):
    assert sweep("conditioner", "default", 0, directory.parent) == directory
    assert not directory.with_suffix(".txt").exists()
