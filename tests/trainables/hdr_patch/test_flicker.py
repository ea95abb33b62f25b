"""The examination `flicker` in trainings, beside references, and where there is nothing to see."""

from __future__ import annotations

import dataclasses

import pytest

from data.hdr.scenes import write_sequence
from models.hdr.head import HeadSettings
from settings.flat import replace
from trainables.hdr_patch import flicker
from trainables.hdr_patch.system import HdrPatch
from trainables.loop import fit
from trainables.reporting.references import measure_references
from trainables.run import LocalRun

SYSTEM = HdrPatch()
SMALL = {
    **SYSTEM.small,
    "data.frames": 30,
    "hdr.prefill": "push_pull",
    "train.steps": 4,
    "train.report_every": 2,
    "train.tensorboard": False,
    "train.figures": False,
}


def tree(**changes):
    return replace(SYSTEM.Settings(), {**SMALL, **changes})


@pytest.mark.slow
def test_every_report_has_it_and_a_first_guess_has_one_of_its_own(tmp_path):
    settings = tree()
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    assert not SYSTEM.loaders(settings, prepared).warnings
    run = LocalRun(tmp_path / "run")
    fit(SYSTEM, settings, run, prepared)
    assert [report["val.flicker"] > 0.0 for report in run.history] == [True, True]
    found = measure_references(SYSTEM, settings, prepared)
    values = {name: columns["val.flicker"] for name, columns in found.items()}
    assert all(value > 0.0 for value in values.values())
    assert values["prefill_zero"] > 2.0 * values["prefill_push_pull"], "what was seen turns black"
    assert values["prefill_nearest"] != values["prefill_push_pull"]
    # An untrained network returns its first guess, nearly.
    assert values["untrained"] == pytest.approx(values["prefill_push_pull"], rel=0.2)


def test_what_is_looked_at_is_bounded():
    """Four pairs of windows of two crops a side: as much as the validation of 32 crops."""
    assert flicker.PAIRS * 2 * flicker.SIDE_IN_CROPS**2 == 32
    (examination,) = SYSTEM.examinations(tree(), None)
    assert examination.cases == flicker.PAIRS


def test_without_motion_the_column_is_empty_and_a_note_says_why(tmp_path):
    write_sequence(tmp_path / "frames", 12, 64, 96, 1)
    for path in (tmp_path / "frames" / "motion").iterdir():
        path.unlink()
    (tmp_path / "frames" / "motion").rmdir()
    folder = {"data.source": "folder", "data.root": str(tmp_path / "frames")}
    settings = tree(**folder, **{"model.use_motion": False})
    prepared = SYSTEM.prepare(settings, tmp_path / "cache")
    (warning,) = SYSTEM.loaders(settings, prepared).warnings
    assert "val.flicker stays empty" in warning and "motion/motion-<id>" in warning
    run = LocalRun(tmp_path / "run")
    fit(SYSTEM, settings, run, prepared)
    assert [report["val.flicker"] for report in run.history] == [None, None]


def test_no_setting_of_the_head_is_read():
    """A searched cap could not be judged by a column that reads it."""
    (column,) = SYSTEM.examinations(tree(), None)[0].columns
    heads = {f"hdr.{field.name}" for field in dataclasses.fields(HeadSettings)}
    assert not heads.intersection(column.reads)
