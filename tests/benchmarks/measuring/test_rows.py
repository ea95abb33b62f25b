from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks.measuring.rows import row, show, standard_error


def test_a_ratio_says_how_many_times_better():
    assert row("r", 2.0, "s", "peer", 6.0).ratio == 3.0
    assert row("r", 2.0, "1/s", "peer", 6.0, higher_is_better=True).ratio == pytest.approx(1 / 3)
    assert row("r", 2.0, "s", "", None).ratio is None


def test_there_is_no_ratio_to_nothing():
    assert row("r", 0.0, "s", "peer", 6.0).ratio is None
    assert row("r", 2.0, "1/s", "peer", 0.0, higher_is_better=True).ratio is None


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64(math.nan), np.float32(0.5)])
def test_a_printed_row_is_json_whatever_was_measured(value, capsys):
    show(row("r", value, "s", "peer", 2.0), as_json=True)
    line = capsys.readouterr().out
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(read) == ["name", "value", "unit", "peer", "peer_value", "ratio"]
    assert read["value"] == (float(value) if math.isfinite(value) else None)
    assert read["peer_value"] == 2.0


def test_a_row_for_people_has_its_peer_and_ratio(capsys):
    show(row("start_up/help", 0.5, "s", "import ray alone", 2.0), as_json=False)
    show(row("alone", 0.5, "s", "", None), as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("  ")[0] == "start_up/help"
    assert first.endswith("0.5 s  import ray alone: 2  (4x)")
    assert second.endswith(" 0.5 s")


def test_the_standard_error_is_that_of_the_mean():
    values = [0.1, 0.4, 0.7, 0.2]
    assert standard_error(values) == pytest.approx(np.std(values, ddof=1) / 2)
    assert standard_error([0.5]) is None
