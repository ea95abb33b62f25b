from __future__ import annotations

import json
import statistics

import pytest

from benchmarks.real_search import ARMS, Outcome, outcome, rows_of, sweep, table

FOUND = {
    "default": [Outcome(1.0, 2.0, 3.0), Outcome(2.0, 4.0, 3.0), Outcome(1.0, 2.0, 5.0)],
    "random": [Outcome(2.0, 2.0, 3.0), Outcome(2.0, 4.0, 3.0), Outcome(3.0, 2.0, 5.0)],
}
FOUND = {arm: [*outcomes, Outcome(4.0, 4.0, 8.0)] for arm, outcomes in FOUND.items()}
"""Of four draws."""


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


def test_differences_are_paired_over_the_draws():
    outcomes = {arm: dict(enumerate(found, start=4)) for arm, found in FOUND.items()}
    found = {cell.arm: cell for cell in table("val.error", outcomes)}
    assert {cell.column for cell in found.values()} == {"test.error"}
    assert set(found) == {*ARMS, "document", "best_reference"}
    over = {
        "default": [-1.0, 0.0, -2.0, 0.0],
        "document": [1.0, 2.0, 1.0, 0.0],
        "best_reference": [2.0, 1.0, 4.0, 4.0],
    }
    for arm, differences in over.items():
        paired = found[arm].paired
        assert paired.mean == pytest.approx(statistics.fmean(differences))
        assert paired.error == pytest.approx(statistics.stdev(differences) / 2)
    rows = {row.name: row for row in rows_of("toy", list(found.values()))}
    beside = rows["real_search/toy/default"]
    assert (beside.value, beside.peer, beside.peer_value) == (2.0, "random", 2.75)
    assert beside.ratio == pytest.approx(2.75 / 2.0)
    assert rows["real_search/toy/document/difference"].value == pytest.approx(1.0)
    assert rows["real_search/toy/random"].peer_value is None
