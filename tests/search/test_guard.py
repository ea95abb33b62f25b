from __future__ import annotations

import pytest
import torch

from losses.terms import Term
from metrics.combined import Combined
from metrics.metric import Metric
from search.guard import check_constraints, check_objective
from settings.schema import SettingsError


def metric(name, mode, *reads):
    return Metric(
        name, "", mode, lambda p, b, s: (torch.zeros(()), torch.ones(())), "help", reads=reads
    )


def term(*reads):
    return Term(
        sum=lambda p, b, s: torch.zeros(()), count=lambda b, s: torch.ones(()), reads=reads
    )


METRICS = (
    metric("mse", "min", "metric.epsilon"),
    metric("snr_db", "max", "metric.*"),
    metric("noisy", "min", "data.noise", "model.*"),
    metric("offset", None),
)
TERMS = {"absolute": term(), "squared": term("data.noise", "loss.squared.kind")}
SEARCHED = ("loss.absolute.weight", "data.noise", "optimizer.lr")


def test_weight_free_metrics_pass_with_their_direction():
    objectives = ("val.mse", "val.snr_db", "val.loss.absolute")
    assert check_objective(objectives, METRICS, TERMS, SEARCHED) == {
        "val.mse": "min",
        "val.snr_db": "max",
        "val.loss.absolute": "min",
    }
    assert check_objective(["val.loss.squared"], METRICS, TERMS, ["optimizer.lr"])


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("train.loss.total", ["train.loss.total", "its own weights", "lower bounds"]),
        ("val.loss.total", ["val.loss.total", "its own weights"]),
        ("val.loss.absolute.weight", ["its own weights"]),
        ("train.loss.absolute.share", ["its own weights"]),
        ("train.loss.absolute", ["training data", "`val.`"]),
        ("val.offset", ["diagnostic", "direction"]),
        ("val.mze", ["no metric 'val.mze'", "Nearest: val.mse"]),
        ("mse", ["no metric", "val.mse"]),
        ("val.noisy", ["val.noisy", "data.noise", "yardstick"]),
        ("val.loss.squared", ["val.loss.squared", "data.noise", "yardstick"]),
    ],
)
def test_refusals_name_the_metric_the_reason_and_what_can_be_used(objective, words):
    with pytest.raises(SettingsError) as error:
        check_objective([objective], METRICS, TERMS, SEARCHED)
    for word in [*words, "can be used here: val.mse, val.snr_db, val.loss.absolute."]:
        assert word in str(error.value)


def test_a_pattern_is_named_with_the_key_that_it_includes():
    with pytest.raises(SettingsError, match=r"model\.\* \(which includes model\.dropout\)"):
        check_objective(["val.noisy"], METRICS, TERMS, ["model.dropout"])


def test_one_bad_objective_of_several_is_enough():
    with pytest.raises(SettingsError, match="diagnostic"):
        check_objective(["val.mse", "val.offset"], METRICS, TERMS, SEARCHED)
    with pytest.raises(SettingsError, match="needs an objective"):
        check_objective([], METRICS, TERMS, SEARCHED)


def test_another_loss_node():
    assert check_objective(["val.critic.absolute"], (), TERMS, (), prefix="critic")
    with pytest.raises(SettingsError, match="none"):
        check_objective(["val.loss.absolute"], (), {}, ())


# Combinations


def test_a_combination_of_weight_free_columns_passes_as_smaller_is_better():
    parts = {"val.mse": 0.5, "val.loss.absolute": 0.1}
    for kind in ("weighted", "log_ratio", "worst_ratio"):
        found = check_objective([Combined(kind, parts)], METRICS, TERMS, SEARCHED)
        assert found == {f"val.{kind}": "min"}
    several = ["val.snr_db", Combined("worst_ratio", parts)]
    assert check_objective(several, METRICS, TERMS, SEARCHED) == {
        "val.snr_db": "max",
        "val.worst_ratio": "min",
    }


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("val.snr_db", ["better the larger", "constraint"]),
        ("val.offset", ["diagnostic", "can be used here"]),
        ("val.loss.total", ["its own weights"]),
        ("train.loss.absolute", ["training data"]),
        ("val.loss.squared", ["data.noise", "yardstick"]),
        ("val.nothing", ["no metric 'val.nothing'"]),
    ],
)
def test_every_ingredient_must_pass(column, words):
    combined = Combined("log_ratio", {"val.loss.absolute": 1.0, column: 1.0})
    with pytest.raises(SettingsError, match=r"^log_ratio: ") as error:
        check_objective([combined], METRICS, TERMS, SEARCHED)
    for word in [*words, column]:
        assert word in str(error.value)


def test_one_combination_of_each_kind():
    one, two = (Combined("weighted", {"val.loss.absolute": weight}) for weight in (1.0, 2.0))
    with pytest.raises(SettingsError, match=r"val\.weighted is an objective twice"):
        check_objective([one, two], METRICS, TERMS, SEARCHED)
    taken = (*METRICS, metric("weighted", "min"))
    with pytest.raises(SettingsError, match="a metric of the system already"):
        check_objective([one], taken, TERMS, SEARCHED)


# Constraints


def test_a_constraint_may_bound_a_diagnostic_or_one_column_from_both_sides():
    twice = ["val.offset", "val.offset"]
    check_constraints([*twice, "val.loss.absolute", "val.snr_db"], METRICS, TERMS, SEARCHED)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("val.noisy", "yardstick"),
        ("val.loss.total", "its own weights"),
        ("train.loss.absolute", "training data"),
        ("val.worst_ratio", "no metric"),
    ],
)
def test_a_constraint_must_not_be_moved_by_the_trial(column, words):
    with pytest.raises(SettingsError, match=words):
        check_constraints([column], METRICS, TERMS, SEARCHED)


def test_a_constraint_may_bound_a_combination_that_is_an_objective():
    combined = Combined("worst_ratio", {"val.loss.absolute": 1.0})
    check_constraints(["val.worst_ratio"], METRICS, TERMS, SEARCHED, derived=[combined])
