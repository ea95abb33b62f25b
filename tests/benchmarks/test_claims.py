"""The arms of the findings, and their tables."""

from __future__ import annotations

import math
import statistics

import pandas as pd
import pytest

from benchmarks.claims import COLUMNS, SYSTEMS, table
from benchmarks.measuring.commands import ROOT
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from trainables.system import load_system

ARMS = ROOT / "benchmarks/arms"


def test_every_finding_has_arms_a_system_and_columns():
    assert {path.stem for path in ARMS.glob("*.yaml")} == set(COLUMNS) == set(SYSTEMS)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_the_points_of_the_arms_are_settings_of_the_system_and_the_columns_its_own(name):
    made = new_setup(SweepOptions(system=SYSTEMS[name], space=str(ARMS / f"{name}.yaml")))
    files = {path.stem for path in (ARMS / name).glob("*.yaml")}
    points = [point.name for point in made.plan.points]
    assert files <= set(points), "a file that no space names"
    assert len(set(points)) == len(points)
    system = load_system(SYSTEMS[name])
    measured = {f"val.{metric.name}" for metric in system.metrics(made.configured.settings, None)}
    own = [c for c in COLUMNS[name] if c.startswith("val.") and not c.startswith("val.loss.")]
    assert set(own) <= measured


def test_a_table_has_the_mean_and_the_standard_error_of_complete_trials():
    values = {"a": [1.0, 2.0, 4.0], "b": [3.0, 3.0, 3.0]}
    rows = [
        {"point": point, "state": "complete", "last/val.error": value}
        for point, own in values.items()
        for value in own
    ]
    rows.append({"point": "a", "state": "failed", "last/val.error": 1000.0})
    heading, rule, first, second = table(pd.DataFrame(rows), ("val.error", "val.none")).split("\n")
    assert heading == "| point | seeds | val.error |"
    assert rule.count("|") == heading.count("|")
    mean, error = statistics.mean(values["a"]), statistics.stdev(values["a"]) / math.sqrt(3)
    assert first == f"| a | 3 | {mean:.4g} ± {error:.2g} |"
    assert second == "| b | 3 | 3 ± 0 |"
