"""What a training prints of its last report: what matters, and where the rest is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_jobs import train
from ray_jobs.training.run import objective_of, print_report
from settings.flat import replace
from settings.systems import SYSTEMS
from trainables.configured import Configured
from trainables.system import load_system

TOY = "trainables.toy:Toy"
REPORTS = Path("/runs/first")


def printed(capsys, system, settings, report):
    """The columns with what stands behind each, and the lines below them."""
    print_report(report, system, settings, REPORTS)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(None, 1) for line in lines if line.startswith("  ")]
    return dict(rows), [line for line in lines if not line.startswith("  ")]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_prints_its_objective_first_and_a_screen_at_most(capsys, name):
    system = load_system(name)
    settings = system.Settings()
    measures = Configured(system, settings).measures
    report = {f"val.{each.name}": 0.5 for each in reversed(measures)}
    rows, below = printed(capsys, system, settings, report)
    assert next(iter(rows)) == objective_of(system, settings)[0]
    assert len(rows) <= 30 and "val.loss" not in rows
    left = len(measures) - len(rows)
    whole = sum(not each.detail for each in measures)
    assert len(rows) == whole
    said = f"{left} further column{'' if left == 1 else 's'}: the last line of {REPORTS}/reports"
    assert below[0].startswith(said) if left else below[0].startswith("beside what needs no")


def test_parts_and_columns_without_a_value_are_counted_and_warnings_stand_below(capsys):
    system = load_system("diffusion")
    several = {"data.group": "multi_modality", "condition.mode.enabled": True}
    settings = replace(system.Settings(), several)
    report = {
        "step": 4,
        "train.loss.mse": 3.0,
        "val.denoising_mse_log_snr_m6": 2.0,
        "val.tumour_tiny_mse_t3": None,
        "val.psnr_db": 25.0,
        "val.psnr_db_flair": 26.0,
        "val.tumour_l1": None,
        "val.loss.mse": 1.5,
        "val.loss.sda": None,
        "val.denoising_mse": 0.25,
        "health.term_share": 0.75,
        "health.term_share.warned": 1.0,
        "health.spread_low": 0.5,
        "health.spread_low.warned": 0.0,
    }
    rows, below = printed(capsys, system, settings, report)
    assert list(rows.items()) == [
        ("val.denoising_mse", "0.25"),
        ("val.psnr_db", "25"),
        ("val.loss.mse", "1.5"),
        ("health.term_share", "0.75  (has warned)"),
    ]
    assert below == [
        f"5 further columns, 3 of them without a value: the last line of {REPORTS}/reports.jsonl",
        f"beside what needs no training: python -m ray_jobs.evaluate {REPORTS}",
    ]


def test_an_objective_without_a_value_is_a_line_all_the_same(capsys):
    system = load_system(TOY)
    rows, _ = printed(capsys, system, system.Settings(), {"val.mse": None, "val.noisy": 1.0})
    assert rows == {"val.mse": "-", "val.noisy": "1"}


def test_the_rest_is_where_a_training_says(tmp_path, capsys):
    given = [TOY, "train.steps=2", "train.report_every=2", "--no-ray", "--dir", str(tmp_path)]
    assert train.main(given) == 0
    said = capsys.readouterr().out
    assert f"beside what needs no training: python -m ray_jobs.evaluate {tmp_path}\n" in said
    report = json.loads((tmp_path / "reports.jsonl").read_text().splitlines()[-1])
    for key in ("val.mse", "val.loss.squared"):
        assert f"{report[key]:.6g}\n" in said
