"""Combined columns in a training of every system: in every report before anybody reads it."""

from __future__ import annotations

import pytest

from metrics.combined import Combined
from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.run import LocalRun

pytestmark = pytest.mark.slow


def train(case, directory, settings, **run):
    phase = case.system.phases(case.settings, None)[0]
    columns = [f"val.{phase.composite.prefix}.{name}" for name in phase.composite.terms]
    worst = Combined("worst_ratio", dict.fromkeys(columns, 1.0))
    found = LocalRun(directory, objective=(worst.column, "min"), derived=(worst,), **run)
    fit(case.system, settings, found, case.prepared)
    return found.history, columns


def test_reports_patience_and_the_best_checkpoint_have_them(case, tmp_path):
    settings = replace(case.settings, {"train.report_every": 1, "train.patience": 4})
    history, columns = train(case, tmp_path, settings)
    values = [max(report[column] for column in columns) for report in history]
    assert [report["val.worst_ratio"] for report in history] == values
    saved = checkpoint.available(tmp_path / "checkpoints")[-1]
    meta = checkpoint.load(saved, case.system.name).meta
    assert meta["report"]["val.worst_ratio"] == values[-1]
    assert list(meta["best"]) == [1 + values.index(min(values)), min(values)]
    assert meta["watch"]["best"] == min(values)


def test_a_resumed_training_has_them_too(case, tmp_path):
    whole, _ = train(case, tmp_path / "whole", case.settings)
    train(case, tmp_path / "part", case.settings, stop_step=2)
    rest, _ = train(case, tmp_path / "part", case.settings, resume=True)
    assert rest[-1]["val.worst_ratio"] == whole[-1]["val.worst_ratio"]
