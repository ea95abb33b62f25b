"""Relative L2 and active units against NumPy, whole and in pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from metrics.field_vae import MetricSettings, field_vae_metrics
from metrics.relative_l2 import relative_l2


def make(count=40, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(count, 5, 6))
    spread = np.array([1.0, 0.2, 0.09, 0.0])
    arrays = {
        "field": true + 0.1 * rng.normal(size=true.shape),
        "main": 3.0 + spread * rng.normal(size=(count, 4)),
        "hier": spread[:2] * rng.normal(size=(count, 3, 2)),
    }
    return {k: torch.from_numpy(v) for k, v in arrays.items()}, {"field": torch.from_numpy(true)}


def value(metric, prediction, batch, cuts=(0, None)):
    edges = [*cuts[:-1], len(batch["field"])]
    total, number = 0.0, 0.0
    for start, stop in itertools.pairwise(edges):
        piece = [{k: v[start:stop] for k, v in group.items()} for group in (prediction, batch)]
        sums, count = metric.measure(*piece, None)
        total, number = total + sums, number + float(count)
    return metric.finish(total, number)


def test_the_error_is_relative_per_sample():
    prediction, batch = make()
    true, found = batch["field"].numpy(), prediction["field"].numpy()
    norms = np.linalg.norm((found - true).reshape(40, -1), axis=1)
    expected = np.mean(norms / np.linalg.norm(true.reshape(40, -1), axis=1))
    metric = field_vae_metrics(MetricSettings())[0]
    assert metric.name == "reconstruction_error" and metric.mode == "min"
    assert value(metric, prediction, batch) == pytest.approx(expected, rel=1e-9)
    assert value(metric, prediction, batch, (0, 7, 39, None)) == pytest.approx(expected, rel=1e-9)


def test_a_field_of_zeros_is_not_counted():
    true = torch.zeros(2, 3, 4)
    true[0] = 1.0
    assert relative_l2(true + 0.5, true).tolist() == [0.5]
    metric = field_vae_metrics(MetricSettings())[0]
    assert metric.measure({"field": true + 0.5}, {"field": true}, None)[1] == 1


def test_a_prediction_that_is_not_a_number_is_not_left_out():
    prediction, batch = make(count=4)
    prediction["field"][1, 0, 0] = torch.nan
    assert np.isnan(value(field_vae_metrics(MetricSettings())[0], prediction, batch))


def test_sums_and_counts_lie_where_the_prediction_does():
    """The loop joins them in one vector, which a count on the CPU would stop on a GPU."""
    prediction, _ = make(count=4)
    moved = {name: tensor.to("meta") for name, tensor in prediction.items()}
    for metric in field_vae_metrics(MetricSettings())[1:]:
        assert {part.device.type for part in metric.measure(moved, {}, None)} == {"meta"}


@pytest.mark.parametrize("threshold", [1e-4, 0.02, 0.5])
def test_active_units_are_those_whose_mean_varies(threshold):
    prediction, batch = make()
    _, main, hier = field_vae_metrics(MetricSettings(active_variance=threshold))
    for metric, name in ((main, "main"), (hier, "hier")):
        expected = int((prediction[name].flatten(1).numpy().var(axis=0) > threshold).sum())
        assert value(metric, prediction, batch) == expected
        assert value(metric, prediction, batch, (0, 3, 20, None)) == expected
