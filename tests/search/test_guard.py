from __future__ import annotations

import pytest
import torch

from losses.terms import Term
from metrics.metric import Metric
from search.guard import check_objective
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
    metric("hole_log_rmse", "min", "metric.epsilon"),
    metric("hole_psnr_mu_db", "max", "metric.*"),
    metric("own_log_rmse", "min", "hdr.epsilon", "hdr.cap.*"),
    metric("saturation_share", None),
)
TERMS = {"l1": term(), "log": term("hdr.epsilon", "loss.log.kind")}
SEARCHED = ("loss.l1.weight", "hdr.epsilon", "optimizer.lr")


def test_weight_free_metrics_pass_with_their_direction():
    objectives = ("val.hole_log_rmse", "val.hole_psnr_mu_db", "val.loss.l1")
    assert check_objective(objectives, METRICS, TERMS, SEARCHED) == {
        "val.hole_log_rmse": "min",
        "val.hole_psnr_mu_db": "max",
        "val.loss.l1": "min",
    }
    assert check_objective(["val.loss.log"], METRICS, TERMS, ["optimizer.lr"])


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("train.loss.total", ["train.loss.total", "its own weights", "lower bounds"]),
        ("val.loss.total", ["val.loss.total", "its own weights"]),
        ("val.loss.l1.weight", ["its own weights"]),
        ("train.loss.l1.share", ["its own weights"]),
        ("train.loss.l1", ["training data", "`val.`"]),
        ("val.saturation_share", ["diagnostic", "direction"]),
        ("val.hole_log_rms", ["no metric 'val.hole_log_rms'", "Nearest: val.hole_log_rmse"]),
        ("hole_log_rmse", ["no metric", "val.hole_log_rmse"]),
        ("val.own_log_rmse", ["val.own_log_rmse", "hdr.epsilon", "yardstick"]),
        ("val.loss.log", ["val.loss.log", "hdr.epsilon", "yardstick"]),
    ],
)
def test_refusals_name_the_metric_the_reason_and_what_can_be_used(objective, words):
    with pytest.raises(SettingsError) as error:
        check_objective([objective], METRICS, TERMS, SEARCHED)
    for word in [*words, "can be used here: val.hole_log_rmse, val.hole_psnr_mu_db, val.loss.l1."]:
        assert word in str(error.value)


def test_a_pattern_is_named_with_the_key_that_it_includes():
    with pytest.raises(SettingsError, match=r"hdr\.cap\.\* \(which includes hdr\.cap\.alpha\)"):
        check_objective(["val.own_log_rmse"], METRICS, TERMS, ["hdr.cap.alpha"])


def test_one_bad_objective_of_several_is_enough():
    with pytest.raises(SettingsError, match="diagnostic"):
        check_objective(["val.hole_log_rmse", "val.saturation_share"], METRICS, TERMS, SEARCHED)
    with pytest.raises(SettingsError, match="needs an objective"):
        check_objective([], METRICS, TERMS, SEARCHED)


def test_another_loss_node():
    assert check_objective(["val.critic.l1"], (), TERMS, (), prefix="critic")
    with pytest.raises(SettingsError, match="none"):
        check_objective(["val.loss.l1"], (), {}, ())
