from __future__ import annotations

import json
import statistics

import pytest

from benchmarks.real_search import ARMS, Outcome, outcome, rows_of, sweep

FOUND = {
    "default": [Outcome(1.0, 2.0, 3.0), Outcome(2.0, 4.0, 3.0), Outcome(1.0, 2.0, 3.0)],
    "tpe": [Outcome(1.0, 2.0, 3.0), Outcome(2.0, 4.0, 3.0), Outcome(1.0, 2.0, 3.0)],
    "random": [Outcome(2.0, 2.0, 3.0), Outcome(2.0, 4.0, 3.0), Outcome(3.0, 2.0, 3.0)],
}
FOUND = {arm: [*outcomes, Outcome(4.0, 4.0, 8.0)] for arm, outcomes in FOUND.items()}


@pytest.fixture
def directory(tmp_path):
    """A finished sweep that nobody has tested."""
    folder = tmp_path / "conditioner-default-4"
    folder.mkdir()
    document = {"format": 2, "system": "toy", "settings": {"train.steps": 90}, "trials": 1}
    document |= {"objectives": [{"metric": "val.mse", "mode": "min"}], "constraints": []}
    (folder / "sweep.json").write_text(json.dumps(document))
    (folder / "log.jsonl").write_text('{"event": "started"}\n{"event": "finished"}\n')
    return folder


def test_a_finished_sweep_is_not_run_again(directory):
    assert sweep("conditioner", "default", 4, directory.parent) == directory
    assert not directory.with_suffix(".txt").exists()


def test_a_sweep_without_a_look_at_its_test_says_how_to_get_one(directory):
    with pytest.raises(ValueError, match=rf"--resume {directory} --test"):
        outcome(directory)


def test_gains_are_paired_over_the_draws():
    rows = {row.name: row for row in rows_of("toy", FOUND)}
    document = rows["real_search/toy/default/over_document"]
    assert (document.value, document.peer_value) == (2.0, 3.0)
    assert document.ratio == pytest.approx(1.5)
    gain = rows["real_search/toy/default/over_random/gain"]
    differences = [1.0, 0.0, 2.0, 0.0]
    assert gain.value == pytest.approx(statistics.fmean(differences))
    assert gain.peer_value == pytest.approx(statistics.stdev(differences) / 2)
    # Random search is no rival of itself.
    assert len(rows) == 2 * (3 * len(ARMS) - 1)
