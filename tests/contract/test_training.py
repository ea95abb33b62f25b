"""What the loop does with every system: it learns, resumes exactly, and keeps its columns."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset, Subset

from metrics.health import SIGNS
from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.loop import fit
from trainables.reporting.measure import evaluate_checkpoint
from trainables.reporting.watch import watched
from trainables.run import LocalRun
from trainables.system import Loaders


class Repeated(Dataset):
    """The first samples of a set, each always drawn with the same seed."""

    def __init__(self, data, size):
        self.data, self.size = data, size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        return self.data[(key[0], 0)]


class OneBatch:
    """A system whose every step is on one batch; little is validated."""

    def __init__(self, system):
        self._system = system

    def __getattr__(self, name):
        return getattr(self._system, name)

    def loaders(self, settings, prepared):
        loaders = self._system.loaders(settings, prepared)
        train = Repeated(loaders.train, settings.train.batch_size)
        return Loaders(train, Subset(loaders.validation, [0, 1]), loaders.collate)


def train(case, directory, settings=None, *, system=None, resume=False, stop=None):
    run = LocalRun(directory, resume=resume, stop_step=stop)
    settings = case.settings if settings is None else settings
    fit(system or case.system, settings, run, case.prepared)
    return run.history


def newest(directory):
    return checkpoint.available(directory / "checkpoints")[-1]


def tensors(case, directory):
    return checkpoint.load(newest(directory), case.system.name).tensors


def without_time(report):
    return {column: value for column, value in report.items() if column != "seconds"}


def test_one_batch_is_learnt(case, tmp_path):
    """Ten steps on one batch bring the first phase's total down."""
    ten = {"train.steps": 10, "train.report_every": 1, "optimizer.schedule": "constant"}
    settings = replace(case.settings, {**ten, "optimizer.warmup": 0.0})
    history = train(case, tmp_path, settings, system=OneBatch(case.system))
    totals = [report["train.loss.total"] for report in history]
    assert len(totals) == 10
    assert min(totals[-3:]) < totals[0]
    assert sum(totals[-3:]) < sum(totals[:3])


@pytest.mark.parametrize("changes", [{}, {"train.ema_decay": 0.5, "train.accumulate": 2}], ids=str)
def test_a_resumed_training_equals_an_uninterrupted_one(case, tmp_path, changes):
    settings = replace(case.settings, changes)
    whole = train(case, tmp_path / "whole", settings)
    train(case, tmp_path / "part", settings, stop=2)
    rest = train(case, tmp_path / "part", settings, resume=True)
    expected, found = (tensors(case, tmp_path / name) for name in ("whole", "part"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert without_time(rest[-1]) == without_time(whole[-1])
    measured = evaluate_checkpoint(case.system, settings, case.prepared, newest(tmp_path / "part"))
    assert measured == {k: v for k, v in rest[-1].items() if k.startswith("val.")}


def expected_columns(case):
    """The columns of every report, by the declarations alone."""
    columns = {"step", "seconds"}
    for phase in case.system.phases(case.settings, None):
        prefix = phase.composite.prefix
        own = "train" if phase.optimizer == "optimizer" else f"train.{phase.name}"
        columns |= {
            f"{own}.{name}" for name in ("grad_norm", "grad_norm_mean", "lr", "skipped_steps")
        }
        columns |= {f"train.{prefix}.total", f"train.{prefix}.validation_total"}
        for name in phase.composite.terms:
            train_column = f"train.{prefix}.{name}"
            columns |= {f"val.{prefix}.{name}", train_column}
            columns |= {f"{train_column}.weight", f"{train_column}.share"}
        if hasattr(case.settings, "health"):
            signs = {f"health.{watched(phase).named(sign)}" for sign in SIGNS}
            signs |= {f"health.{sign.name}" for sign in case.settings.health.measured}
            columns |= signs | {f"{sign}.warned" for sign in signs}
    columns |= {f"val.{metric.name}" for metric in case.system.metrics(case.settings, None)}
    return columns


@pytest.mark.parametrize("on", [True, False], ids=["all terms", "one term"])
def test_no_column_ever_disappears(case, tmp_path, on):
    """With every term on, and with the first one only; a term that is off is still validated."""
    switches = dict(case.audit)
    for phase in case.system.phases(case.settings, None):
        for position, name in enumerate(phase.composite.terms):
            switches[f"{phase.composite.prefix}.{name}.enabled"] = on or position == 0
    settings = replace(case.settings, {**switches, "train.steps": 2, "train.report_every": 1})
    history = train(case, tmp_path, settings)
    assert len(history) == 2
    for report in history:
        assert report.keys() == expected_columns(case)
        for key, enabled in switches.items():
            if key in case.audit:
                continue
            term = key.removesuffix(".enabled")
            assert report[f"val.{term}"] is not None, term
            assert (report[f"train.{term}"] is not None) == enabled, term


def test_the_validation_does_not_depend_on_its_batches(case, tmp_path):
    train(case, tmp_path, stop=2)
    one, two = (
        evaluate_checkpoint(
            case.system,
            replace(case.settings, {"train.validation_batch_size": size}),
            case.prepared,
            newest(tmp_path),
        )
        for size in (1, 5)
    )
    assert one.keys() == two.keys()
    for column, value in one.items():
        other = two[column]
        expected = None if other is None else pytest.approx(other, rel=1e-4, abs=1e-6)
        assert value == expected, column


@pytest.mark.slow
def test_bf16_trains(case, tmp_path):
    settings = replace(case.settings, {"train.precision": "bf16"})
    assert train(case, tmp_path, settings)[-1]["step"] == 4
