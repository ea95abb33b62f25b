"""Every metric of the conditioner against numpy or torchmetrics, however the set is cut."""

from __future__ import annotations

import fnmatch
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.regression import (
    cosine_similarity,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)

from metrics.conditioner import MetricSettings, conditioner_metrics
from models.fields.network import ModelSettings
from settings.flat import leaves, replace
from settings.schema import Settings, setting

METRICS = conditioner_metrics(MetricSettings())
BY_NAME = {metric.name: metric for metric in METRICS}
KINDS = ("main", "hier")
BIN = 10 ** (1 / 200)


@dataclass(frozen=True, kw_only=True)
class Vae(Settings):
    reach: float = setting(0.7, "scaled training targets lie in -reach .. reach")


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    model: ModelSettings = field(default_factory=ModelSettings)
    vae: Vae = field(default_factory=Vae)
    metric: MetricSettings = field(default_factory=MetricSettings)


def make_case(seed=0, samples=9):
    """(prediction, batch) of random numbers; every third sample has no second view."""
    rng = np.random.default_rng(seed)
    shapes = {"main": (samples, 6), "hier": (samples, 3, 4)}
    batch = {name: rng.uniform(-0.7, 0.7, shape) for name, shape in shapes.items()}
    prediction = {name: rng.uniform(-1, 1, shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        prediction[f"paired_{name}"] = rng.uniform(-1, 1, shape)
    batch["field"] = rng.normal(3, 1, (samples, 5, 7))
    size = np.exp(rng.normal(-3, 1, (samples, 1, 1)))
    prediction["field"] = batch["field"] + size * rng.normal(0, 3, (samples, 5, 7))
    batch["paired_valid"] = (np.arange(samples) % 3 > 0).astype(float)
    return tuple(
        {name: torch.tensor(value, dtype=torch.float32) for name, value in group.items()}
        for group in (prediction, batch)
    )


def measured(name, prediction, batch, tree=Tree(), cuts=()):
    """As the loop measures it: sums and counts of the pieces are added, then finished."""
    metric = BY_NAME[name]
    edges = [0, *sorted(cuts), len(batch["main"])]
    sums, count = None, 0.0
    for start, end in itertools.pairwise(edges):
        piece = [{k: v[start:end] for k, v in group.items()} for group in (prediction, batch)]
        more, n = metric.measure(*piece, tree)
        assert more.dtype == torch.float64
        assert n.dtype == torch.float64
        sums, count = more if sums is None else sums + more, count + float(n)
    return metric.finish(sums, count)


def relative(prediction, batch):
    found, true = prediction["field"].double().numpy(), batch["field"].double().numpy()
    return np.array(
        [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, true, strict=True)]
    )


def test_decoded_field_error():
    case = make_case(1)
    assert measured("decoded_field_error", *case) == pytest.approx(relative(*case).mean(), 1e-9)


def test_the_percentile_is_exact_to_a_bin():
    case = make_case(2, samples=400)
    expected = np.percentile(relative(*case), 95, method="inverted_cdf")
    found = measured("decoded_field_error_p95", *case, cuts=(7, 120, 390))
    assert expected / BIN <= found <= expected * BIN
    metric = conditioner_metrics(MetricSettings(tail_percent=50))[1]
    expected = np.percentile(relative(*case), 50, method="inverted_cdf")
    assert metric.name == "decoded_field_error_p50"
    found = metric.finish(*(x if x.ndim else float(x) for x in metric.measure(*case, Tree())))
    assert expected / BIN <= found <= expected * BIN


@given(share=st.floats(1e-7, 1e4))
def test_the_percentile_of_equal_errors_is_that_error(share):
    _, batch = make_case(3)
    found = measured("decoded_field_error_p95", {"field": batch["field"] * (1 + share)}, batch)
    if share >= 1e-3:  # below, float32 fields round the error itself
        inside = min(max(share, 1e-5), 99.99)
        assert found == pytest.approx(inside, rel=BIN - 1 + 1e-3)
    assert 1e-5 <= found <= 100.0


def test_what_is_not_a_number_is_not_left_out():
    prediction, batch = make_case(4)
    prediction["field"][0, 0, 0] = math.nan
    assert math.isnan(measured("decoded_field_error", prediction, batch))
    assert measured("decoded_field_error_p95", prediction, batch) == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize("name", ["decoded_field_error", "decoded_field_error_p95"])
def test_a_field_of_zeros_is_not_counted(name):
    """One such sample would leave the whole training without an objective."""
    prediction, batch = make_case(5, samples=3)
    others = [{k: v[1:] for k, v in group.items()} for group in (prediction, batch)]
    batch["field"][0] = 0.0
    assert measured(name, prediction, batch) == measured(name, *others)
    batch["field"][:] = 0.0
    assert math.isnan(measured(name, prediction, batch))


@pytest.mark.parametrize("kind", KINDS)
def test_errors_and_likeness_of_the_latents(kind):
    prediction, batch = make_case(6)
    flat = prediction[kind].flatten(1), batch[kind].flatten(1)
    flat64 = tuple(value.double() for value in flat)
    rows = tuple(group[kind].double().flatten(0, -2) for group in (prediction, batch))
    expected = {
        "mse": mean_squared_error(flat64[0].flatten(), flat64[1].flatten()),
        "mae": mean_absolute_error(flat64[0].flatten(), flat64[1].flatten()),
        "r2": r2_score(*flat64, multioutput="uniform_average"),
        "cosine": cosine_similarity(*rows, reduction="mean"),
    }
    for name, value in expected.items():
        found = measured(f"{kind}_{name}", prediction, batch, cuts=(2, 7))
        assert found == pytest.approx(float(value), rel=1e-6), name


def test_r_squared_leaves_out_what_does_not_vary():
    prediction, batch = make_case(7)
    rest = [{"main": group["main"][:, 1:]} for group in (prediction, batch)]
    batch["main"][:, 0] = 0.3
    assert measured("main_r2", prediction, batch) == pytest.approx(measured("main_r2", *rest))
    batch["main"][:] = 0.3
    assert math.isnan(measured("main_r2", prediction, batch))


def test_latent_rmse():
    prediction, batch = make_case(8)
    errors = [(prediction[k] - batch[k]).double().numpy().ravel() for k in KINDS]
    expected = np.sqrt((np.concatenate(errors) ** 2).mean())
    assert measured("latent_rmse", prediction, batch) == pytest.approx(expected, rel=1e-6)


def test_consistency_score():
    prediction, batch = make_case(9)
    p = {name: value.double().flatten(1).numpy() for name, value in prediction.items()}
    gap = np.concatenate([p[k] - p[f"paired_{k}"] for k in KINDS], axis=1)
    expected = np.linalg.norm(gap, axis=1)[batch["paired_valid"].numpy() > 0].mean()
    assert measured("consistency_score", prediction, batch) == pytest.approx(expected, rel=1e-6)


def test_targets_out_of_range():
    """000-M17: a validation target may lie beyond what the training split spans."""
    prediction, batch = make_case(10)
    batch["main"][:] = 0.7
    batch["hier"][:] = -0.7
    assert measured("out_of_range_share", prediction, batch) == 0.0
    batch["main"][0, :3] = torch.tensor([0.71, -0.9, 1.2])
    numbers = 9 * (6 + 12)
    assert measured("out_of_range_share", prediction, batch) == pytest.approx(3 / numbers)
    assert measured("unreachable_share", prediction, batch) == pytest.approx(1 / numbers)
    wide = replace(Tree(), {"vae.reach": 0.95})
    assert measured("out_of_range_share", prediction, batch, wide) == pytest.approx(1 / numbers)
    # 0.7 / 0.76 is reached by a network whose tanh ends there, and 0.9 not.
    tight = replace(Tree(), {"model.reach": 0.8})
    assert measured("unreachable_share", prediction, batch, tight) == pytest.approx(2 / numbers)


@pytest.mark.parametrize("name", BY_NAME)
@given(cuts=st.sets(st.integers(1, 8)), seed=st.integers(0, 20))
def test_no_value_depends_on_how_the_set_is_cut(name, cuts, seed):
    case = make_case(seed)
    assert measured(name, *case, cuts=cuts) == pytest.approx(measured(name, *case), rel=1e-9)


def test_the_best_prediction_has_the_best_values():
    _, batch = make_case(11)
    views = {f"paired_{kind}": batch[kind] for kind in KINDS}
    best = {**batch, **views}
    for name, metric in BY_NAME.items():
        value = measured(name, best, batch)
        if metric.mode == "max":
            assert value == pytest.approx(1.0, abs=1e-6), name
        elif metric.mode == "min":
            assert value == pytest.approx(0.0, abs=2e-5), name


def test_the_objective_comes_first_and_reads_nothing():
    assert METRICS[0].name == "decoded_field_error"
    assert (METRICS[0].mode, METRICS[0].reads) == ("min", ())
    without = conditioner_metrics(MetricSettings(), decoder=False)
    assert without[0].name == "latent_rmse"
    assert {m.name for m in METRICS} - {m.name for m in without} == {
        "decoded_field_error",
        "decoded_field_error_p95",
    }


def test_metrics_are_well_declared():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    keys = list(leaves(Tree))
    for metric in METRICS:
        assert metric.help
        for pattern in metric.reads:
            assert fnmatch.filter(keys, pattern), pattern
