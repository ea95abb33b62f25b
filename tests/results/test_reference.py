from __future__ import annotations

from pathlib import Path

import pytest

from metrics.combined import Combined
from results.reference import reference_values, split_reference
from results.store import SweepError
from settings.schema import SettingsError

OBJECTIVE, SNR = "val.mse", "val.snr_db"


def test_what_a_reference_names(tmp_path):
    assert split_reference("sweeps/a") == (Path("sweeps/a"), "")
    assert split_reference("sweeps/a:3") == (Path("sweeps/a"), "3")
    odd = tmp_path / "a:3"
    odd.mkdir()
    assert split_reference(str(odd)) == (odd, "")
    assert split_reference(f"{odd}:document") == (odd, "document")


@pytest.mark.parametrize(("which", "value"), [("", 0.5), ("before", 0.6), ("2", 0.4), ("0", 0.5)])
def test_the_last_report_of_the_trial(finished, which, value):
    """The document's own point where none is named."""
    found = reference_values(finished.path, which, [OBJECTIVE, SNR])
    assert found == {OBJECTIVE: value, SNR: 30 - value}


def test_it_fills_the_constants_of_a_combination(finished):
    text = f"log_ratio({OBJECTIVE},{SNR}=20)"
    found = Combined.parse(text, lambda columns: reference_values(finished.path, "2", columns))
    assert found.of == {OBJECTIVE: 0.4, SNR: 20.0}


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("7", ["'7'", ":0)", "document, before"]),
        ("final", ["'final'"]),
        ("4", ["trial 4", "is stopped, not complete"]),
    ],
)
def test_a_trial_that_cannot_be_a_reference(finished, which, words):
    with pytest.raises(SettingsError) as error:
        reference_values(finished.path, which, [OBJECTIVE])
    for word in words:
        assert word in str(error.value)


def test_columns_that_cannot_be_a_reference(finished):
    with pytest.raises(SettingsError, match=rf"no column val\.x\. It has: .*{OBJECTIVE}"):
        reference_values(finished.path, "", ["val.x"])
    finished.trial(6, [0.0])
    with pytest.raises(SettingsError, match="above 0"):
        reference_values(finished.path, "6", [OBJECTIVE])
    finished.trial(7, [None])
    with pytest.raises(SettingsError, match="nan"):
        reference_values(finished.path, "7", [OBJECTIVE])


def test_without_a_documented_point_a_trial_must_be_named(sweep, tmp_path):
    sweep.trial(0, [0.5])
    with pytest.raises(SettingsError, match="no documented point"):
        reference_values(sweep.path, "", [OBJECTIVE])
    with pytest.raises(SweepError, match="not a sweep directory"):
        reference_values(tmp_path / "none", "", [OBJECTIVE])
