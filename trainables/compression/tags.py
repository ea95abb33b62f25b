"""The TensorBoard tags that the source document has for its compression trainers, and which of our
columns each one shows: tables 1 to 4, 6 to 8 and 10 to 12 as one table.

Tags are written beside the columns' own names, so a switch of `logging` takes away a tag and never
a column. What a row needs is computed by settings of its own: `metric.ms_ssim`,
`metric.lpips.enabled`, `discriminator.enabled`, `train.count_flops`.

Where the document leaves a choice:

- A mode of one modality has both tags, `Validation/PSNR` and `Validation/PSNR_bravo`,
  `regional/tiny` and `regional_bravo/tiny`: its tables mark the first for every trainer and the
  second beside it.
- `LPIPS` is LPIPS. Our `efficientnet_distance` is another measure and has no tag.
- `regional/tumor_loss` and those by size are means over pixels, as the document says; those over
  lesions (`lesion_l1_tiny`, 001-M25) have no tag.
- Of table 3's `metrics/...`, a diffusion model's, the measure `boundary_sharpness` is taken over,
  with the modality in its name where there are several.
- `test_best/{metric}_{modality}` is there for the metrics that have a column by modality.
- What a GPU alone has (`VRAM/...`) and a term that is switched off have no value, and no tag.
"""

from __future__ import annotations

from dataclasses import dataclass

from settings.mri import GROUPS, SIZE_NAMES
from trainables.compression.settings import CompressionSettings


@dataclass(frozen=True)
class Row:
    """One tag.

    Attributes:
        column: ours; of a figure its name, and where it is made. `_{m}` is the modality where
            there are several, and nothing where there is one.
        tag: the document's; `{m}` is the modality. A row with `{m}` stands for one row each.
        only: the conditions that must hold, of `facts`.
        switch: of `LoggingSettings`, "" for always.
    """

    column: str
    tag: str
    only: tuple[str, ...] = ()
    switch: str = ""


REGIONS = {
    "tumour_l1": "tumor_loss",
    "background_l1": "background_loss",
    "tumour_background_ratio": "tumor_bg_ratio",
    **{f"tumour_l1_{size}": size for size in SIZE_NAMES},
}
"""Our metric -> the last part of the document's tag."""

OVERLAPS = {
    "regional_dice": "dice",
    "regional_iou": "iou",
    **{f"regional_dice_{size}": f"dice_{size}" for size in SIZE_NAMES},
}

CODEBOOK = {
    "perplexity": "perplexity",
    "utilisation": "utilization",
    "dead_codes": "dead_codes",
    "entropy": "entropy",
    "perplexity_pct": "perplexity_pct",
}

TESTS = ("test_best", "test_latest")
"""The two checkpoints that are measured on the test split at the end."""

TABLE: tuple[Row, ...] = (
    # 1. Training losses
    Row("train.loss.total", "Loss/Generator_train"),
    Row("train.loss.l1", "Loss/L1_train", ("images",)),
    Row("train.loss.perceptual", "Loss/Perceptual_train", ("images",)),
    Row("train.loss.kl", "Loss/KL_train", ("vae",)),
    Row("train.loss.vq", "Loss/VQ_train", ("vqvae",)),
    Row("train.critic.patch", "Loss/Discriminator", ("gan",)),
    Row("train.loss.adversarial", "Loss/Adversarial", ("gan",)),
    Row("train.loss.bce", "Loss/BCE_train", ("masks",)),
    Row("train.loss.dice", "Loss/Dice_train", ("masks",)),
    Row("train.loss.boundary", "Loss/Boundary_train", ("masks",)),
    # 2. Validation losses
    Row("train.loss.validation_total", "Loss/Generator_val"),
    Row("val.l1", "Loss/L1_val"),
    Row("val.loss.perceptual", "Loss/Perceptual_val", ("images",)),
    Row("val.loss.kl", "Loss/KL_val", ("vae",)),
    Row("val.loss.vq", "Loss/VQ_val", ("vqvae",)),
    Row("val.loss.bce", "Loss/BCE_val", ("masks",)),
    Row("val.loss.dice", "Loss/Dice_val", ("masks",)),
    Row("val.loss.boundary", "Loss/Boundary_val", ("masks",)),
    # 3. Validation quality
    Row("val.psnr_db", "Validation/PSNR", (), "psnr"),
    Row("val.psnr_db_{m}", "Validation/PSNR_{m}", (), "psnr"),
    Row("val.ms_ssim", "Validation/MS-SSIM", ("ms_ssim",), "msssim"),
    Row("val.ms_ssim_{m}", "Validation/MS-SSIM_{m}", ("ms_ssim",), "msssim"),
    Row("val.ms_ssim_3d", "Validation/MS-SSIM-3D", ("3d", "ms_ssim"), "msssim"),
    Row("val.lpips", "Validation/LPIPS", ("2d", "lpips"), "lpips"),
    Row("val.lpips_{m}", "Validation/LPIPS_{m}", ("2d", "lpips"), "lpips"),
    Row("val.dice", "Validation/Dice", ("masks",)),
    Row("val.iou", "Validation/IoU", ("masks",)),
    Row(
        "val.boundary_sharpness",
        "metrics/boundary_sharpness",
        ("one_modality",),
        "boundary_sharpness",
    ),
    Row(
        "val.boundary_sharpness_{m}",
        "metrics/boundary_sharpness_{m}",
        ("several_modalities",),
        "boundary_sharpness",
    ),
    # 4. Regions
    *(Row(f"val.{x}", f"regional/{tag}", (), "regional_losses") for x, tag in REGIONS.items()),
    *(
        Row(f"val.{x}", f"regional_{{m}}/{tag}", ("one_modality",), "regional_losses")
        for x, tag in REGIONS.items()
    ),
    *(Row(f"val.{x}", f"regional_seg/{tag}", ("masks",)) for x, tag in OVERLAPS.items()),
    # 6. Diagnostics of the training
    Row("train.grad_norm_mean", "training/grad_norm_g_avg", ("gan",), "grad_norm"),
    Row("train.grad_norm", "training/grad_norm_g_max", ("gan",), "grad_norm"),
    Row("train.critic.grad_norm_mean", "training/grad_norm_d_avg", ("gan",), "grad_norm"),
    Row("train.critic.grad_norm", "training/grad_norm_d_max", ("gan",), "grad_norm"),
    Row("train.grad_norm_mean", "training/grad_norm_avg", ("no_gan",), "grad_norm"),
    Row("train.grad_norm", "training/grad_norm_max", ("no_gan",), "grad_norm"),
    # 7. Learning rates
    Row("train.lr", "LR/Generator"),
    Row("train.critic.lr", "LR/Discriminator", ("gan",)),
    # 8. Codebook
    *(Row(f"val.codebook_{x}", f"Codebook/{tag}", ("vqvae",)) for x, tag in CODEBOOK.items()),
    # 10. Resources
    Row("train.vram_allocated_gb", "VRAM/allocated_GB"),
    Row("train.vram_reserved_gb", "VRAM/reserved_GB"),
    Row("train.vram_max_gb", "VRAM/max_allocated_GB"),
    Row("train.tflops", "FLOPs/TFLOPs_epoch", (), "flops"),
    Row("train.tflops_total", "FLOPs/TFLOPs_total", (), "flops"),
    # 11. The test split
    *(
        Row(f"{test}.{column}", f"{test}/{tag}", only)
        for test in TESTS
        for column, tag, only in (
            ("l1", "L1", ()),
            ("l1_{m}", "L1_{m}", ()),
            ("ms_ssim", "MS-SSIM", ("ms_ssim",)),
            ("ms_ssim_{m}", "MS-SSIM_{m}", ("ms_ssim",)),
            ("ms_ssim_3d", "MS-SSIM-3D", ("3d", "ms_ssim")),
            ("psnr_db", "PSNR", ()),
            ("psnr_db_{m}", "PSNR_{m}", ()),
            ("lpips", "LPIPS", ("2d", "lpips")),
            ("lpips_{m}", "LPIPS_{m}", ("2d", "lpips")),
            ("dice", "Dice", ("masks",)),
            ("iou", "IoU", ("masks",)),
        )
    ),
)

FIGURES: tuple[Row, ...] = (
    # 12. The document has the volume's figure for VAE-3D and VQ-VAE-3D beside that of every kind.
    Row("val.worst_batch", "Validation/worst_batch", (), "worst_batch"),
    Row("val.worst_batch", "Validation/WorstBatch_3D", ("3d", "not_dcae"), "worst_batch"),
    *(Row(f"{test}.worst_batch", f"{test}/worst_batch") for test in TESTS),
)


def facts(settings: CompressionSettings) -> frozenset[str]:
    """The conditions that hold under the settings, the system's whole tree."""
    model, metric, group = settings.model, settings.metric, settings.data.group
    conditions = {
        model.kind,
        f"{model.spatial_dims}d",
        "masks" if model.seg_mode else "images",
        "gan" if settings.discriminator.enabled else "no_gan",
    }
    if group != "seg":
        conditions.add("one_modality" if len(GROUPS[group]) == 1 else "several_modalities")
    extras = {
        "not_dcae": model.kind != "dcae",
        "ms_ssim": metric.ms_ssim,
        "lpips": metric.lpips.enabled,
    }
    return frozenset(conditions.union(name for name, holds in extras.items() if holds))


def tags(settings: CompressionSettings) -> dict[str, tuple[str, ...]]:
    """Column -> the document's tags for it. Columns of a test are `test_best.<metric>` and
    `test_latest.<metric>`.
    """
    return _chosen(TABLE, settings)


def figure_tags(settings: CompressionSettings) -> dict[str, tuple[str, ...]]:
    """The document's tags of the figures `val.worst_batch`, `test_best.worst_batch` and
    `test_latest.worst_batch`. A figure without a tag is not drawn.
    """
    return _chosen(FIGURES, settings)


def _chosen(rows: tuple[Row, ...], settings: CompressionSettings) -> dict[str, tuple[str, ...]]:
    holds, group = facts(settings), settings.data.group
    columns: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if not holds.issuperset(row.only):
            continue
        if row.switch and not getattr(settings.logging, row.switch):
            continue
        for column, tag in _by_modality(row, group, settings.logging.per_modality):
            columns[column] = (*columns.get(column, ()), tag)
    return columns


def _by_modality(row: Row, group: str, wanted: bool) -> list[tuple[str, str]]:
    """(column, tag) of a row, for each modality where the tag names one; masks have none."""
    if "{m}" not in row.tag:
        return [(row.column, row.tag)]
    if group == "seg" or not wanted:
        return []
    names = GROUPS[group]
    column = row.column if len(names) > 1 else row.column.replace("_{m}", "")
    return [(column.format(m=name), row.tag.format(m=name)) for name in names]
