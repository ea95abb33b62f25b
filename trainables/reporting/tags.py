"""TensorBoard tags that a document has for trainers of medical images, as tables: a row is a tag
and the column of ours that it shows. What several systems have in common is here; each has its
own rows beside its code, and puts its table together.

Tags are written beside the columns' own names, so a switch of `logging` takes away a tag and never
a column. What a row needs is computed by settings of its own: `metric.ms_ssim`,
`metric.lpips.enabled`, `train.count_flops`.

Where the document leaves a choice:

- A mode of one modality has both tags, `Validation/PSNR` and `Validation/PSNR_bravo`,
  `regional/tiny` and `regional_bravo/tiny`: its tables mark the first for every trainer and the
  second beside it.
- `LPIPS` is LPIPS. Our `efficientnet_distance` is another measure and has no tag.
- `regional/tumor_loss` and those by size are means over pixels, as the document says; those over
  lesions (`lesion_l1_tiny`, 001-M25) have no tag.
- Of table 3's `metrics/...` the modality is in the name where there are several.
- `test_best/{metric}_{modality}` is there for the metrics that have a column by modality.
- What a GPU alone has (`VRAM/...`) and a term that is switched off have no value, and no tag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from metrics.perceptual import Distances
from settings.mri import GROUPS, MASK, SIZE_NAMES
from settings.schema import Settings, setting


@dataclass(frozen=True, kw_only=True)
class LoggingSettings(Settings):
    """Switches of the document's tags that are written beside our columns; its
    `training.logging.*`.
    """

    grad_norm: bool = setting(True, "training/grad_norm_*")
    regional_losses: bool = setting(True, "regional/* and regional_{modality}/*")
    msssim: bool = setting(True, "Validation/MS-SSIM*")
    psnr: bool = setting(True, "Validation/PSNR*")
    lpips: bool = setting(True, "Validation/LPIPS*, where metric.lpips.enabled measures it")
    boundary_sharpness: bool = setting(True, "metrics/boundary_sharpness*")
    per_modality: bool = setting(True, "tags of single modalities, *_{modality}")
    worst_batch: bool = setting(True, "Validation/worst_batch: the images with the highest loss")
    flops: bool = setting(True, "FLOPs/*, where train.count_flops counts them")


@dataclass(frozen=True)
class Row:
    """One tag.

    Attributes:
        column: ours; of a figure its name, and where it is made. `_{m}` is the modality where
            there are several, and nothing where there is one.
        tag: the document's; `{m}` is the modality. A row with `{m}` stands for one row each.
        only: the conditions that must hold, of `facts` and of the system's own.
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

TESTS = ("test_best", "test_latest")
"""The two checkpoints that are measured on the test split at the end."""

# 3. Validation quality
QUALITY: tuple[Row, ...] = (
    Row("val.psnr_db", "Validation/PSNR", (), "psnr"),
    Row("val.psnr_db_{m}", "Validation/PSNR_{m}", (), "psnr"),
    Row("val.ms_ssim", "Validation/MS-SSIM", ("ms_ssim",), "msssim"),
    Row("val.ms_ssim_{m}", "Validation/MS-SSIM_{m}", ("ms_ssim",), "msssim"),
    Row("val.ms_ssim_3d", "Validation/MS-SSIM-3D", ("3d", "ms_ssim"), "msssim"),
    Row("val.lpips", "Validation/LPIPS", ("2d", "lpips"), "lpips"),
    Row("val.lpips_{m}", "Validation/LPIPS_{m}", ("2d", "lpips"), "lpips"),
)

# 4. Regions
REGIONAL: tuple[Row, ...] = (
    *(Row(f"val.{x}", f"regional/{tag}", (), "regional_losses") for x, tag in REGIONS.items()),
    *(
        Row(f"val.{x}", f"regional_{{m}}/{tag}", ("one_modality",), "regional_losses")
        for x, tag in REGIONS.items()
    ),
)

# 6. Diagnostics of a training of one phase
GRAD_NORM: tuple[Row, ...] = (
    Row("train.grad_norm_mean", "training/grad_norm_avg", ("no_gan",), "grad_norm"),
    Row("train.grad_norm", "training/grad_norm_max", ("no_gan",), "grad_norm"),
)

# 10. Resources
RESOURCES: tuple[Row, ...] = (
    Row("train.vram_allocated_gb", "VRAM/allocated_GB"),
    Row("train.vram_reserved_gb", "VRAM/reserved_GB"),
    Row("train.vram_max_gb", "VRAM/max_allocated_GB"),
    Row("train.tflops", "FLOPs/TFLOPs_epoch", (), "flops"),
    Row("train.tflops_total", "FLOPs/TFLOPs_total", (), "flops"),
)

# 11. The test split
TESTED: tuple[Row, ...] = tuple(
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
    )
)

# 12. Of the worst batch; the document says "diffusion only" in one place and all but diffusion in
# another: every system has it.
WORST: tuple[Row, ...] = (
    Row("val.worst_batch", "Validation/worst_batch", (), "worst_batch"),
    *(Row(f"{test}.worst_batch", f"{test}/worst_batch") for test in TESTS),
)


def legacy(column: str, name: str, only: tuple[str, ...], switch: str) -> tuple[Row, Row]:
    """The two rows of a measure of table 3's `metrics/...`, with and without a modality."""
    return (
        Row(f"val.{column}", f"metrics/{name}", ("one_modality", *only), switch),
        Row(
            f"val.{column}_{{m}}", f"metrics/{name}_{{m}}", ("several_modalities", *only), switch
        ),
    )


class MetricNode(Distances, Protocol):
    @property
    def ms_ssim(self) -> bool: ...


def facts(group: str, dims: int, metric: MetricNode) -> frozenset[str]:
    """The conditions of the common rows that hold.

    Args:
        group: of `settings.mri.GROUPS`.
    """
    conditions = {f"{dims}d", "masks" if group == MASK else "images"}
    if group != MASK:
        conditions.add("one_modality" if len(GROUPS[group]) == 1 else "several_modalities")
    extras = {"ms_ssim": metric.ms_ssim, "lpips": metric.lpips.enabled}
    return frozenset(conditions.union(name for name, holds in extras.items() if holds))


def chosen(
    rows: Iterable[Row], holds: Collection[str], group: str, logging: LoggingSettings
) -> dict[str, tuple[str, ...]]:
    """Column -> its tags, of the rows whose conditions hold and whose switch is on."""
    columns: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if not set(row.only) <= set(holds):
            continue
        if row.switch and not getattr(logging, row.switch):
            continue
        for column, tag in _by_modality(row, group, logging.per_modality):
            columns[column] = (*columns.get(column, ()), tag)
    return columns


def _by_modality(row: Row, group: str, wanted: bool) -> list[tuple[str, str]]:
    """(column, tag) of a row, for each modality where the tag names one; masks have none."""
    if "{m}" not in row.tag:
        return [(row.column, row.tag)]
    if group == MASK or not wanted:
        return []
    names = GROUPS[group]
    column = row.column if len(names) > 1 else row.column.replace("_{m}", "")
    return [(column.format(m=name), row.tag.format(m=name)) for name in names]
