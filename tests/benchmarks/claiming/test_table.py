"""Differences by unit then seed, and what a table says of them."""

from __future__ import annotations

import math
import re
import statistics

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from benchmarks.claiming.table import (
    cells,
    chance,
    markdown,
    read_csv,
    references_of,
    results_of,
    write_csv,
)
from settings.schema import SettingsError

CONTROLS = {"plain": "", "better": "plain"}
PLACES = [(unit, seed) for unit in range(4) for seed in range(2)]


def results(better, plain=lambda unit, seed: 10.0 * unit + seed):
    """One column: functions of (unit, seed)."""
    by_arm = {"plain": plain, "better": better}
    return {"val.e": {arm: {at: f(*at) for at in PLACES} for arm, f in by_arm.items()}}


def of(rows, arm):
    return next(row for row in rows if row.arm == arm)


def test_units_cancel_in_the_difference_and_not_in_the_values():
    rows = cells(results(lambda unit, seed: 10.0 * unit + seed - 1.0 - 0.1 * unit), CONTROLS)
    plain, better = rows
    assert (plain.units, plain.seeds, plain.pairs, plain.difference) == (4, 8, 0, None)
    assert plain.value == pytest.approx(15.5)
    assert plain.value_error == pytest.approx(statistics.stdev([0.5, 10.5, 20.5, 30.5]) / 2.0)
    assert plain.value_spread == pytest.approx(math.sqrt(0.5))
    differences = [-1.0, -1.1, -1.2, -1.3]
    assert better.difference == pytest.approx(-1.15)
    assert better.difference_error == pytest.approx(statistics.stdev(differences) / 2.0)
    assert better.difference_share == pytest.approx(-1.15 / 15.5)
    assert better.pairs == 4


def test_seeds_of_one_unit_have_a_spread_and_no_error():
    one = {"val.e": {"plain": {(0, 0): 1.0, (0, 1): 3.0}, "better": {(0, 0): 2.0, (0, 1): 5.0}}}
    rows = cells(one, CONTROLS)
    better = of(rows, "better")
    assert (better.difference, better.difference_error) == (1.5, None)
    assert better.difference_spread == pytest.approx(math.sqrt(0.5))
    text = markdown(rows)
    assert "| plain |  | 2 | 2 (seeds spread by 1.4) |" in text
    assert (
        "| better | plain | 2 | 3.5 (seeds spread by 2.1); "
        "+1.5 (no error: 1 unit, seeds spread by 0.71) |"
    ) in text
    assert "Differences: 1, none with an error: 1 unit, and it takes 4" in text
    assert "shows from" not in text


def test_a_table_marks_counts_and_says_what_would_have_shown():
    rows = cells(results(lambda unit, seed: 10.0 * unit + seed - 1.0 - 0.1 * unit), CONTROLS)
    text = markdown(rows)
    error = of(rows, "better").difference_error
    assert f"; -1.15 ± {error:.2g} * |" in text
    assert f"| a difference shows from | | | {2.0 * error:.2g} |" in text
    expected = 2.0 * t.sf(2.0, 3)
    assert "Differences: 1, of which 1 are marked (*, 2 standard errors or more)" in text
    assert f"chance alone would mark about {expected:.1f}." in text
    unsure = cells(results(lambda unit, seed: 10.0 * unit + seed + (-1.0) ** unit), CONTROLS)
    assert " *" not in markdown(unsure).replace("(*", "")
    assert "of which 0 are marked" in chance(unsure)


def test_chance_marks_as_many_as_students_t_says():
    """Arms that do not differ, four units each."""
    draw, arms = np.random.default_rng(3), [str(number) for number in range(2000)]
    values = {arm: {(unit, 0): draw.normal() for unit in range(4)} for arm in arms}
    values["plain"] = {(unit, 0): 0.0 for unit in range(4)}
    rows = cells({"val.e": values}, {"plain": "", **dict.fromkeys(arms, "plain")})
    marked = sum(row.paired.tells for row in rows if row.paired)
    said = re.search(r"Differences: 2000, of which (\d+) are .* about ([\d.]+)\.", chance(rows))
    assert int(said[1]) == marked
    assert float(said[2]) == pytest.approx(marked, rel=0.15)


def test_a_difference_is_over_what_both_have():
    given = results(lambda unit, seed: 10.0 * unit + seed - 1.0)
    del given["val.e"]["plain"][(3, 0)], given["val.e"]["plain"][(3, 1)]
    better = of(cells(given, CONTROLS), "better")
    assert (better.units, better.pairs, better.difference_error) == (4, 3, None)
    del given["val.e"]["plain"]
    (alone,) = cells(given, CONTROLS)
    assert (alone.arm, alone.paired) == ("better", None)


def test_results_are_the_last_values_of_complete_trials():
    def frame(**changed):
        rows = {"point": ["a", "b", "c"], "state": ["complete", "failed", "complete"]}
        return pd.DataFrame({**rows, "last/val.e": [1.0, 2.0, math.nan], **changed})

    found = results_of({(0, 1): frame(), (1, 1): frame(**{"last/val.f": 3.0})}, ["val.f", "val.e"])
    assert list(found) == ["val.f", "val.e"]
    assert found["val.e"] == {"a": {(0, 1): 1.0, (1, 1): 1.0}}
    assert found["val.f"] == {"a": {(1, 1): 3.0}, "c": {(1, 1): 3.0}}
    assert results_of({(0, 0): frame()}, ["val.none"]) == {}


def test_references_are_rows_of_their_own():
    measured = {
        (unit, 0): {"mean": {"val.e": 5.0 + unit, "val.f": None, "units": {}}} for unit in range(2)
    }
    references = references_of(measured, ["val.e", "val.f"])
    assert references == {"val.e": {"mean": {(0, 0): 5.0, (1, 0): 6.0}}}
    rows = cells(results(lambda unit, seed: 0.0), CONTROLS, references)
    assert rows[-1].reference
    assert rows[-1].paired is None
    assert "| (mean) |  | none | 5.5 |" in markdown(rows)


def test_a_stored_table_prints_as_it_did(tmp_path):
    given = results(lambda unit, seed: unit / 3.0 + seed)
    rows = cells(given, CONTROLS, {"val.e": {"mean": {(0, 0): 1.0 / 7.0}}})
    write_csv(tmp_path / "deep/t.csv", rows)
    again = read_csv(tmp_path / "deep/t.csv")
    assert markdown(again) == markdown(rows)
    assert [(row.arm, row.reference, row.pairs) for row in again] == [
        ("plain", False, 0),
        ("better", False, 4),
        ("mean", True, 0),
    ]
    (tmp_path / "other.csv").write_text("arm,value\na,1\n")
    with pytest.raises(SettingsError, match="a table has the columns arm, control"):
        read_csv(tmp_path / "other.csv")
