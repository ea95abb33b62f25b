"""Faults that are planted in an examination, each named by the rule that it breaks."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest
import torch

from trainables.contract import declarations, examinations, training
from trainables.contract.check import faults_of
from trainables.contract.examined import Examined

SEAMS = Path(__file__).parents[1] / "seams"
MODULE = runpy.run_path(str(SEAMS / "examination_toy.py"))
DRAWN, SLOPE, EXAMINED = MODULE["DRAWN"], MODULE["SLOPE"], MODULE["Examined"]
RULES = (*declarations.RULES, *examinations.RULES)


def planted(tmp_path, *given, **changes):
    system = type("Planted", (EXAMINED,), {"examinations": lambda *a: given})()
    return Examined(system, tmp_path, changes)


def said(examined, *rules):
    return [str(fault) for rule in rules or RULES for fault in faults_of(rule, examined)]


def test_a_sound_one_keeps_the_rules(tmp_path, one_thread):
    examined = planted(tmp_path, DRAWN, SLOPE)
    assert said(examined, *RULES, training.resumes_exactly, training.keeps_every_column) == []


def of_all_cases(exam):
    x = MODULE["points"](exam)
    found = MODULE["errors"](exam.modules["model"](x), x - x.mean())
    return {key: found[key] for key in ("drawn_rmse", "drawn_bias")}


def of_the_global_generator(exam):
    x = torch.randn(len(exam.cases), 1)
    return MODULE["errors"](exam.modules["model"](x), x)


def of_a_weight(exam):
    x = exam.settings.loss.absolute.weight + MODULE["points"](exam)
    return MODULE["errors"](exam.modules["model"](x), x)


SEEN = []


def of_a_count(exam):
    SEEN.append(0)
    x = MODULE["points"](exam) + 0.01 * len(SEEN)
    return MODULE["errors"](exam.modules["model"](x), x)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (of_all_cases, "cut for 2 workers"),
        (of_the_global_generator, "cut for 2 workers"),
        (of_a_count, "a second time"),
        (of_a_weight, "loss.absolute.weight changes val.drawn_rmse"),
    ],
)
def test_a_fault_of_run_is_named(tmp_path, one_thread, run, message):
    found = said(planted(tmp_path, dataclasses.replace(DRAWN, run=run)))
    assert found and all("examination drawn" in text for text in found)
    assert message in found[0]


def test_a_key_that_is_read_and_not_declared_is_named(tmp_path, one_thread):
    columns = [dataclasses.replace(column, reads=()) for column in DRAWN.columns]
    found = said(planted(tmp_path, dataclasses.replace(DRAWN, columns=columns)))
    assert len(found) == 2 and "sample.spread changes val.drawn_rmse" in found[0]


def test_a_column_of_a_metric_is_named(tmp_path):
    columns = (dataclasses.replace(SLOPE.columns[0], name="mse"),)
    (found,) = said(planted(tmp_path, dataclasses.replace(SLOPE, columns=columns)), RULES[5])
    assert "val.mse, which is a metric" in found
