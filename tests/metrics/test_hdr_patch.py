"""Every HDR metric against numpy, and the rules that make a metric fit to be an objective."""

from __future__ import annotations

import fnmatch
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from metrics.hdr_measures import mu_encoded, pu_encoded
from metrics.hdr_patch import METRICS, MetricSettings, hdr_metrics
from metrics.image import ssim_map
from models.hdr.head import HeadSettings
from settings.flat import flatten, leaves, replace
from settings.schema import Settings, SettingsError

BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    hdr: HeadSettings = field(default_factory=HeadSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)


EPSILON = 0.03
"""`hdr.epsilon` of the tests: large enough for every logarithm to feel it."""

CLAMP = {"hdr.clamp.enabled": True, "hdr.clamp.kind": "hard", "hdr.clamp.max": 5}
CLAMPED = replace(Tree(), {**CLAMP, "hdr.epsilon": EPSILON})


def make_case(seed=0, images=3, size=20, empty=(2,)):
    """A batch and a prediction of random numbers; the images of `empty` have no hole."""
    rng = np.random.default_rng(seed)
    shape = (images, 3, size, size)
    target = np.exp(rng.normal(0, 1.5, shape))
    hole = np.zeros((images, 1, size, size))
    for index in set(range(images)) - set(empty):
        top, left = rng.integers(0, size - 8, 2)
        hole[index, :, top : top + rng.integers(3, 8), left : left + rng.integers(3, 8)] = 1
    batch = {"target": target, "hole": hole, "warped": target * (1 - hole)}
    prediction = {
        "radiance": target * np.exp(rng.normal(0, 3, shape)),
        "log_delta": np.clip(rng.normal(0, 4, shape), -5, 5),
        "unclamped": rng.normal(0, 4, shape),
        "log_base": rng.normal(0, 2, shape),
        "cap": rng.uniform(3, 5, (images, 1, 1, 1)),
        "denom": rng.uniform(2, 9, (images, 1, 1, 1)),
    }
    return tuple(
        {name: torch.tensor(value, dtype=torch.float32) for name, value in group.items()}
        for group in (prediction, batch)
    )


def value_of(name, prediction, batch, settings=CLAMPED):
    metric = BY_NAME[name]
    sums, count = metric.measure(prediction, batch, settings)
    assert sums.dtype == count.dtype == torch.float64
    return metric.finish(sums, float(count))


def as_numpy(tensors):
    return {name: value.double().numpy() for name, value in tensors.items()}


def in_holes(values, hole):
    return values[np.broadcast_to(hole > 0, values.shape)]


def mu_law(radiance):
    return np.log1p(240 * np.clip(radiance, 0, 1e3)) / np.log1p(240e3)


def test_hole_log_rmse():
    p, b = (as_numpy(x) for x in make_case())
    error = np.log(p["radiance"] + 1e-4) - np.log(b["target"] + 1e-4)
    expected = np.sqrt(np.mean(in_holes(error, b["hole"]) ** 2))
    assert value_of("hole_log_rmse", *make_case()) == pytest.approx(expected, rel=1e-6)


def test_psnr_is_a_mean_over_images_and_skips_those_without_a_hole():
    p, b = (as_numpy(x) for x in make_case())
    predicted, target = mu_law(p["radiance"]), mu_law(b["target"])
    whole = [
        peak_signal_noise_ratio(t, q, data_range=1) for t, q in zip(target, predicted, strict=True)
    ]
    assert value_of("psnr_mu_db", *make_case()) == pytest.approx(np.mean(whole), rel=1e-6)
    holes = [
        peak_signal_noise_ratio(
            in_holes(target[i], b["hole"][i]), in_holes(predicted[i], b["hole"][i]), data_range=1
        )
        for i in range(2)
    ]
    assert value_of("hole_psnr_mu_db", *make_case()) == pytest.approx(np.mean(holes), rel=1e-6)


def test_seam_error():
    p, b = (as_numpy(x) for x in make_case())
    predicted, target, hole = mu_law(p["radiance"]), mu_law(b["target"]), b["hole"]
    errors = []
    for i in range(3):
        for y, x in np.ndindex(20, 20):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v < 20 and u < 20 and hole[i, 0, y, x] != hole[i, 0, v, u]:
                    step = predicted[i, :, v, u] - predicted[i, :, y, x]
                    errors.append(np.abs(step - (target[i, :, v, u] - target[i, :, y, x])))
    assert value_of("seam_error", *make_case()) == pytest.approx(np.mean(errors), rel=1e-6)


@pytest.mark.parametrize("threshold", [1e2, 1e3, 1e4, 1e6])
def test_overflow_rates(threshold):
    prediction, batch = make_case()
    prediction["radiance"] = prediction["radiance"] ** 4
    p, b = as_numpy(prediction), as_numpy(batch)
    region = scipy.ndimage.maximum_filter(b["hole"], (1, 1, 3, 3))[:, 0] > 0
    expected = (p["radiance"].max(1) > threshold)[region].mean()
    name = f"overflow_rate_1e{round(math.log10(threshold))}"
    assert value_of(name, prediction, batch) == pytest.approx(expected)
    above = p["radiance"].max(1) > b["target"].max((1, 2, 3))[:, None, None]
    found = value_of("overflow_above_target_rate", prediction, batch)
    assert found == pytest.approx(above[region].mean())


def test_diagnostics_of_cap_and_clamp():
    p, b = (as_numpy(x) for x in make_case())
    hole = b["hole"]
    expected = {
        "saturation_share": in_holes(np.abs(p["log_delta"]) >= 0.99 * p["cap"], hole).mean(),
        "unreachable_share": in_holes(
            np.abs(np.log(b["target"] + EPSILON) - p["log_base"]) > p["cap"], hole
        ).mean(),
        "clamp_share": in_holes(np.abs(p["unclamped"]) > 5, hole).mean(),
        "cap_mean": p["cap"].mean(),
        "denom_mean": p["denom"].mean(),
        "denom_cv": p["denom"].std() / p["denom"].mean(),
    }
    logs = np.log(b["warped"] + EPSILON).reshape(3, -1)
    ranges = np.ptp(logs, axis=1)
    expected["denom_with_holes_mean"] = ranges.mean()
    expected["denom_with_holes_cv"] = ranges.std() / ranges.mean()
    found = {name: value_of(name, *make_case()) for name in expected}
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0 < expected["saturation_share"] < 1 and 0 < expected["clamp_share"] < 1
    assert value_of("clamp_share", *make_case(), settings=Tree()) == 0.0


def test_a_cap_per_channel_is_averaged():
    prediction, batch = make_case()
    prediction["cap"] = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1).expand(3, 3, 1, 1)
    assert value_of("cap_mean", prediction, batch) == pytest.approx(3.0)


@pytest.mark.parametrize("metric", [m for m in METRICS if m.mode], ids=lambda m: m.name)
def test_a_perfect_prediction_is_the_best(metric):
    prediction, batch = make_case()
    broken = metric.finish(*_floats(metric.measure(prediction, batch, Tree())))
    perfect = {**prediction, "radiance": batch["target"]}
    best = metric.finish(*_floats(metric.measure(perfect, batch, Tree())))
    if metric.mode == "max":
        assert best > broken
        assert best == pytest.approx(100.0 if metric.unit == "dB" else 1.0)
    else:
        assert best <= broken
        assert best == pytest.approx(0.0, abs=1e-9)


def _floats(measured):
    return measured[0], float(measured[1])


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_an_objective_reads_constants_of_the_metric_only(metric):
    """With the prediction fixed, no key outside `reads` changes what is measured."""
    keys = leaves(Tree)
    for pattern in metric.reads:
        assert fnmatch.filter(keys, pattern), pattern
        assert metric.mode is None or pattern.startswith("metric.")
    prediction, batch = make_case()
    before = metric.measure(prediction, batch, CLAMPED)
    for key, leaf in keys.items():
        if leaf.is_tuple or any(fnmatch.fnmatchcase(key, pattern) for pattern in metric.reads):
            continue
        other = _changed(key, leaf)
        if other is None:
            continue
        after = metric.measure(prediction, batch, other)
        torch.testing.assert_close(after, before, rtol=0, atol=0, msg=key)


def _changed(key, leaf):
    value = flatten(CLAMPED)[key]
    if leaf.choices is not None:
        value = next(choice for choice in leaf.choices if choice != value)
    elif leaf.type is bool:
        value = not value
    else:
        value = value + 2 if leaf.type is int else (leaf.low + value) / 2
    try:
        return replace(CLAMPED, {key: value})
    except SettingsError:
        return None


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_without_a_hole_a_hole_metric_is_unknown_and_not_zero(metric):
    prediction, batch = make_case(empty=(0, 1, 2))
    sums, count = metric.measure(prediction, batch, CLAMPED)
    value = metric.finish(sums, float(count))
    if count == 0:
        assert math.isnan(value)
    else:
        assert math.isfinite(value)
    in_hole = metric.name.startswith(("hole_", "seam", "overflow")) or metric.name in (
        "saturation_share",
        "unreachable_share",
        "clamp_share",
    )
    assert (float(count) == 0) == in_hole


@pytest.mark.parametrize("metric", [m for m in METRICS if m.mode], ids=lambda m: m.name)
def test_a_nan_in_a_hole_never_improves_a_metric(metric):
    prediction, batch = make_case()
    honest = metric.finish(*_floats(metric.measure(prediction, batch, Tree())))
    hole = batch["hole"].expand_as(batch["target"]) > 0
    broken = {**prediction, "radiance": torch.where(hole, torch.nan, prediction["radiance"])}
    value = metric.finish(*_floats(metric.measure(broken, batch, Tree())))
    assert math.isnan(value) or (metric.mode == "min" and value > honest)
    share = BY_NAME["nonfinite_share"]
    expected = float(hole.float().mean())
    assert share.finish(*_floats(share.measure(broken, batch, Tree()))) == pytest.approx(expected)


@hypothesis_settings(max_examples=min(5, hypothesis_settings.default.max_examples))
@given(cuts=st.sets(st.integers(1, 5)), seed=st.integers(0, 50))
def test_ragged_batches_give_the_value_of_the_whole(cuts, seed):
    prediction, batch = make_case(seed, images=6, empty=(1, 4))
    edges = [0, *sorted(cuts), 6]
    for metric in METRICS:
        parts = [
            metric.measure(
                *({k: v[a:b] for k, v in group.items()} for group in (prediction, batch)), CLAMPED
            )
            for a, b in itertools.pairwise(edges)
        ]
        merged = metric.finish(sum(s for s, _ in parts), float(sum(c for _, c in parts)))
        whole = metric.finish(*_floats(metric.measure(prediction, batch, CLAMPED)))
        assert merged == pytest.approx(whole, rel=1e-9, nan_ok=True), metric.name


def test_ssim_of_the_holes_is_that_of_each_encoding():
    """Against the map of the whole image, whose holes alone count; the last image has none."""
    prediction, batch = make_case()
    images = {
        "mu": [mu_encoded(x, 300.0, 0.8, 1e3) for x in (prediction["radiance"], batch["target"])],
        "pu": [pu_encoded(x, 1e4, 1e3) for x in (prediction["radiance"], batch["target"])],
    }
    for encoding, data_range in (("mu", 1.0), ("pu", 256.0)):
        similarity = ssim_map(*images[encoding], data_range).numpy()
        holes = batch["hole"].numpy()
        expected = np.mean([in_holes(similarity[i], holes[i]).mean() for i in (0, 1)])
        assert value_of(f"hole_ssim_{encoding}", prediction, batch) == pytest.approx(expected)


def test_names_are_unique_and_thresholds_name_columns():
    assert len(BY_NAME) == len(METRICS)
    found = hdr_metrics(MetricSettings(overflow_thresholds=(1.0, 250.0, 1e5)))
    names = [metric.name for metric in found if metric.name.startswith("overflow_rate")]
    assert names == ["overflow_rate_1e0", "overflow_rate_250", "overflow_rate_1e5"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ring_kernel": 4}, "must be odd, not 4"),
        ({"overflow_thresholds": (1.5,)}, "whole numbers, not 1.5"),
        ({"overflow_thresholds": (10.0, 10.0)}, "must differ"),
        ({"epsilon": 0.0}, "1e-08 .. 1"),
        ({"peak_cd_m2": 2e4}, "1 .. 10000 cd/m2"),
    ],
)
def test_refused_constants(fields, message):
    with pytest.raises(SettingsError, match=message):
        MetricSettings(**fields)
