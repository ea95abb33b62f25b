"""A comparison from its arms to its table: real sweeps, one for each unit."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest

SYSTEM = """
from trainables.toy import Toy


class Drawn(Toy):
    name = "drawn_of_a_test:Drawn"
    prepare_reads = ("data.*",)

    def unit_key(self, settings):
        return "data.samples"
"""

ARMS = """
arms: {system: "drawn_of_a_test:Drawn", control: plain, columns: [val.diagnostic]}
points: [own/plain.yaml, own/first.yaml, own/second.yaml, own/broken.yaml]
optimizer.lr: {log_uniform: [0.001, 1.0]}
"""


@pytest.fixture
def cluster(kit):
    """For all sweeps of the comparison; a trial at a time."""
    with kit.new_cluster(cpus=1, api_server=False) as made:
        yield made


def test_arms_share_a_seed_and_a_unit_is_a_sweep_that_goes_on(cluster, kit):
    place = cluster.place
    (place / "drawn_of_a_test.py").write_text(SYSTEM)
    (place / "own").mkdir()
    for name, rate in {"plain": 0.3, "first": 0.1, "second": 0.1}.items():
        (place / "own" / f"{name}.yaml").write_text(f"optimizer.lr: {rate}\n")
    (place / "own/broken.yaml").write_text("model.explode: 1.0\n")
    place.environment |= {"PYTHONPATH": str(place.path), "RAY_ADDRESS": cluster.address}
    line = [sys.executable, "-m", "benchmarks.claims", place.space(ARMS, "own")]
    line += ["--dir", place / "sweeps", "--units", 1, "--first-unit", 20, "--seeds", 1]

    def claims(*more):
        return place.finish(place.popen([*map(str, line), *more]))

    ran = claims()
    assert ran.status == 0, ran.text
    sweep = place / "sweeps/unit-20/seed-0"
    document = json.loads((sweep / "sweep.json").read_text())
    assert document["settings"]["data.samples"] == 20
    assert document["options"]["paired"] is True
    plain, first, second = (
        reports.drop(columns="trial").reset_index(drop=True)
        for _, reports in kit.reports(sweep).groupby("trial")
    )
    pd.testing.assert_frame_equal(first, second)
    assert not plain["val.mse"].equals(first["val.mse"])
    rows = {row.split(" | ")[0]: row for row in ran.out.splitlines() if row.startswith("| ")}
    assert rows["| first"].replace("first", "second") == rows["| second"]
    assert "(no error: 1 unit)" in rows["| first"]
    assert "| val.diagnostic |" in rows["| arm"]
    assert "trainings without a result:\n- broken, unit 20, seed 0: failed: " in ran.out
    assert "- broken: not finite: " in ran.out
    assert "| broken" not in rows
    assert "one batch after 300 steps on it alone:\n- plain: val.mse " in ran.out

    measured = json.loads((sweep / "references.json").read_text())["untrained"]["val.mse"]
    assert rows["| (untrained)"].startswith(f"| (untrained) |  | none | {measured:.4g} |")

    trained = kit.events(sweep, "handed_out")
    again = claims("--no-overfit")
    assert again.status == 0, again.text
    assert kit.events(sweep, "handed_out") == trained
    told = [row for row in again.out.splitlines() if row.startswith("| ")]
    assert told == list(rows.values())
    assert "one batch" not in again.out

    other = claims("data.noise=0.3")
    assert other.status == 1
    assert "settings data.noise: 0.1 -> 0.3" in other.text
