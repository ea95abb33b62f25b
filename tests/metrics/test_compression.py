"""Metrics of compression against scikit-image and MONAI, by modality, however the set is cut."""

from __future__ import annotations

import fnmatch
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from metrics.compression import MetricSettings, compression_metrics, dice, iou
from metrics.ms_ssim import ms_ssim, ms_ssim_of_slices
from metrics.perceptual import LpipsSettings, MedicalNetSettings
from models.autoencoders.settings import ModelSettings, VqvaeSettings
from settings.flat import leaves
from settings.mri import GROUPS, MODALITIES, channels_of
from settings.schema import Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    group: str = setting("bravo", "modalities", choices=tuple(GROUPS))


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    model: ModelSettings = field(default_factory=ModelSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)
    data: Data = field(default_factory=Data)


def tree(kind="vae", dims=2, group="bravo", **metric):
    model = ModelSettings(
        kind=kind, spatial_dims=dims, seg_mode=group == "seg", vqvae=VqvaeSettings(codes=32)
    )
    return Tree(model=model, metric=MetricSettings(**metric), data=Data(group=group))


TREES = [
    tree(),
    tree("dcae", 3),
    tree("vqvae", group="dual"),
    tree("vae", group="multi_modality"),
    tree("vqvae", 3, "multi_modality"),
    tree("dcae", group="seg"),
    tree("vqvae", 3, "seg"),
]
NAMES = [f"{x.model.kind}-{x.model.spatial_dims}d-{x.data.group}" for x in TREES]


def make_case(settings, samples=6, seed=0):
    """A prediction and a batch of the shapes that the system hands to its metrics."""
    rng = np.random.default_rng(seed)
    dims, group = settings.model.spatial_dims, settings.data.group
    space, small = ((24, 20), (6, 5)) if dims == 2 else ((12, 16, 14), (3, 4, 3))
    image = rng.random((samples, channels_of(group), *space))
    mask = np.zeros((samples, 1, *space))
    mask[(slice(None, -1), 0, *(slice(3, 8) for _ in space))] = 1
    if group == "seg":
        image, modality = mask, np.full(samples, len(MODALITIES))
    else:
        modality = np.arange(samples) % 4 if group == "multi_modality" else np.zeros(samples, int)
    close, rough = (np.clip(image + rng.normal(0, s, image.shape), 0, 1) for s in (0.05, 0.3))
    batch = {
        "image": image.astype(np.float32),
        "mask": mask.astype(np.float32),
        "region": (2 * mask).astype(np.uint8),
        "lesion": mask.astype(np.uint8),
        "modality": modality,
        "spacing": np.full((samples, dims), 0.9, np.float32),
    }
    codes = rng.integers(0, 32, (samples, *small))
    is_codes = settings.model.kind == "vqvae"
    prediction = {
        "reconstruction": close.astype(np.float32),
        "quantised_reconstruction": rough.astype(np.float32),
        "latent": rng.normal(0.3, 2.0, (samples, 3, *small)).astype(np.float32),
        "symbols": codes[:, None] if is_codes else rng.integers(-9, 10, (samples, 3, *small)),
        "codes": codes,
    }
    return tuple(
        {k: torch.from_numpy(v) for k, v in group.items()} for group in (prediction, batch)
    )


def measured(settings, name, prediction, batch, cuts=()):
    (metric,) = (metric for metric in compression_metrics(settings) if metric.name == name)
    total, count = 0.0, 0.0
    for start, end in itertools.pairwise([0, *cuts, len(batch["image"])]):
        pieces = ({k: v[start:end] for k, v in group.items()} for group in (prediction, batch))
        sums, n = metric.measure(*pieces, settings)
        assert sums.dtype == n.dtype == torch.float64, name
        assert sums.ndim <= 1 and n.numel() == 1, name
        total, count = total + sums, count + float(n)
    return metric.finish(total, count)


@pytest.mark.parametrize("settings", TREES, ids=NAMES)
def test_every_metric_is_measured_and_does_not_depend_on_how_the_set_is_cut(settings):
    """Pieces of one sample have no image of three modalities."""
    prediction, batch = make_case(settings)
    for metric in compression_metrics(settings):
        whole = measured(settings, metric.name, prediction, batch)
        assert isinstance(whole, float), metric.name
        pieces = measured(settings, metric.name, prediction, batch, (1, 3))
        assert pieces == pytest.approx(whole, rel=1e-5, nan_ok=True), metric.name
        if not any(size in metric.name for size in ("tiny", "medium", "large")):
            assert math.isfinite(whole), metric.name


@pytest.mark.parametrize("settings", TREES, ids=NAMES)
def test_what_is_declared(settings):
    metrics = compression_metrics(settings)
    names = [metric.name for metric in metrics]
    assert len(set(names)) == len(names)
    masks, model = settings.data.group == "seg", settings.model
    first = next(metric for metric in metrics if metric.mode is not None)
    assert (first.name, first.mode) == ("dice_quantised" if masks else "psnr_quantised_db", "max")
    by_name = {metric.name: metric for metric in metrics}
    assert by_name["rate_bpp"].mode == "min" and by_name["rate_bpp"].reads == ("metric.rate_step",)
    assert ("codebook_perplexity" in by_name) == (model.kind == "vqvae")
    assert ("ms_ssim_3d" in by_name) == (model.spatial_dims == 3)
    assert ("efficientnet_distance" in by_name) == (model.spatial_dims == 2 and not masks)
    assert ("boundary_sharpness" in by_name) == (not masks)
    assert ("psnr_scaled_db" in by_name) == (not masks)
    own = {name.removeprefix("psnr_db_") for name in names if name.startswith("psnr_db_")}
    expected = {"dual": {"t1_pre", "t1_gd"}, "multi_modality": set(MODALITIES)}
    assert own == expected.get(settings.data.group, set())
    assert {x.removeprefix("l1_") for x in names if x.startswith("l1_")} == own
    for metric in metrics:
        assert (metric.unit == "dB") == ("psnr" in metric.name), metric.name
        for key in metric.reads:
            assert fnmatch.filter(leaves(Tree), key), (metric.name, key)


def test_what_is_switched_off_is_not_declared():
    names = {
        metric.name for metric in compression_metrics(tree(ms_ssim=False, efficientnet=False))
    }
    assert not any("ssim" in name or "efficientnet" in name for name in names)
    lpips = tree(group="dual", lpips=LpipsSettings(enabled=True))
    names = {metric.name for metric in compression_metrics(lpips)}
    assert {"lpips", "lpips_t1_pre", "lpips_t1_gd"} <= names
    volumes = tree(dims=3, medicalnet=MedicalNetSettings(enabled=True))
    assert "medicalnet_distance" in {metric.name for metric in compression_metrics(volumes)}
    with pytest.raises(SettingsError, match=r"metric\.lpips\.enabled"):
        compression_metrics(tree(dims=3, lpips=LpipsSettings(enabled=True)))


@pytest.mark.parametrize("dims", [2, 3])
def test_psnr_and_errors_of_images(dims):
    settings = tree(dims=dims)
    prediction, batch = make_case(settings)
    image = batch["image"].double().numpy()
    keys = {"psnr_db": "reconstruction", "psnr_quantised_db": "quantised_reconstruction"}
    for name, key in keys.items():
        found = prediction[key].double().numpy()
        each = [
            peak_signal_noise_ratio(t, f, data_range=1.0)
            for t, f in zip(image, found, strict=True)
        ]
        assert measured(settings, name, prediction, batch) == pytest.approx(np.mean(each))
    error = prediction["reconstruction"].double().numpy() - image
    assert measured(settings, "l1", prediction, batch) == pytest.approx(np.abs(error).mean())
    assert measured(settings, "mse", prediction, batch) == pytest.approx((error**2).mean())


def test_ms_ssim_of_volumes_and_of_their_slices():
    settings = tree(dims=3)
    prediction, batch = make_case(settings)
    pair = prediction["reconstruction"], batch["image"]
    for name, score in (("ms_ssim", ms_ssim_of_slices), ("ms_ssim_3d", ms_ssim)):
        expected = float(score(*pair).mean())
        assert measured(settings, name, prediction, batch) == pytest.approx(expected)
    rough = prediction["quantised_reconstruction"], batch["image"]
    found = measured(settings, "ms_ssim_3d_quantised", prediction, batch)
    assert found == pytest.approx(float(ms_ssim(*rough).mean()))


@pytest.mark.parametrize("group", ["dual", "multi_modality"])
def test_a_modality_is_measured_on_its_own_images(group):
    settings = tree(group=group)
    prediction, batch = make_case(settings)
    for name in GROUPS[group]:
        if group == "dual":
            place = (slice(None), slice(GROUPS[group].index(name), GROUPS[group].index(name) + 1))
        else:
            place = (batch["modality"] == MODALITIES.index(name),)
        alone = {key: value[place] for key, value in prediction.items() if "recon" in key}
        there = {**batch, "image": batch["image"][place]}
        if group == "multi_modality":
            there |= {key: batch[key][place] for key in ("mask", "spacing")}
        for metric in ("psnr_db", "ms_ssim", "l1", "boundary_sharpness"):
            found = measured(settings, f"{metric}_{name}", prediction, batch)
            expected = measured(tree(), metric, alone, there)
            assert found == pytest.approx(expected, rel=1e-6), (metric, name)


@pytest.mark.parametrize("dims", [2, 3])
def test_psnr_of_the_best_factor_of_each_image_against_least_squares(dims):
    settings = tree(dims=dims)
    prediction, batch = make_case(settings)
    right = measured(settings, "psnr_scaled_db", prediction, batch)
    assert right > measured(settings, "psnr_db", prediction, batch)
    expected = []
    for own, true in zip(prediction["reconstruction"], batch["image"], strict=True):
        column, image = (x.double().numpy().ravel() for x in (own, true))
        factor = np.linalg.lstsq(column[:, None], image, rcond=None)[0]
        expected.append(peak_signal_noise_ratio(image, factor * column, data_range=1.0))
    assert right == pytest.approx(np.mean(expected))
    factors = torch.tensor([0.5, 3.0, 1.0, 2.7, 0.1, 1.5]).reshape(-1, *[1] * (dims + 1))
    wrong = {**prediction, "reconstruction": factors * prediction["reconstruction"]}
    assert measured(settings, "psnr_scaled_db", wrong, batch) == pytest.approx(right, rel=1e-6)
    nothing = {**prediction, "reconstruction": torch.zeros_like(batch["image"])}
    found = [measured(settings, name, nothing, batch) for name in ("psnr_scaled_db", "psnr_db")]
    assert found[0] == found[1]


def test_a_modality_without_an_image_has_no_value():
    settings = tree(group="multi_modality")
    prediction, batch = make_case(settings)
    batch["modality"] = torch.ones(6, dtype=torch.int64)
    assert math.isnan(measured(settings, "psnr_db_bravo", prediction, batch))
    assert math.isnan(measured(settings, "ms_ssim_bravo", prediction, batch))
    assert math.isnan(measured(settings, "boundary_sharpness_bravo", prediction, batch))
    found = [measured(settings, name, prediction, batch) for name in ("l1", "l1_flair")]
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("space", [(9, 11), (5, 6, 7)])
def test_overlap_against_monai(space):
    from monai.metrics import compute_dice, compute_iou

    rng = np.random.default_rng(0)
    found, true = (torch.from_numpy(rng.random((5, 1, *space))) for _ in range(2))
    true = (true > 0.6).double()
    true[2:4] = 0
    found[3] = 0.2  # both empty
    certain = (found > 0.5).float()
    for own, other in ((dice, compute_dice), (iou, compute_iou)):
        expected = other(certain, true.float(), ignore_empty=False).flatten()
        assert own(found, true).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert dice(found, true)[2:4].tolist() == [0.0, 1.0]


def test_masks_have_an_objective_at_the_rounding_step():
    settings = tree("dcae", group="seg")
    prediction, batch = make_case(settings)
    found = {
        name: measured(settings, name, prediction, batch)
        for name in ("dice", "dice_quantised", "iou", "regional_dice")
    }
    assert found["dice"] > found["dice_quantised"] > 0.5
    right = {**prediction, "reconstruction": batch["image"]}
    assert measured(settings, "dice", right, batch) == 1.0


@pytest.mark.parametrize("cuts", [(), (1, 4)])
def test_the_latent_is_measured_over_the_whole_set(cuts):
    settings = tree()
    prediction, batch = make_case(settings)
    latent = prediction["latent"].double().numpy()
    found = {
        name: measured(settings, name, prediction, batch, cuts)
        for name in ("latent_mean", "latent_std", "scale_factor")
    }
    expected = {
        "latent_mean": latent.mean(),
        "latent_std": latent.std(),
        "scale_factor": 1 / latent.std(),
    }
    assert found == pytest.approx(expected, rel=1e-10)
    constant = {"latent": torch.zeros(2, 3, 4, 4)}
    assert math.isnan(measured(settings, "scale_factor", constant, {"image": batch["image"][:2]}))


def test_a_prediction_that_is_not_a_number_shows_in_every_mean():
    settings = tree("dcae", group="seg")
    prediction, batch = make_case(settings)
    for key in ("reconstruction", "quantised_reconstruction", "latent"):
        prediction[key][1, 0, 4, 4] = torch.nan
    for name in ("psnr_db", "psnr_quantised_db", "ms_ssim", "l1", "dice", "iou", "latent_std"):
        assert math.isnan(measured(settings, name, prediction, batch)), name
