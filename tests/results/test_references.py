"""What the references measure, in the frame, the leaderboard, the headline and the page. The
expected figures are worked out here from the numbers that the files hold.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from ray_jobs import analyze
from results import load_references, load_sweep
from results.directory import read_history, read_sweep
from results.frame import compact, load_reports
from results.headline import headline
from results.leaderboard import leaderboard_rows, legend_of
from results.page import render
from results.references import compared

UNITS = ["a", "b", "c", "d", "e"]
ZERO = [1.0, 2.0, 3.0, 4.0, 5.0]
MEAN = [0.5, 0.9, 0.4, 0.8, 0.6]
WINNER = [0.2, 0.3, 0.1, 0.25, 0.15]
DOCUMENT = [0.4, 0.35, 0.3, 0.5, 0.2]


def measured(values, about="", **more):
    mean = float(np.mean([value for value in values if value is not None]))
    return {
        "about": about,
        "unit": UNITS[: len(values)],
        "val.mse": mean,
        "val.snr_db": None,
        "units": {"val.mse": list(values), "val.snr_db": [None] * len(values)},
        **more,
    }


def write(directory, name, content):
    (directory.path / name).write_text(json.dumps(content))


@pytest.fixture
def beside(sweep):
    """A finished sweep of two trials whose references are measured."""
    directory = sweep
    directory.trial(0, [0.6, 0.35], point="document", sampled={"loss.absolute.enabled": False})
    directory.trial(1, [0.5, 0.2])
    directory.event("finished")
    write(
        directory, "references.json", {"zero": measured(ZERO, "nothing"), "mean": measured(MEAN)}
    )
    return directory


def by_unit(directory, winner=WINNER, document=DOCUMENT):
    trials = {
        "1": measured(winner, configuration=1, step=20),
        "0": measured(document, configuration=0, step=20),
    }
    write(directory, "by_unit.json", trials)


def said(directory):
    sweep = read_sweep(directory.path)
    return headline(load_sweep(directory.path), sweep, None)


def paired(here, there):
    gains = np.array(there) - np.array(here)
    return f"{gains.mean():+.3g} ± {gains.std(ddof=1) / np.sqrt(len(gains)):.2g} (5 units)"


def test_the_frame_says_by_how_much_a_trial_is_better(beside):
    frame = load_sweep(beside.path)
    assert list(frame["vs_reference/mean"]) == pytest.approx([0.64 - 0.35, 0.64 - 0.2])
    assert list(frame["vs_reference/zero"]) == pytest.approx([3 - 0.35, 3 - 0.2])


def test_of_a_score_more_is_better(beside):
    beside.write_document(objective={"metric": "val.snr_db", "mode": "max"})
    scores = {**measured(ZERO), "val.snr_db": 20.0}
    write(beside, "references.json", {"noise": scores, "silent": measured(ZERO)})
    frame = load_sweep(beside.path)
    assert list(frame["vs_reference/noise"]) == pytest.approx([30 - 0.35 - 20, 30 - 0.2 - 20])
    assert "vs_reference/silent" not in frame


def test_parquet_files_of_before_are_old_once_they_are_measured(beside):
    (beside.path / "references.json").unlink()
    compact(beside.path)
    assert not any(name.startswith("vs_reference") for name in load_sweep(beside.path))
    write(beside, "references.json", {"mean": measured(MEAN)})
    assert "vs_reference/mean" in load_sweep(beside.path)


def test_a_row_for_all_samples_and_one_for_each_unit(beside):
    frame = load_references(beside.path)
    assert list(frame["reference"]) == ["mean"] * 6 + ["zero"] * 6
    assert list(frame["unit"]) == ["", *UNITS] * 2
    assert list(frame["val.mse"]) == pytest.approx([0.64, *MEAN, 3.0, *ZERO])
    assert frame["val.snr_db"].isna().all() and frame["val.snr_db"].dtype == np.float64
    assert set(frame["about"]) == {"", "nothing"}
    assert analyze.load_references is load_references


def test_no_rows_before_they_are_measured(beside):
    (beside.path / "references.json").unlink()
    frame = load_references(beside.path)
    assert frame.empty and "val.mse" in frame
    assert "reference" not in said(beside)


@pytest.mark.parametrize("text", ["{", "null", "[1]", '{"mean": {}}'])
def test_a_damaged_file_is_named_once_and_left_out(beside, capsys, text):
    (beside.path / "references.json").write_text(text)
    assert load_references(beside.path).empty
    assert len(load_sweep(beside.path)) == 2
    told = capsys.readouterr().err
    assert told.count("references.json is damaged") == 1
    assert "Remove it: a resume measures it again" in told


def test_the_leaderboard_has_them_below_the_trials(beside):
    sweep = read_sweep(beside.path)
    headers, rows = leaderboard_rows(load_sweep(beside.path), sweep)
    assert [row[2] for row in rows] == ["", "* document", "= mean", "= zero"]
    mean = dict(zip(headers, rows[2], strict=True))
    assert (mean["state"], mean["val.mse"], mean["vs document"]) == ("reference", "0.64", "+0.29")
    assert legend_of(rows) == "* documented point, = reference, which is not trained"


def test_a_winner_that_beats_them_all_says_by_how_much_over_units(beside):
    by_unit(beside)
    text = said(beside)
    assert text.startswith("Trial 1 is best: val.mse 0.2; better than the documented point")
    assert f"by unit {paired(WINNER, DOCUMENT)}." in text
    assert f"It beats every reference; the best of them, mean, by {paired(WINNER, MEAN)}." in text
    assert text.endswith(
        "Errors are over units of one training each (--repeats adds seeds), on the samples that "
        "chose the winner (--test has others)."
    )


def test_one_that_does_not_says_so_first(beside):
    winner = [value + step for value, step in zip(MEAN, (-0.3, 0.2, -0.2, 0.3, -0.1), strict=True)]
    by_unit(beside, winner)
    text = said(beside)
    assert text.startswith(
        "Trial 1 is not shown to beat every reference by two standard errors: "
        f"mean {paired(winner, MEAN)}; positive is better."
    )
    by_unit(beside, [9.0, 8.0, 9.5, 7.0, 8.5])
    text = said(beside)
    assert text.startswith(f"Trial 1 beats no reference: mean {paired([9, 8, 9.5, 7, 8.5], MEAN)}")


def test_below_four_units_nothing_is_shown_to_be_better(beside):
    """Nor need anything be measured by unit."""
    write(beside, "references.json", {"mean": measured(MEAN[:3]), "low": measured([0.1] * 3)})
    assert said(beside).startswith(
        "Trial 1 is not shown to beat any reference by two standard errors: low -0.1 (no error: "
        "3 units), mean +0.4 (no error: 3 units); positive is better. Trial 1 is best"
    )
    assert "Errors are over" not in said(beside)
    write(beside, "references.json", {"low": measured([0.1] * 3)})
    assert said(beside).startswith("Trial 1 beats no reference: low -0.1 (no error: 3 units);")


def test_before_the_end_there_is_no_error(beside):
    text = said(beside)
    assert text.endswith(
        "Trial 1 is better than the best reference, mean (0.64), by 0.44; there is no error of it "
        "before the sweep is finished and its winner measured by unit."
    )
    by_unit(beside)
    trials = json.loads((beside.path / "by_unit.json").read_text())
    write(beside, "by_unit.json", {**trials, "1": {**trials["1"], "step": 10}})
    assert said(beside) == text
    write(beside, "references.json", {"best": measured([0.1] * 5)})
    assert said(beside).startswith("Trial 1 is worse than the best reference, best (0.1), by 0.1;")


def test_units_pair_by_their_names(beside):
    turned = {**measured(MEAN[::-1]), "unit": UNITS[::-1]}
    write(beside, "references.json", {"mean": turned})
    by_unit(beside)
    assert f"It beats the only reference, mean, by {paired(WINNER, MEAN)}." in said(beside)
    others = {**measured(MEAN), "unit": ["v", "w", "x", "y", "z"]}
    write(beside, "references.json", {"mean": others})
    assert "there is no error of it" in said(beside), "no unit in common: no pairs"


def test_a_gain_that_all_samples_contradict_beats_nothing(beside):
    write(beside, "references.json", {"mean": {**measured(MEAN), "val.mse": 0.05}})
    by_unit(beside)
    expected = f"mean {paired(WINNER, MEAN)}, over all samples -0.15; positive is better."
    assert expected in said(beside)
    assert "is not shown to beat any reference" in said(beside)


def test_a_winner_without_a_value_on_a_unit_beats_nothing(beside):
    by_unit(beside, [0.2, 0.3, None, 0.25, 0.15], DOCUMENT)
    assert said(beside).startswith("Trial 1 beats no reference: mean -inf (no error: 5 units)")


def test_references_without_the_objective_are_counted(beside):
    silent = {**measured(MEAN), "val.mse": None}
    silent["units"] = {"val.mse": [None] * 5}
    write(beside, "references.json", {"mean": measured(MEAN), "silent": silent})
    by_unit(beside)
    assert "It beats the only reference, mean, by" in said(beside)
    assert "(1 more have no such value)." in said(beside)
    write(beside, "references.json", {"silent": silent})
    assert said(beside).endswith("No reference has a value of val.mse.")


def costing(values, rate):
    return measured(values, costs=["val.rate"], **{"val.rate": rate})


def test_a_reference_that_costs_more_is_not_compared(beside):
    """A codec at a higher rate than the winner's is no better for being closer."""
    dear, cheap = costing([0.01] * 5, 0.6), costing(MEAN, 0.4)
    write(beside, "references.json", {"dear": dear, "cheap": cheap})
    trials = {"1": measured(WINNER, configuration=1, step=20, **{"val.rate": 0.5})}
    write(beside, "by_unit.json", trials)
    expected = f"It beats the only reference, cheap, by {paired(WINNER, MEAN)} (1 more cost more"
    assert expected in said(beside)
    trials["1"]["val.rate"] = 0.6
    write(beside, "by_unit.json", trials)
    assert said(beside).startswith(
        f"Trial 1 is not shown to beat every reference by two standard errors: dear "
        f"{paired(WINNER, [0.01] * 5)}; positive is better."
    )
    trials["1"]["val.rate"] = 0.3
    write(beside, "by_unit.json", trials)
    assert "No reference has a value of val.mse and costs no more." in said(beside)
    assert "vs_reference/dear" in load_sweep(beside.path)


def test_what_the_winner_has_spent_is_that_of_its_last_report_before_it_is_measured(sweep):
    sweep.several(0, 0.2, 7.0)
    sweep.event("finished")
    for spent, ahead in ((6.9, True), (7.1, False)):
        costs = measured([0.1] * 3, costs=["val.snr_db"], **{"val.snr_db": spent})
        write(sweep, "references.json", {"codec": costs})
        assert ("beats no reference: codec -0.1" in said(sweep)) == ahead


def test_the_objective_itself_is_no_cost(beside):
    own = measured(MEAN, costs=["val.mse"])
    write(beside, "references.json", {"mean": own})
    by_unit(beside)
    assert f"It beats the only reference, mean, by {paired(WINNER, MEAN)}." in said(beside)


def test_an_objective_of_terms_has_its_references(beside):
    """A term, and what is made of terms: columns that no metric declares."""
    node = {"kind": "log_ratio", "of": {"val.loss.squared": 2.0}}
    objective = {"metric": "val.log_ratio", "mode": "min"}
    beside.write_document(objective=objective, derived=[node])
    columns = {**measured(MEAN), "val.loss.squared": 4.0}
    columns["units"]["val.loss.squared"] = [2.0, 2.0, 4.0, 4.0, 8.0]
    write(beside, "references.json", {"mean": columns})
    frame = load_references(beside.path)
    assert list(frame["val.log_ratio"]) == pytest.approx(np.log([2.0, 1.0, 1.0, 2.0, 2.0, 4.0]))


def test_the_test_split_is_told_with_its_look(beside):
    look = {
        "look": 1,
        "place": 6,
        "trials": {
            "1": measured(MEAN, configuration=1, step=20),
            "0": measured(ZERO, configuration=0, step=20),
        },
        "references": {"zero": measured(ZERO), "mean": measured(MEAN[::-1])},
    }
    write(beside, "test.json", {"looks": [look]})
    text = said(beside)
    assert "On the test split: val.mse 0.64, over the documented point document " in text
    assert f"document {paired(MEAN, ZERO)}, over the best reference mean {0.0:+.3g} ±" in text
    assert text.endswith("it beats 1 of 2 references by two standard errors.")
    write(beside, "test.json", {"looks": [look, {**look, "look": 2, "place": 9}]})
    assert "On the test split, look 2: val.mse 0.64" in said(beside)
    del look["trials"]["1"]
    write(beside, "test.json", {"looks": [look]})
    assert "test split" not in said(beside), "the winner of then is not that of now"


def test_the_page_has_every_metric_of_them(beside):
    sweep, frame = read_sweep(beside.path), load_sweep(beside.path, all_settings=True)
    page = render(sweep, read_history(sweep), frame, load_reports(beside.path))
    part = page[page.index("The winner against what is not trained") :]
    assert "<td>0.2</td><td>0.64</td><td>3</td>" in part
    assert "<li>zero: nothing</li>" in part


@pytest.fixture
def repeated(sweep):
    directory = sweep
    directory.write_document(repeats={"draws": 2, "top": 1})
    directory.trial(0, [0.6, 0.35], point="document", sampled={})
    directory.trial(1, [0.5, 0.2])
    directory.trial(2, [0.5, 0.22], repeat_of=1)
    directory.trial(3, [0.5, 0.24], repeat_of=1)
    directory.trial(4, [0.5], state="failed", repeat_of=1)
    return directory


def test_repeats_are_measured_in_place_of_the_training_that_chose_them(repeated):
    sweep = read_sweep(repeated.path)
    assert compared(load_sweep(repeated.path, repeats=True), sweep) == {
        2: (1, 20),
        3: (1, 20),
        0: (0, 20),
    }


def test_the_error_is_over_units_and_repeats(repeated):
    write(repeated, "references.json", {"mean": measured(MEAN)})
    second = [value + 0.1 for value in WINNER]
    trials = {
        "2": measured(WINNER, configuration=1, step=20),
        "3": measured(second, configuration=1, step=20),
    }
    write(repeated, "by_unit.json", trials)
    table = np.array(MEAN) - np.array([WINNER, second])
    error = np.hypot(
        table.mean(axis=0).std(ddof=1) / np.sqrt(5), table.mean(axis=1).std(ddof=1) / np.sqrt(2)
    )
    expected = f"reference, mean, by {table.mean():+.3g} ± {error:.2g} (5 units)."
    assert expected in said(repeated)
    assert "Errors are over units and repeats" in said(repeated)
    del trials["3"]
    write(repeated, "by_unit.json", trials)
    assert "there is no error of it before" in said(repeated), "one of two is not both"
