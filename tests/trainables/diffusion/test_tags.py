"""The document's TensorBoard tags of its diffusion trainer, typed from its tables, against what
the table of tags gives for the columns that each configuration has.
"""

from __future__ import annotations

import itertools

import pytest

from settings.flat import replace
from settings.schema import SettingsError
from trainables.diffusion.settings import DiffusionSettings, LoggingSettings
from trainables.diffusion.system import Diffusion
from trainables.diffusion.tags import FIGURES, NOT_YET, TABLE, figure_tags, tags
from trainables.loop import fit
from trainables.run import LocalRun

MODALITIES = {
    "bravo": ("bravo",),
    "flair": ("flair",),
    "dual": ("t1_pre", "t1_gd"),
    "multi_modality": ("bravo", "flair", "t1_pre", "t1_gd"),
    "seg": (),
}

REGIONS = (
    *("tumor_loss", "background_loss", "tumor_bg_ratio"),
    *("tiny", "small", "medium", "large"),
)
TIMES = (
    *("Timestep/0.0-0.1", "Timestep/0.1-0.2", "Timestep/0.2-0.3", "Timestep/0.3-0.4"),
    *("Timestep/0.4-0.5", "Timestep/0.5-0.6", "Timestep/0.6-0.7", "Timestep/0.7-0.8"),
    *("Timestep/0.8-0.9", "Timestep/0.9-1.0"),
)
# Tables 1, 2, 4, 5, 6, 7, 10 and 11: what the diffusion trainer has in every mode.
EVERY = {
    *("Loss/MSE_train", "Loss/Total_train"),
    *("Loss/L1_val", "Loss/MSE_val", "Loss/Total_val"),
    *(f"regional/{name}" for name in REGIONS),
    *TIMES,
    *("training/grad_norm_avg", "training/grad_norm_max", "LR/Generator"),
    *("VRAM/allocated_GB", "VRAM/reserved_GB", "VRAM/max_allocated_GB"),
    *("FLOPs/TFLOPs_epoch", "FLOPs/TFLOPs_total"),
    *("test_best/MSE", "test_latest/MSE"),
    *(f"{test}/{tag}" for test in ("test_best", "test_latest") for tag in TIMES),
}
# Table 9 and the end of table 11: measures that there are not yet.
GENERATION = {
    *("Generation/KID_mean_train", "Generation/KID_std_train"),
    *("Generation/KID_mean_val", "Generation/KID_std_val"),
    *("Generation/CMMD_train", "Generation/CMMD_val"),
    *("Generation/extended_KID_mean_train", "Generation/extended_KID_std_train"),
    *("Generation/extended_KID_mean_val", "Generation/extended_KID_std_val"),
    *("Generation/extended_CMMD_train", "Generation/extended_CMMD_val"),
    *("test_best/FID", "test_best/KID_mean", "test_best/KID_std", "test_best/CMMD"),
    *("test_latest/FID", "test_latest/KID_mean", "test_latest/KID_std", "test_latest/CMMD"),
}
# Table 12 and the heatmap of table 5. The document has `Validation/worst_batch` for all but
# diffusion in table 12 and for diffusion alone in its settings.
FIGURE_TAGS = {
    *("loss/timestep_region_heatmap", "denoising_trajectory", "Generated_Images"),
    *("Validation/worst_batch", "test_best/worst_batch", "test_latest/worst_batch"),
}
DUAL_FIGURES = {"Generated_T1_Pre", "Generated_T1_Gd"}


def quality(dims, group):
    """Table 3, and table 11 with its two prefixes, which also have L1."""
    names = MODALITIES[group]
    by_image = {"PSNR", "MS-SSIM"} | ({"LPIPS"} if dims == 2 else set())
    whole = {"MS-SSIM-3D"} if dims == 3 else set()
    found = set()
    for prefix, more in {"Validation": set(), "test_best": {"L1"}, "test_latest": {"L1"}}.items():
        split = by_image | more
        found |= {f"{prefix}/{tag}" for tag in split | whole}
        found |= {f"{prefix}/{tag}_{name}" for tag in split for name in names}
    return found


def by_modality(dims, group):
    """The older names of table 3, and regions of table 4."""
    names = MODALITIES[group]
    kinds = ["msssim", "psnr", "boundary_sharpness"] + (["lpips"] if dims == 2 else [])
    if len(names) == 1:
        regions = {f"regional_{names[0]}/{name}" for name in REGIONS}
        return {f"metrics/{kind}" for kind in kinds} | regions
    return {f"metrics/{kind}_{name}" for kind in kinds for name in names}


def documented(dims, group):
    images = {"Loss/Perceptual_train"} if group != "seg" else set()
    return EVERY | images | quality(dims, group) | by_modality(dims, group)


def configured(dims=2, group="bravo", **more):
    values = {
        "model.spatial_dims": dims,
        "data.group": group,
        "condition.mode.enabled": group == "multi_modality",
        "metric.lpips.enabled": dims == 2,
        "train.count_flops": True,
    }
    own = {key.replace("__", "."): value for key, value in more.items()}
    return replace(DiffusionSettings(), {**values, **own})


def columns_of(settings):
    """The columns of a training with these settings on a GPU, and of both tests."""
    system = Diffusion()
    (phase,), metrics = system.phases(settings, None), system.metrics(settings, None)
    found = {f"train.vram_{name}_gb" for name in ("allocated", "reserved", "max")}
    found |= {"train.tflops", "train.tflops_total", "train.loss.validation_total"}
    found |= {f"train.{name}" for name in ("lr", "grad_norm", "grad_norm_mean", "loss.total")}
    found |= {f"train.loss.{name}" for name in phase.composite.terms}
    for place in ("val", "test_best", "test_latest"):
        found |= {f"{place}.{metric.name}" for metric in metrics}
        found |= {f"{place}.loss.{name}" for name in phase.composite.terms}
    return found


@pytest.mark.parametrize(("dims", "group"), list(itertools.product((2, 3), MODALITIES)))
def test_the_tags_are_the_documents(dims, group):
    settings = configured(dims, group)
    columns, table = columns_of(settings), tags(settings)
    assert set(table) <= columns, "a tag would show a column that there is not"
    written = [tag for column in columns for tag in table.get(column, ())]
    assert len(set(written)) == len(written), "two columns have one tag"
    assert set(written) == documented(dims, group)


def test_what_is_not_measured_yet_is_named_with_its_reason():
    written = set(every(configured())) | set(every(configured(group="dual")))
    assert set(NOT_YET) == GENERATION and not written & GENERATION
    assert all(NOT_YET.values())


def test_each_tag_shows_its_own_column():
    """A sample of each table: the pairs, not only the sets."""
    table = tags(configured())
    assert table["train.loss.total"] == ("Loss/Total_train",)
    assert table["train.loss.validation_total"] == ("Loss/Total_val",)
    assert table["val.loss.mse"] == ("Loss/MSE_val",)
    assert table["val.l1"] == ("Loss/L1_val",)
    expected = ("Validation/PSNR", "Validation/PSNR_bravo", "metrics/psnr")
    assert table["val.psnr_db"] == expected
    assert table["val.tumour_l1_tiny"] == ("regional/tiny", "regional_bravo/tiny")
    assert table["val.prediction_mse_t3"] == ("Timestep/0.3-0.4",)
    assert table["test_best.prediction_mse_t9"] == ("test_best/Timestep/0.9-1.0",)
    assert table["test_latest.loss.mse"] == ("test_latest/MSE",)
    assert table["train.grad_norm"] == ("training/grad_norm_max",)
    dual = tags(configured(group="dual"))
    assert dual["val.psnr_db_t1_gd"] == ("Validation/PSNR_t1_gd", "metrics/psnr_t1_gd")
    assert dual["val.boundary_sharpness_t1_pre"] == ("metrics/boundary_sharpness_t1_pre",)
    assert "val.loss.perceptual" not in table, "a tag of the compression trainers alone"


@pytest.mark.parametrize(
    ("switch", "lost"),
    [
        ("grad_norm", {"training/grad_norm_avg", "training/grad_norm_max"}),
        ("regional_losses", {f"{p}/{x}" for p in ("regional", "regional_bravo") for x in REGIONS}),
        ("msssim", {"Validation/MS-SSIM", "Validation/MS-SSIM_bravo", "metrics/msssim"}),
        ("psnr", {"Validation/PSNR", "Validation/PSNR_bravo", "metrics/psnr"}),
        ("lpips", {"Validation/LPIPS", "Validation/LPIPS_bravo", "metrics/lpips"}),
        ("boundary_sharpness", {"metrics/boundary_sharpness"}),
        ("worst_batch", {"Validation/worst_batch"}),
        ("flops", {"FLOPs/TFLOPs_epoch", "FLOPs/TFLOPs_total"}),
        (
            "timestep_losses",
            {f"{place}{tag}" for place in ("", "test_best/", "test_latest/") for tag in TIMES},
        ),
        ("timestep_region_losses", {"loss/timestep_region_heatmap"}),
        ("intermediate_steps", {"denoising_trajectory"}),
    ],
)
def test_a_switch_takes_its_tags_away(switch, lost):
    off = configured(**{f"logging__{switch}": False})
    assert set(every(configured())) - set(every(off)) == lost


def every(settings):
    found = [*tags(settings).values(), *figure_tags(settings).values()]
    return list(itertools.chain.from_iterable(found))


def test_single_modalities_have_one_switch():
    with_them = set(every(configured(group="dual")))
    without = set(every(configured(group="dual", logging__per_modality=False)))
    lost = {tag for tag in with_them if tag.endswith(("_t1_pre", "_t1_gd"))}
    assert with_them - without == lost
    assert {"Validation/PSNR_t1_gd", "test_best/L1_t1_pre", "metrics/psnr_t1_pre"} <= lost


def test_every_switch_is_read():
    names = set(LoggingSettings.__dataclass_fields__) - {"per_modality", "num_intermediate_steps"}
    assert {row.switch for row in (*TABLE, *FIGURES)} - {""} == names


@pytest.mark.parametrize("group", list(MODALITIES))
def test_the_figures_are_the_documents(group):
    found = figure_tags(configured(group=group))
    tagged = set(itertools.chain.from_iterable(found.values()))
    assert tagged == FIGURE_TAGS | (DUAL_FIGURES if group == "dual" else set())


@pytest.mark.slow
def test_a_training_draws_the_figures_under_their_tags(
    shared_cache, tmp_path, tensorboard_values
):
    """Of two channels: the images of each as well, and five states of the trajectory, in rows."""
    system = Diffusion()
    few = {"data.group": "dual", "train.steps": 2, "train.report_every": 2, "sampling.steps": 8}
    settings = replace(DiffusionSettings(), {**system.small, **few, "train.test": True})
    prepared = system.prepare(settings, shared_cache)
    fit(system, settings, LocalRun(tmp_path), prepared)
    images = {
        tag: value.image
        for tag, pairs in tensorboard_values(tmp_path).items()
        for _, value in pairs
        if value.HasField("image")
    }
    assert set(images) == FIGURE_TAGS | DUAL_FIGURES | {"val.samples"}
    side, cases = 16, 4
    size = {tag: (image.height, image.width) for tag, image in images.items()}
    assert size["Generated_Images"] == (side, 2 * cases * side)
    assert size["Generated_T1_Gd"] == (side, cases * side)
    assert size["denoising_trajectory"] == (5 * side, 2 * cases * side)


def test_a_distance_of_other_images_is_refused_before_the_first_step():
    settings = replace(DiffusionSettings(), {"metric.medicalnet.enabled": True})
    with pytest.raises(SettingsError, match=r"needs model.spatial_dims=3"):
        Diffusion().preflight(settings, None)
