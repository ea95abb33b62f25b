"""Examinations: measures of a model that are no sums over validation batches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from search.guard import check_objective
from settings.flat import replace
from settings.schema import SettingsError
from settings.stop_reasons import STOP_REASON
from trainables.api import Column, Examination
from trainables.checkpoints import checkpoint
from trainables.configured import Configured
from trainables.loop import Training, fit
from trainables.reporting.examine import SECONDS
from trainables.reporting.measure import evaluate_checkpoint
from trainables.reporting.references import measure_by_unit, measure_references
from trainables.run import LocalRun
from trainables.toy import Line

TOY = Path(__file__).with_name("examination_toy.py")
MODULE = runpy.run_path(str(TOY))
EXAMINED = MODULE["Examined"]
COLUMNS = ("val.drawn_rmse", "val.drawn_bias", "val.slope_error")
PLAIN = {"train.tensorboard": False, "train.figures": False}


def drawn_at(case):
    seed = int(hashlib.sha256(f"drawn/{case}".encode()).hexdigest()[:14], 16)
    return 0.5 * torch.randn(1, generator=torch.Generator().manual_seed(seed)).item()


POINTS = np.array([drawn_at(case) for case in range(11)])


def tree(**changes):
    named = {key.replace("__", "."): value for key, value in changes.items()}
    short = {"train.steps": 12, "train.report_every": 2, **PLAIN}
    return replace(EXAMINED.Settings(), {**short, **named})


def trained(directory, settings, system=None, **options):
    run = LocalRun(directory, **options)
    fit(system or EXAMINED(), settings, run, None)
    return run.history


def examined_at(history):
    """The steps of the reports that examined."""
    for report in history:
        assert report.keys() >= {*COLUMNS, SECONDS}
        assert len({report[column] is None for column in COLUMNS}) == 1
        assert (report[SECONDS] == 0.0) == (report[COLUMNS[0]] is None)
    return [report["step"] for report in history if report[COLUMNS[0]] is not None]


def newest(directory):
    return checkpoint.available(directory / "checkpoints")[-1]


# What is measured


def test_a_column_is_what_its_cases_add_up_to(tmp_path, one_thread):
    """Against the line, written anew: seeds by case, sums over all of them."""
    report = trained(tmp_path, tree())[-1]
    stored = checkpoint.load(newest(tmp_path), EXAMINED.name).tensors
    weight, offset = (float(stored[f"module.model.linear.{key}"]) for key in ("weight", "bias"))
    errors = weight * POINTS + offset - (2.0 * POINTS + 3.0)
    assert report["val.drawn_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
    assert report["val.drawn_bias"] == pytest.approx(np.mean(errors), rel=1e-4, abs=1e-6)
    assert report["val.slope_error"] == pytest.approx(abs(weight - 2.0), rel=1e-5)


def test_a_checkpoint_evaluates_to_what_was_reported(tmp_path, one_thread):
    settings = tree(train__ema_decay=0.5)
    report = trained(tmp_path, settings)[-1]
    measured = evaluate_checkpoint(EXAMINED(), settings, None, newest(tmp_path))
    assert measured == {key: report[key] for key in report if key.startswith("val.")}


def test_an_examination_disturbs_nothing(tmp_path, one_thread, monkeypatch):
    """The training is that of a system without one, and the generators go on as before."""
    settings = tree(model__dropout=0.3)
    with_them = trained(tmp_path / "with", settings)[-1]
    without = type("Without", (EXAMINED,), {"examinations": lambda *a: ()})
    plain = trained(tmp_path / "without", settings, without())[-1]
    timed = {"seconds", SECONDS, *COLUMNS}
    assert {k: v for k, v in with_them.items() if k not in timed} == (
        {k: v for k, v in plain.items() if k not in timed}
    )
    assert not (plain.keys() & {SECONDS, *COLUMNS})
    training = Training(EXAMINED(), settings, LocalRun(tmp_path / "drawn"), None)
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        numbers, python = np.random.get_state()[1].copy(), random.getstate()
        state = torch.get_rng_state().clone()
        found = training.examiner.look(2, 12, training.validated)
        if seed == 1:
            before = {key: found[key] for key in COLUMNS}
        assert {key: found[key] for key in COLUMNS} == before
        assert torch.equal(torch.get_rng_state(), state)
        assert (np.random.get_state()[1] == numbers).all() and random.getstate() == python
    assert training.modules["model"].training


def inverted(exam):
    """An inversion: a backward through a frozen model, and one that reaches its parameters."""
    x = exam.batch(exam.cases)["x"].clone().requires_grad_()
    model = exam.modules["model"]
    with torch.enable_grad():
        model(x).square().sum().backward()
        model.requires_grad_(False)
        model(x).square().sum().backward()
    return {"slope_error": (x.grad.double().sum(), torch.tensor(1.0))}


def test_a_backward_of_an_examination_is_no_part_of_a_step(tmp_path, one_thread):
    column = (Column("slope_error", "", "min", "a gradient"),)
    own = (Examination("inverted", 1, column, inverted, lambda exam: inverted(exam) and {}),)
    norms = []
    for name, examinations in {"with": own, "without": ()}.items():
        system = type(name, (EXAMINED,), {"examinations": lambda *a, own=examinations: own})()
        settings = tree(train__figures=True)
        history = trained(tmp_path / name, settings, system)
        norms.append([report["train.grad_norm"] for report in history])
    assert norms[0] == norms[1]


def test_shares_that_are_not_of_the_columns_are_refused(tmp_path):
    half = dataclasses.replace(MODULE["DRAWN"], run=lambda exam: {"drawn_rmse": None})
    system = type("Half", (EXAMINED,), {"examinations": lambda *a: (half,)})
    with pytest.raises(ValueError, match="declares the columns drawn_rmse, drawn_bias and"):
        trained(tmp_path, tree(), system())


# When it is measured


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [2, 4, 6, 8, 10, 12]), (4, [8, 12]), (0, [12]), (9, [12])]
)
def test_it_runs_every_so_many_reports_and_at_the_end(tmp_path, every, steps):
    assert examined_at(trained(tmp_path, tree(train__examine_every=every))) == steps


def test_it_runs_at_the_rungs_that_it_decides(tmp_path):
    settings = tree(train__examine_every=0)
    rungs = {"rungs": (4, 10)}
    assert examined_at(trained(tmp_path / "a", settings, **rungs)) == [12]
    for name, decides in {
        "b": {"columns": ("val.mse", "val.drawn_bias")},
        "c": {"objective": ("val.slope_error", "min")},
    }.items():
        history = trained(tmp_path / name, settings, **rungs, **decides)
        assert examined_at(history) == [4, 10, 12]


def test_a_combination_of_it_is_measured_with_it(tmp_path):
    from metrics.combined import Combined

    made = Combined.parse("log_ratio(val.drawn_rmse=1.0)")
    options = {"rungs": (4,), "derived": (made,), "columns": (made.column,)}
    history = trained(tmp_path, tree(train__examine_every=0), **options)
    assert examined_at(history) == [4, 12]
    assert [r["step"] for r in history if r[made.column] is not None] == [4, 12]


def test_patience_counts_what_was_measured(tmp_path):
    """Two examinations without an improvement, not two reports; the best step is one of them."""
    settings = tree(train__steps=40, train__examine_every=3, train__patience=2, optimizer__lr=1e-9)
    history = trained(tmp_path, settings, objective=("val.slope_error", "max"))
    assert [report["step"] for report in history][-1] == 18
    assert "2 validations ago" in history[-1][STOP_REASON]
    assert examined_at(history) == [6, 12, 18]


def test_a_training_that_ends_by_itself_is_examined(tmp_path):
    settings = tree(train__examine_every=0, train__patience=2, optimizer__lr=1e-9)
    history = trained(tmp_path, settings, objective=("val.mse", "max"))
    assert STOP_REASON in history[-1] and history[-1]["step"] < 12
    assert examined_at(history) == [history[-1]["step"]]


def test_a_resume_between_two_examinations_is_exact(tmp_path, one_thread):
    settings = tree(train__examine_every=3, train__ema_decay=0.5, model__dropout=0.2)
    whole = trained(tmp_path / "whole", settings)
    interrupted(tmp_path / "part", settings, after=8)
    rest = trained(tmp_path / "part", settings, resume=True)
    assert [report["step"] for report in rest] == [10, 12]
    timed = {"seconds", SECONDS}
    for here, there in zip(rest, whole[-2:], strict=True):
        assert {k: v for k, v in here.items() if k not in timed} == (
            {k: v for k, v in there.items() if k not in timed}
        )


def interrupted(directory, settings, after):
    def stop(report):
        if report["step"] == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(EXAMINED(), settings, LocalRun(directory, on_report=stop), None)


# How it is declared


def test_the_guard_and_the_document_know_its_columns():
    configured = Configured(EXAMINED(), tree())
    terms = configured.composite.terms
    assert check_objective(["val.drawn_rmse"], configured.measures, terms, []) == (
        {"val.drawn_rmse": "min"}
    )
    with pytest.raises(SettingsError, match=r"val\.drawn_rmse reads sample\.\*"):
        check_objective(["val.drawn_rmse"], configured.measures, terms, ["sample.spread"])
    with pytest.raises(SettingsError, match=r"val\.drawn_bias is a diagnostic"):
        check_objective(["val.drawn_bias"], configured.measures, terms, [])


@pytest.mark.parametrize(
    ("examination", "message"),
    [
        ({"columns": (Column("mse", "", "min", "help"),)}, "val.mse, which is a metric"),
        ({"columns": (Column("loss.l1", "", "min", "h"),)}, "which is the column of a term"),
        ({"columns": (Column("slope_error", "", "min", "h"),)}, "which is a column of slope"),
        ({"cases": 0}, "has 0 cases"),
        ({"name": "slope"}, "there are 2 of that name"),
    ],
)
def test_what_clashes_is_refused(tmp_path, examination, message):
    other = dataclasses.replace(MODULE["DRAWN"], **examination)
    both = (MODULE["SLOPE"], other)
    system = type("Clash", (EXAMINED,), {"examinations": lambda *a: both})()
    with pytest.raises(SettingsError, match=message):
        _ = Configured(system, tree()).measures
    with pytest.raises(SettingsError, match=message):
        trained(tmp_path, tree(), system)


def test_references_are_examined(tmp_path, one_thread):
    system, settings = EXAMINED(), tree()
    found = measure_references(system, settings, None)
    expected = np.sqrt(np.mean((2.0 * POINTS) ** 2))
    assert found["constant"]["val.drawn_rmse"] == pytest.approx(expected)
    assert found["constant"]["val.slope_error"] is None
    assert found["untrained"]["val.slope_error"] > 0.0
    report = trained(tmp_path, settings)[-1]
    own = measure_by_unit(system, settings, None, newest(tmp_path))
    assert {key: own[key] for key in COLUMNS} == {key: report[key] for key in COLUMNS}
    assert not own["units"].keys() & set(COLUMNS)


def seen(exam):
    x = exam.batch(exam.cases)["x"].double()
    return {"seen": (x.sum(), torch.tensor(float(len(x))))}


class Sampled(EXAMINED):
    """The toy with a test split of its own, and the mean of the samples of 40 cases."""

    def loaders(self, settings, prepared):
        return dataclasses.replace(
            super().loaders(settings, prepared), test=Line(settings.data, 9, 5)
        )

    def examinations(self, settings, prepared):
        return (Examination("seen", 40, (Column("seen", "", "min", "mean of x"),), seen),)


def test_a_case_is_a_sample_of_the_split_in_turn(tmp_path):
    """37 validation samples and 5 of the test, which `train.test` and `evaluate --test` take."""
    report = trained(tmp_path, tree(train__test=True), Sampled())[-1]
    x = Line(EXAMINED.Settings().data, 2, 37).x.flatten().tolist()
    assert report["val.seen"] == pytest.approx(np.mean([*x, *x[:3]]))
    tested = json.loads((tmp_path / "test.json").read_text())
    mean = Line(EXAMINED.Settings().data, 9, 5).x.mean().item()
    assert tested["test_best.seen"] == tested["test_latest.seen"] == pytest.approx(mean)
    measured = evaluate_checkpoint(Sampled(), tree(), None, newest(tmp_path), "test")
    assert measured["val.seen"] == pytest.approx(mean)


# Several processes


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"train.precision": "bf16", "train.accumulate": 2}])
def test_ranks_share_the_cases(tmp_path, ranks, more):
    """One case for two ranks, and eleven: as one rank that has them all."""
    changes = {**more, "train.examine_every": 2, "train.report_every": 2}
    system = f"{TOY}:Examined"
    (alone,), _ = ranks.trained(tmp_path / "1", 1, system, {**changes, "train.batch_size": 8})
    two, _ = ranks.trained(tmp_path / "2", 2, system, {**changes, "train.batch_size": 4})
    rel = 1e-2 if more else 1e-6
    for column in COLUMNS:
        assert two[0][column] == two[1][column]
        assert two[0][column] == pytest.approx(alone[column], rel=rel, abs=rel)
    drawn = [sorted((tmp_path / n / "figures").glob("drawn.points/*.png")) for n in "12"]
    assert [path.name for path in drawn[0]] == [path.name for path in drawn[1]] != []
