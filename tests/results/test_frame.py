from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results import frame as frame_module
from results import reports as reports_module
from results.frame import compact, load_reports, load_sweep
from results.reports import without_superseded

OBJECTIVE = "val.mse"
SNR = "val.snr_db"


def test_a_report_file_that_goes_while_it_is_read(finished, monkeypatch):
    """It was listed, and is gone when it is opened: a trial without reports, not a crash."""
    before = load_reports(finished.path)
    gone = finished.path / "reports" / "0001.jsonl"
    listed = [(0, gone.with_name("0000.jsonl")), (1, gone), (2, gone.with_name("0002.jsonl"))]
    gone.unlink()
    monkeypatch.setattr(reports_module, "report_files", lambda directory: listed)
    found = load_reports(finished.path)
    assert found["trial"].unique().tolist() == [0, 2]
    kept = before[before["trial"].isin([0, 2])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, kept)


def test_columns(finished):
    frame = load_sweep(finished.path)
    configs = [name for name in frame.columns if name.startswith("config/")]
    assert configs == [
        "config/optimizer.lr",
        "config/optimizer.kind",
        "config/loss.balancer.kind",
        "config/loss.balancer.alpha",
        "config/loss.absolute.enabled",
    ]
    assert list(frame.columns[:6]) == ["trial", "state", "stop_reason", "point", "seed", "value"]
    assert list(frame.columns[-14:]) == [
        *("best_step", "steps", "seconds", "gpu_seconds"),
        *("health/sign", "health/value", "health/threshold", "health/step"),
        *("feasible", "violation", "is_best", "is_pareto", "is_knee", "checkpoint"),
    ]
    for metric in (OBJECTIVE, SNR, "val.diagnostic"):
        assert {f"last/{metric}", f"best/{metric}"} <= set(frame.columns)
    assert "last/train.loss.squared.share" in frame
    assert "best/train.loss.squared.share" not in frame  # it has no better direction
    assert frame["trial"].tolist() == list(range(6))
    assert frame["seed"].tolist() == list(range(100, 106))


def test_value_is_the_last_report_and_best_is_by_the_metrics_own_mode(finished):
    frame = load_sweep(finished.path).set_index("trial")
    assert frame.loc[2, "value"] == frame.loc[2, f"last/{OBJECTIVE}"] == 0.4
    assert frame.loc[2, f"best/{OBJECTIVE}"] == 0.2
    assert frame.loc[2, "best_step"] == 10
    assert frame.loc[2, f"best/{SNR}"] == 30 - 0.2
    assert frame["best/val.diagnostic"].isna().all()
    assert (frame.loc[:4, "last/val.diagnostic"] == 6.0).all()


def test_is_best_among_complete_ones_and_ties_go_to_the_lower_number(finished):
    frame = load_sweep(finished.path)
    assert frame.loc[frame["is_best"], "trial"].tolist() == [2]  # 3 is equal, 4 was stopped at 0.1
    assert frame["is_pareto"].tolist() == frame["is_best"].tolist()


def test_max_mode(finished):
    finished.write_document(objective={"metric": SNR, "mode": "max"})
    frame = load_sweep(finished.path)
    assert frame.loc[frame["is_best"], "trial"].tolist() == [2]
    assert frame.loc[2, "best_step"] == 10


def test_several_objectives_make_a_front(finished):
    other = {"metric": "val.diagnostic", "mode": "min"}
    finished.write_document(objectives=[{"metric": OBJECTIVE, "mode": "min"}, other])
    finished.hand_out(6)
    finished.report(6, 10, 0.95, **{"val.diagnostic": 1.0})
    finished.end(6, step=10)
    frame = load_sweep(finished.path)
    # 2 and 3 are equal in both and nothing dominates them; 6 has the lowest diagnostic.
    assert frame.loc[frame["is_pareto"], "trial"].tolist() == [2, 3, 6]
    assert frame.loc[frame["is_best"], "trial"].tolist() == [2]


def test_config_says_what_a_trial_ran_with(finished):
    frame = load_sweep(finished.path).set_index("trial")
    assert frame["config/optimizer.lr"].tolist()[:3] == [5e-5, 1.0, 1e-4 * 3]
    assert frame["config/loss.absolute.enabled"].tolist() == [False, True, True, True, True, True]
    assert frame["config/loss.absolute.enabled"].dtype == bool
    # Searched but not drawn: missing. In a documented point: what the sweep's base says.
    assert frame.loc[3, "config/loss.balancer.alpha"] == 8.0
    assert np.isnan(frame.loc[2, "config/loss.balancer.alpha"])
    assert frame.loc[0, "config/loss.balancer.alpha"] == 6.0
    full = load_sweep(finished.path, all_settings=True)
    assert (full["config/data.samples"] == 24).all()


def test_states_reasons_time(finished):
    frame = load_sweep(finished.path).set_index("trial")
    assert frame["state"].tolist() == ["complete"] * 4 + ["stopped", "failed"]
    assert frame["point"].tolist() == ["document", "before", "", "", "", ""]
    assert frame["seconds"].tolist() == [2.0] * 6
    assert frame["gpu_seconds"].tolist() == [2.0] * 6  # half a GPU for each of two workers
    assert frame["steps"].tolist() == [20, 20, 20, 20, 10, 0]


@pytest.mark.parametrize(("workers", "gpus"), [(3, 2.0), (1, 0.25), (4, 0.0)])
def test_gpu_seconds_are_those_of_every_gpu_of_every_worker(finished, workers, gpus):
    resources = {"workers": workers, "cpus": 1.0, "gpus": gpus, "max_concurrent": 2}
    finished.write_document(resources=resources)
    frame = load_sweep(finished.path)
    assert frame["seconds"].tolist() == [2.0] * 6
    assert frame["gpu_seconds"].tolist() == [2.0 * workers * gpus] * 6


def test_a_trial_without_reports_has_its_row(sweep):
    sweep.hand_out(0)
    frame = load_sweep(sweep.path)
    assert frame.loc[0, "state"] == "interrupted"
    assert np.isnan(frame.loc[0, "value"])
    assert frame.loc[0, "steps"] == 0
    assert not frame.loc[0, "is_best"]
    reports = load_reports(sweep.path)
    assert reports.empty and list(reports.columns) == ["trial", "step", "segment", "seconds"]


def test_a_sweep_without_trials(sweep):
    frame = load_sweep(sweep.path)
    assert frame.empty and f"last/{OBJECTIVE}" in frame
    compact(sweep.path)
    pd.testing.assert_frame_equal(load_sweep(sweep.path), frame, check_dtype=False)


def test_torn_lines_of_reports_and_log_are_left_out(finished):
    before = load_sweep(finished.path)
    finished.append_report(2, '{"step": 30, "val.m')
    finished.append_log('{"time": 1, "event": "hand')
    pd.testing.assert_frame_equal(load_sweep(finished.path), before)


def test_a_damaged_report_is_named_and_the_rest_is_read(finished, capsys):
    finished.append_report(2, "rubbish\n")
    finished.report(2, 30, 0.3)
    capsys.readouterr()
    reports = load_reports(finished.path)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: ") and "0002.jsonl, line 3 is no report" in said
    assert reports.loc[reports["trial"] == 2, "step"].tolist() == [10, 20, 30]


def test_a_resumed_trial_keeps_the_last_row_of_each_step(sweep):
    sweep.hand_out(0)
    for step, value in ((10, 0.9), (20, 0.8), (30, 0.7), (40, 0.1)):
        sweep.report(0, step, value)
    sweep.end(0, state="interrupted", step=40, seconds=4.0)
    sweep.hand_out(0, 1, start_step=20)
    sweep.report(0, 30, 0.6, segment=1)
    # 40 is not reached again yet: the row of the lost run is not this trial's history.
    reports = load_reports(sweep.path)
    assert reports["step"].tolist() == [10, 20, 30]
    assert reports["segment"].tolist() == [0, 0, 1]
    assert reports[OBJECTIVE].tolist() == [0.9, 0.8, 0.6]
    frame = load_sweep(sweep.path)
    assert frame.loc[0, "value"] == 0.6
    assert frame.loc[0, "seconds"] == 4.0  # at least what its ended segments took
    sweep.report(0, 40, 0.5, segment=1)
    sweep.end(0, 1, step=40, seconds=4.0)
    assert load_reports(sweep.path)[OBJECTIVE].tolist() == [0.9, 0.8, 0.6, 0.5]
    assert load_sweep(sweep.path).loc[0, "seconds"] == 8.0


def superseded_by_hand(rows):
    kept: list[tuple[int, int, int]] = []
    for trial, step, index in rows:
        while kept and kept[-1][0] == trial and kept[-1][1] >= step:
            kept.pop()
        kept.append((trial, step, index))
    return [index for _, _, index in kept]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=30))
def test_superseded_rows_against_a_stack(pairs):
    rows = [(trial, step, i) for i, (trial, step) in enumerate(sorted(pairs, key=lambda p: p[0]))]
    frame = pd.DataFrame(rows, columns=["trial", "step", "index"]).astype("int64")
    assert without_superseded(frame)["index"].tolist() == superseded_by_hand(rows)


@given(
    st.lists(
        st.lists(
            st.dictionaries(
                st.sampled_from(["val.a", "val.b", "train.loss.absolute"]),
                st.none() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False),
            ),
            max_size=4,
        ),
        max_size=4,
    )
)
def test_reports_equal_a_reader_of_plain_json(tmp_path_factory, trials):
    """Ints beside floats, nulls, columns that appear late: as an independent reader sees them."""
    from results.reports import read_raw

    root = tmp_path_factory.mktemp("sweep")
    (root / "reports").mkdir()
    rows = []
    for trial, reports in enumerate(trials):
        lines = [{"step": i, "segment": 0, "seconds": i, **row} for i, row in enumerate(reports)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / "reports" / f"{trial:04d}.jsonl").write_text(text)
        rows += [{"trial": trial, **line} for line in lines]
    frame = read_raw(root)
    assert len(frame) == len(rows)
    for name in {name for row in rows for name in row}:
        expected = [np.nan if row.get(name) is None else float(row[name]) for row in rows]
        np.testing.assert_array_equal(frame[name].to_numpy(dtype=float), expected)


def raw_frames(directory: Path, copy: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames read from a copy without Parquet."""
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("analysis"))
    return load_sweep(copy), load_reports(copy)


def test_parquet_equals_raw(finished, tmp_path, monkeypatch):
    points = [*finished.document["points"], {"name": "t", "settings": {"data.sizes": [4, 8]}}]
    settings = {**finished.document["settings"], "data.sizes": [1, 2]}
    finished.write_document(points=points, settings=settings)
    finished.trial(6, [0.9, None], point="t", sampled={"data.sizes": [4, 8]})
    (finished.path / "trials/0002/checkpoints/step-00000020").mkdir(parents=True)
    (finished.path / "trials/0002/checkpoints/step-00000010").mkdir()
    (finished.path / "trials/0002/checkpoints/step-00000030.tmp").mkdir()
    trials, reports = raw_frames(finished.path, tmp_path / "copy")
    for file in compact(finished.path):
        assert file.is_file()
    monkeypatch.setattr(frame_module, "read_raw", lambda path: pytest.fail("read the raw files"))
    monkeypatch.setattr(frame_module, "trial_frame", lambda *_: pytest.fail("built it again"))
    fast = load_sweep(finished.path)
    pd.testing.assert_frame_equal(
        fast.drop(columns="checkpoint"), trials.drop(columns="checkpoint")
    )
    pd.testing.assert_frame_equal(load_reports(finished.path), reports)
    newest = str(finished.path.resolve() / "trials/0002/checkpoints/step-00000020")
    assert fast["checkpoint"].tolist() == ["", "", newest, "", "", "", ""]
    assert fast.loc[6, "config/data.sizes"] == (4, 8)
    assert fast.loc[0, "config/data.sizes"] == (1, 2)


def test_parquet_is_not_used_once_anything_is_newer(finished):
    compact(finished.path)
    finished.report(2, 30, 0.05)
    assert load_sweep(finished.path).loc[2, "value"] == 0.05
    assert load_reports(finished.path)["step"].max() == 30
    compact(finished.path)
    finished.trial(6, [0.01])
    assert load_sweep(finished.path)["is_best"].tolist() == [False] * 6 + [True]


def test_a_report_that_comes_while_the_parquet_is_written_is_not_lost(finished, monkeypatch):
    write = frame_module.parquet.write

    def report_first(*arguments) -> None:
        write(*arguments)
        finished.report(2, 30, 0.05)
        past = 1_600_000_000
        for file in (finished.path / "reports").iterdir():
            os.utime(file, (past, past))  # older than the Parquet, as if it had come just before

    monkeypatch.setattr(frame_module.parquet, "write", report_first)
    compact(finished.path)
    assert load_reports(finished.path)["step"].max() == 30


def test_parquet_of_a_running_sweep_follows_the_lock(sweep):
    sweep.hand_out(0)
    sweep.hold_lock()
    compact(sweep.path)
    assert load_sweep(sweep.path)["state"].tolist() == ["running"]
    (sweep.path / "lock").unlink()
    assert load_sweep(sweep.path)["state"].tolist() == ["interrupted"]


def test_a_broken_parquet_is_passed_over(finished):
    expected = load_sweep(finished.path)
    for file in compact(finished.path):
        file.write_bytes(b"PAR1 rubbish")
    pd.testing.assert_frame_equal(load_sweep(finished.path), expected)


def test_more_than_ten_thousand_trials_have_longer_names(sweep):
    sweep.trial(12_345, [0.5])
    assert load_reports(sweep.path)["trial"].tolist() == [12_345]
    assert load_sweep(sweep.path)["value"].tolist() == [0.5]
