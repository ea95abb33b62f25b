"""The document's TensorBoard tags, typed from its tables, against what the table of tags gives for
the columns that each configuration has.
"""

from __future__ import annotations

import itertools
import string

import numpy as np
import pytest
import torch

from settings.flat import replace
from settings.mri import GROUPS
from trainables.compression.settings import CompressionSettings, LoggingSettings
from trainables.compression.system import Compression, side_by_side
from trainables.compression.tags import FIGURES, TABLE, figure_tags, tags

SIZES = ("tiny", "small", "medium", "large")
MODALITIES = {
    "bravo": ("bravo",),
    "flair": ("flair",),
    "dual": ("t1_pre", "t1_gd"),
    "multi_modality": ("bravo", "flair", "t1_pre", "t1_gd"),
    "seg": (),
}

# From tables 1, 2 and 4: beside what every trainer has.
TRAINER = {
    "vae": {"Loss/KL_train", "Loss/KL_val"},
    "vqvae": {"Loss/VQ_train", "Loss/VQ_val"}
    | {
        f"Codebook/{name}"
        for name in ("perplexity", "utilization", "dead_codes", "entropy", "perplexity_pct")
    },
    "dcae": set(),
}
IMAGES = {"Loss/L1_train", "Loss/Perceptual_train", "Loss/Perceptual_val"}
MASKS = {
    *("Loss/BCE_train", "Loss/Dice_train", "Loss/Boundary_train"),
    *("Loss/BCE_val", "Loss/Dice_val", "Loss/Boundary_val"),
    *("Validation/Dice", "Validation/IoU", "regional_seg/dice", "regional_seg/iou"),
    *(f"regional_seg/dice_{size}" for size in SIZES),
}
REGIONS = ("tumor_loss", "background_loss", "tumor_bg_ratio", *SIZES)
EVERY = {
    *("Loss/Generator_train", "Loss/Generator_val", "Loss/L1_val"),
    *("Validation/PSNR", "Validation/MS-SSIM", "LR/Generator"),
    *(f"regional/{name}" for name in REGIONS),
    *("FLOPs/TFLOPs_epoch", "FLOPs/TFLOPs_total"),
}
VRAM = {"VRAM/allocated_GB", "VRAM/reserved_GB", "VRAM/max_allocated_GB"}
GAN = {
    *("Loss/Discriminator", "Loss/Adversarial", "LR/Discriminator"),
    *("training/grad_norm_g_avg", "training/grad_norm_g_max"),
    *("training/grad_norm_d_avg", "training/grad_norm_d_max"),
}
NO_GAN = {"training/grad_norm_avg", "training/grad_norm_max"}


def quality(dims, group):
    """Table 3, and table 11 with its two prefixes."""
    names = MODALITIES[group]
    validation, test = {"PSNR", "MS-SSIM"}, {"L1", "PSNR", "MS-SSIM"}
    if dims == 3:
        validation.add("MS-SSIM-3D")
        test.add("MS-SSIM-3D")
    else:
        validation.add("LPIPS")
        test.add("LPIPS")
    if group == "seg":
        validation |= {"Dice", "IoU"}
        test |= {"Dice", "IoU"}
    split = {"MS-SSIM-3D", "Dice", "IoU"}
    for one in (validation, test):
        one |= {f"{tag}_{name}" for tag in one - split for name in names}
    prefixes = ("test_best", "test_latest")
    return {f"Validation/{tag}" for tag in validation} | {
        f"{prefix}/{tag}" for prefix in prefixes for tag in test
    }


def by_modality(group):
    """Boundary sharpness of table 3, and regions of table 4."""
    names = MODALITIES[group]
    if len(names) == 1:
        regions = {f"regional_{names[0]}/{name}" for name in REGIONS}
        return {"metrics/boundary_sharpness"} | regions
    return {f"metrics/boundary_sharpness_{name}" for name in names}


def documented(kind, dims, group, gan):
    found = EVERY | VRAM | TRAINER[kind] | (GAN if gan else NO_GAN)
    found |= MASKS if group == "seg" else IMAGES
    return found | quality(dims, group) | by_modality(group)


def configured(kind="vae", dims=2, group="bravo", gan=False, **more):
    values = {
        "model.kind": kind,
        "model.spatial_dims": dims,
        "model.seg_mode": group == "seg",
        "data.group": group,
        "discriminator.enabled": gan,
        "metric.lpips.enabled": dims == 2,
        "train.count_flops": True,
    }
    own = {key.replace("__", "."): value for key, value in more.items()}
    return replace(CompressionSettings(), {**values, **own})


def columns_of(settings):
    """The columns of a training with these settings on a GPU, and of both tests."""
    system = Compression()
    phases, metrics = system.phases(settings, None), system.metrics(settings, None)
    found = {f"train.vram_{name}_gb" for name in ("allocated", "reserved", "max")}
    found |= {"train.tflops", "train.tflops_total", "train.loss.validation_total"}
    for phase in phases:
        loss = phase.composite.prefix
        prefix = "train" if phase.optimizer == "optimizer" else f"train.{phase.name}"
        found |= {f"{prefix}.{name}" for name in ("lr", "grad_norm", "grad_norm_mean")}
        found.add(f"train.{loss}.total")
        for name in phase.composite.terms:
            found |= {f"train.{loss}.{name}", f"val.{loss}.{name}"}
    for place in ("val", "test_best", "test_latest"):
        found |= {f"{place}.{metric.name}" for metric in metrics}
    return found


CASES = [
    (kind, dims, group, gan)
    for kind, dims, gan in itertools.product(("vae", "vqvae", "dcae"), (2, 3), (False, True))
    for group in MODALITIES
    if (kind, group) != ("vae", "seg")
]


@pytest.mark.parametrize(("kind", "dims", "group", "gan"), CASES)
def test_the_tags_are_the_documents(kind, dims, group, gan):
    settings = configured(kind, dims, group, gan)
    columns, table = columns_of(settings), tags(settings)
    assert set(table) <= columns, "a tag would show a column that there is not"
    written = [tag for column in columns for tag in table.get(column, ())]
    assert len(set(written)) == len(written), "two columns have one tag"
    assert set(written) == documented(kind, dims, group, gan)


def test_each_tag_shows_its_own_column():
    """A sample of each table: the pairs, not only the sets."""
    table = tags(configured("vqvae", 2, "bravo", gan=True))
    assert table["train.loss.total"] == ("Loss/Generator_train",)
    assert table["train.critic.patch"] == ("Loss/Discriminator",)
    assert table["val.l1"] == ("Loss/L1_val",)
    assert table["val.psnr_db"] == ("Validation/PSNR", "Validation/PSNR_bravo")
    assert table["val.tumour_l1_tiny"] == ("regional/tiny", "regional_bravo/tiny")
    assert table["train.grad_norm"] == ("training/grad_norm_g_max",)
    assert table["train.critic.grad_norm_mean"] == ("training/grad_norm_d_avg",)
    assert table["train.critic.lr"] == ("LR/Discriminator",)
    assert table["val.codebook_utilisation"] == ("Codebook/utilization",)
    assert table["train.vram_max_gb"] == ("VRAM/max_allocated_GB",)
    assert table["test_latest.ms_ssim"] == ("test_latest/MS-SSIM", "test_latest/MS-SSIM_bravo")
    pooled = tags(configured(group="multi_modality"))
    assert pooled["val.psnr_db_flair"] == ("Validation/PSNR_flair",)
    assert pooled["val.psnr_db"] == ("Validation/PSNR",)
    masks = tags(configured("dcae", 3, "seg"))
    assert masks["val.regional_dice_large"] == ("regional_seg/dice_large",)
    assert masks["val.ms_ssim_3d"] == ("Validation/MS-SSIM-3D",)
    assert "val.lesion_l1" not in masks and "val.efficientnet_distance" not in pooled


@pytest.mark.parametrize(
    ("switch", "lost"),
    [
        ("grad_norm", {"training/grad_norm_avg", "training/grad_norm_max"}),
        ("regional_losses", {f"{p}/{x}" for p in ("regional", "regional_bravo") for x in REGIONS}),
        ("msssim", {"Validation/MS-SSIM", "Validation/MS-SSIM_bravo"}),
        ("psnr", {"Validation/PSNR", "Validation/PSNR_bravo"}),
        ("lpips", {"Validation/LPIPS", "Validation/LPIPS_bravo"}),
        ("boundary_sharpness", {"metrics/boundary_sharpness"}),
        ("worst_batch", {"Validation/worst_batch"}),
        ("flops", {"FLOPs/TFLOPs_epoch", "FLOPs/TFLOPs_total"}),
    ],
)
def test_a_switch_takes_its_tags_away(switch, lost):
    assert (
        set(every(configured())) - set(every(configured(**{f"logging__{switch}": False}))) == lost
    )


def every(settings):
    found = [*tags(settings).values(), *figure_tags(settings).values()]
    return list(itertools.chain.from_iterable(found))


def test_single_modalities_have_one_switch():
    with_them = set(every(configured(group="dual")))
    without = set(every(configured(group="dual", logging__per_modality=False)))
    lost = {tag for tag in with_them if tag.endswith(("_t1_pre", "_t1_gd"))}
    assert with_them - without == lost
    assert {"Validation/PSNR_t1_gd", "test_best/L1_t1_pre"} <= lost


def test_every_switch_is_read():
    names = set(LoggingSettings.__dataclass_fields__)
    assert {row.switch for row in (*TABLE, *FIGURES)} - {""} == names - {"per_modality"}


@pytest.mark.parametrize("kind", ["vae", "vqvae", "dcae"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_figures_are_the_documents(kind, dims):
    """Table 12."""
    expected = {"Validation/worst_batch", "test_best/worst_batch", "test_latest/worst_batch"}
    if dims == 3 and kind != "dcae":
        expected.add("Validation/WorstBatch_3D")
    found = figure_tags(configured(kind, dims))
    assert set(found) == {f"{x}.worst_batch" for x in ("val", "test_best", "test_latest")}
    assert set(itertools.chain.from_iterable(found.values())) == expected


def test_what_is_not_measured_has_no_tag():
    off = configured(metric__ms_ssim=False, metric__lpips__enabled=False)
    assert not [tag for tag in every(off) if "SSIM" in tag or "LPIPS" in tag]


def test_the_rows_name_nothing_but_modalities():
    for row in (*TABLE, *FIGURES):
        for text in (row.column, row.tag):
            fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
            assert fields <= {"m"}, row
    assert set(MODALITIES) <= set(GROUPS)


def test_the_figure_has_image_reconstruction_and_difference():
    generator = np.random.default_rng(0)
    true, made = torch.tensor(generator.uniform(-0.1, 1.1, (2, 9, 2, 5, 4, 6)))
    drawn = side_by_side(true, made)
    assert drawn.shape == (3, 3 * 4, 8 * 6)
    expected = np.clip(true[1, 1, 2].numpy(), 0.0, 1.0)  # the fourth image, its middle slice
    other = np.clip(made[1, 1, 2].numpy(), 0.0, 1.0)
    cell = drawn[0, :, 3 * 6 : 4 * 6].numpy()
    np.testing.assert_allclose(cell[:4], expected, atol=1e-6)
    np.testing.assert_allclose(cell[4:8], other, atol=1e-6)
    np.testing.assert_allclose(cell[8:], np.minimum(4 * np.abs(expected - other), 1), atol=1e-5)
