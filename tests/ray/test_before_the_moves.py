"""A killed sweep that was written before the modules were moved goes on to its end.

tests/compatibility says what it is and what was made of it then.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest

from results.frame import load_sweep

TRAINED_ELSEWHERE = 1e-3
"""Relative tolerance on what is trained on with another torch or CPU."""


@pytest.mark.last
def test_a_killed_sweep_goes_on_to_its_end(place, kit):
    """What was done is not done again; the third trial goes on from its checkpoint."""
    fixtures = kit.ROOT / "tests/compatibility/fixtures"
    sweep = shutil.copytree(fixtures / "hdr_patch_sweep", place / "sweep")
    files = [*sweep.glob("trials/000[01]/**/*"), *sweep.glob("reports/000[01].jsonl")]
    done = {path: path.read_bytes() for path in files if path.is_file()}
    third = sweep / "reports/0002.jsonl"
    before = third.read_text()
    place.environment = {"OMP_NUM_THREADS": "1"}
    ran = place.run("--resume", sweep, "--max-concurrent", 1)
    assert ran.status == 0, ran.text
    assert done == {path: path.read_bytes() for path in done}
    assert third.read_text().startswith(before), "it did not begin anew"
    log = kit.events(sweep)
    handed_out = Counter(event["trial"] for event in log if event["event"] == "handed_out")
    assert handed_out == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}
    assert log[-1]["event"] == "finished"
    stored = json.loads((fixtures / "hdr_patch_sweep.json").read_text())["trials"]
    check_as_then(load_sweep(sweep), stored)


def check_as_then(trials, stored):
    """The same trials and seeds; the documented points, which nobody stops, end alike."""
    assert trials["trial"].tolist() == [row["trial"] for row in stored]
    assert trials["point"].tolist() == [row["point"] for row in stored]
    assert trials["seed"].tolist() == [row["seed"] for row in stored]
    assert set(trials["state"]) <= {"complete", "stopped"}
    assert trials["is_best"].sum() == 1
    for row, trial in zip(stored, trials.to_dict("records"), strict=True):
        if row["point"]:
            assert (trial["state"], trial["steps"]) == ("complete", 12)
            assert trial["value"] == pytest.approx(row["value"], rel=TRAINED_ELSEWHERE)
