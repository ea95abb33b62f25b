"""The metrics of diffusion against numpy, on pairs whose errors are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metrics.diffusion import LEVELS, TIME_BINS, MetricSettings, diffusion_metrics
from settings.mri import GROUPS, MODALITIES
from trainables.contract.keys import declares


def tree(group="bravo", dims=2):
    return SimpleNamespace(
        model=SimpleNamespace(spatial_dims=dims),
        data=SimpleNamespace(group=group),
        space=SimpleNamespace(kind="pixel", has_images=True),
        metric=MetricSettings(),
    )


TREE = tree()


def pairs(count, side=12, seed=0, channels=1):
    """(prediction, batch) of noise: the levels and bins in turn, half of the cells lesion, in rows
    of the four size classes in turn; modalities in turn.
    """
    rng = np.random.default_rng(seed)

    def noise(scale=1.0):
        values = scale * rng.normal(size=(count, channels, side, side))
        return torch.from_numpy(values.astype(np.float32))

    place = np.arange(count) % (len(LEVELS) + 1)
    by_time = place == len(LEVELS)
    mask = torch.zeros(count, 1, side, side)
    mask[:, :, : side // 2] = 1.0
    region = mask * (torch.arange(side) % 4 + 1.0)[:, None]
    prediction = {
        "clean": noise(),
        "clean_estimate": noise(),
        "deviation": torch.ones(count),
        "prediction": noise(2.0),
        "target": noise(),
        "reconstruction": 0.5 + noise(0.1),
    }
    batch = {
        "image": 0.5 + noise(0.1),
        "mask": mask,
        "region": region.byte(),
        "modality": torch.arange(count) // 6 % 4,
        "spacing": torch.ones(count, 2),
        "lesion": mask.byte(),
        "level": torch.from_numpy(np.where(by_time, -1, place)),
        "bin": torch.from_numpy(np.where(by_time, np.arange(count) // 6 % TIME_BINS, -1)),
    }
    return prediction, batch


def measured(prediction, batch, settings=TREE):
    values = {}
    for metric in diffusion_metrics(settings):
        sums, count = metric.measure(prediction, batch, settings)
        values[metric.name] = metric.finish(sums, float(count))
    return values


def squared_error(prediction, first, second):
    difference = (prediction[first].double() - prediction[second].double()).numpy()
    return difference**2


def test_the_objective_is_the_geometric_mean_over_the_levels():
    prediction, batch = pairs(4 * 6)
    values = measured(prediction, batch)
    error = squared_error(prediction, "clean_estimate", "clean").mean(axis=(1, 2, 3))
    level = batch["level"].numpy()
    by_level = [error[level == place].mean() for place in range(len(LEVELS))]
    assert values["denoising_mse"] == pytest.approx(math.prod(by_level) ** 0.2, rel=1e-9)
    for place, end in enumerate(("m6", "m3", "0", "3", "6")):
        expected = by_level[place]
        assert values[f"denoising_mse_log_snr_{end}"] == pytest.approx(expected, rel=1e-9)


def test_the_objective_is_in_units_of_the_data():
    prediction, batch = pairs(4 * 6)
    smaller = {**prediction, "deviation": torch.full((24,), 0.2)}
    for name in ("clean", "clean_estimate"):
        smaller[name] = 0.2 * prediction[name]
    one, other = (measured(each, batch)["denoising_mse"] for each in (prediction, smaller))
    assert one == pytest.approx(other, rel=1e-5)


def test_no_level_is_worth_more_than_another():
    """A tenth of the error at the least noise is worth as much as at the most."""
    prediction, batch = pairs(6)
    values = []
    for place in (0, len(LEVELS) - 1):
        estimate = prediction["clean_estimate"].clone()
        at = batch["level"] == place
        estimate[at] = (
            prediction["clean"][at]
            + (prediction["clean_estimate"][at] - prediction["clean"][at]) * 0.1**0.5
        )
        better = {**prediction, "clean_estimate": estimate}
        values.append(measured(better, batch)["denoising_mse"])
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_level_that_was_not_measured_leaves_no_objective():
    prediction, batch = pairs(5)
    batch["level"][0] = -1
    assert math.isnan(measured(prediction, batch)["denoising_mse"])


def test_time_bins_hold_the_error_of_what_is_predicted_by_region():
    prediction, batch = pairs(2 * 6 * TIME_BINS)
    values = measured(prediction, batch)
    error, bins = squared_error(prediction, "prediction", "target"), batch["bin"].numpy()
    lesion = batch["mask"].numpy() > 0
    for place in range(TIME_BINS):
        chosen, inside = error[bins == place], lesion[bins == place]
        assert values[f"prediction_mse_t{place}"] == pytest.approx(chosen.mean(), rel=1e-9)
        assert values[f"tumour_mse_t{place}"] == pytest.approx(chosen[inside].mean(), rel=1e-9)
        background = chosen[~inside].mean()
        assert values[f"background_mse_t{place}"] == pytest.approx(background, rel=1e-9)
        region = batch["region"].numpy()[bins == place]
        for number, size in enumerate(("tiny", "small", "medium", "large"), 1):
            expected = chosen[region == number].mean()
            found = values[f"tumour_{size}_mse_t{place}"]
            assert found == pytest.approx(expected, rel=1e-9)
    assert values["prediction_mse"] == pytest.approx(error[bins >= 0].mean(), rel=1e-9)


def test_images_are_compared_at_the_levels_alone():
    """A pair by time depends on the strategy, whose clean estimates these columns compare."""
    prediction, batch = pairs(12)
    values = measured(prediction, batch)
    by_time = batch["level"] < 0
    prediction["reconstruction"][by_time] = 100.0
    after = measured(prediction, batch)
    names = ("psnr_db", "ms_ssim", "tumour_l1", "background_l1", "lesion_l1")
    assert {name: after[name] for name in names} == {name: values[name] for name in names}
    error = (prediction["reconstruction"] - batch["image"]).double()[~by_time].numpy()
    expected = np.mean(-10.0 * np.log10((error**2).mean(axis=(1, 2, 3))))
    assert values["psnr_db"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("group", ["dual", "multi_modality"])
def test_each_modality_is_compared_by_itself(group):
    """At the log-SNRs alone: channels of `dual`, samples of pooled modalities."""
    prediction, batch = pairs(6 * 8, channels=2 if group == "dual" else 1)
    values = measured(prediction, batch, tree(group))
    at = batch["level"].numpy() >= 0
    error = (prediction["reconstruction"] - batch["image"]).double().numpy()
    for place, name in enumerate(GROUPS[group]):
        of = at & (batch["modality"].numpy() == MODALITIES.index(name))
        chosen = error[at, place] if group == "dual" else error[of, 0]
        l1 = np.abs(chosen).mean()
        psnr = np.mean(-10.0 * np.log10((chosen**2).mean(axis=(1, 2))))
        assert values[f"l1_{name}"] == pytest.approx(l1, rel=1e-6)
        assert values[f"psnr_db_{name}"] == pytest.approx(psnr, rel=1e-6)
    assert values["l1"] == pytest.approx(np.abs(error[at]).mean(), rel=1e-6)


def test_similarity_is_of_estimates_within_0_and_1():
    """An estimate may be anything where the noise is large; MS-SSIM is of images in [0, 1]."""
    prediction, batch = pairs(12)
    prediction["reconstruction"] *= 3.0
    cut = {**prediction, "reconstruction": prediction["reconstruction"].clamp(0.0, 1.0)}
    first, second = (measured(each, batch) for each in (prediction, cut))
    assert first["ms_ssim"] == second["ms_ssim"] and first["psnr_db"] != second["psnr_db"]


def test_the_statistics_of_one_channel_may_be_searched_and_those_of_several_not():
    """Noise beside one deviation is the same whatever the images are divided by."""
    wavelet = SimpleNamespace(kind="wavelet", has_images=True)
    for settings, is_read in (
        (TREE, False),
        (tree("dual"), True),
        (SimpleNamespace(**{**vars(TREE), "space": wavelet}), True),
    ):
        by_name = {metric.name: metric for metric in diffusion_metrics(settings)}
        for name in ("denoising_mse", "psnr_db"):
            assert declares(by_name[name].reads, "space.statistics") == is_read
            assert declares(by_name[name].reads, "space.kind")
        assert declares(by_name["prediction_mse"].reads, "space.statistics")
