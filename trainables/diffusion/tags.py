"""The TensorBoard tags that the source document has for its diffusion trainer, and which of our
columns each one shows: tables 1 to 7 and 10 to 12 as one table.

Rows that other trainers have as well, and what the document leaves open, are in
`trainables.reporting.tags`. Here the document leaves open, or says twice:

- Images are compared (`Validation/...`, `metrics/...`, `regional/...`, `Loss/L1_val`) as clean
  estimates of fixed pairs of an image and a noise level.
- The heatmap is `training/timestep_region_heatmap` in its text and `loss/timestep_region_heatmap`
  in its table of tags, which says of itself that it was verified: the second one.
- `MSE` is the training's error, of what is predicted, also of the test split.
- `metrics/...` has rows of the modes bravo and dual; others go by the number of their modalities.
"""

from __future__ import annotations

from trainables.diffusion.settings import DiffusionSettings
from trainables.reporting import tags as common
from trainables.reporting.tags import TESTS, Row, chosen

TIMES = {f"prediction_mse_t{i}": f"Timestep/{i / 10:.1f}-{(i + 1) / 10:.1f}" for i in range(10)}
"""Our metric -> the document's tag, or its last part."""

TABLE: tuple[Row, ...] = (
    # 1. Training losses
    Row("train.loss.perceptual", "Loss/Perceptual_train", ("images",)),
    Row("train.loss.mse", "Loss/MSE_train"),
    Row("train.loss.total", "Loss/Total_train"),
    # 2. Validation losses
    Row("val.l1", "Loss/L1_val"),
    Row("val.loss.mse", "Loss/MSE_val"),
    Row("train.loss.validation_total", "Loss/Total_val"),
    # 3. Validation quality, twice
    *common.QUALITY,
    *common.legacy("ms_ssim", "msssim", ("ms_ssim",), "msssim"),
    *common.legacy("psnr_db", "psnr", (), "psnr"),
    *common.legacy("lpips", "lpips", ("2d", "lpips"), "lpips"),
    *common.legacy("boundary_sharpness", "boundary_sharpness", (), "boundary_sharpness"),
    # 4. Regions
    *common.REGIONAL,
    # 5. Times
    *(Row(f"val.{x}", tag, (), "timestep_losses") for x, tag in TIMES.items()),
    # 6. Diagnostics of the training
    *common.GRAD_NORM,
    # 7. Learning rates
    Row("train.lr", "LR/Generator"),
    # 10. Resources
    *common.RESOURCES,
    # 11. The test split
    *common.TESTED,
    *(Row(f"{test}.loss.mse", f"{test}/MSE") for test in TESTS),
    *(
        Row(f"{test}.{x}", f"{test}/{tag}", (), "timestep_losses")
        for test in TESTS
        for x, tag in TIMES.items()
    ),
)

FIGURES: tuple[Row, ...] = (
    # 5.
    Row("val.heatmap", "loss/timestep_region_heatmap", (), "timestep_region_losses"),
    # 12.
    *common.WORST,
    Row("generated.trajectory", "denoising_trajectory", (), "intermediate_steps"),
    Row("generated.generated", "Generated_Images"),
    Row("generated.generated_t1_pre", "Generated_T1_Pre", ("dual",)),
    Row("generated.generated_t1_gd", "Generated_T1_Gd", ("dual",)),
)

_EARLY = ("KID_mean", "KID_std", "CMMD")

NOT_YET: dict[str, str] = dict.fromkeys(
    (
        *(
            f"Generation/{extended}{name}_{split}"
            for extended in ("", "extended_")
            for name in _EARLY
            for split in ("train", "val")
        ),
        *(f"{test}/{name}" for test in TESTS for name in ("FID", *_EARLY)),
    ),
    "distances between distributions of generated and of real images are not measured yet",
)
"""The document's tags of table 9 and of the end of table 11 that no column of ours stands behind:
tag -> why.
"""


def facts(settings: DiffusionSettings) -> frozenset[str]:
    """The conditions that hold under the settings, the system's whole tree."""
    group, dims = settings.data.group, settings.model.spatial_dims
    holds = common.facts(group, dims, settings.metric) | {"no_gan"}
    return holds | ({"dual"} if group == "dual" else set())


def tags(settings: DiffusionSettings) -> dict[str, tuple[str, ...]]:
    """Column -> the document's tags for it. Columns of a test are `test_best.<metric>` and
    `test_latest.<metric>`.
    """
    return chosen(TABLE, facts(settings), settings.data.group, settings.logging)


def figure_tags(settings: DiffusionSettings) -> dict[str, tuple[str, ...]]:
    """Figure -> the document's tags for it. One without a tag has its own name, but for the worst
    batch, which is not drawn then.
    """
    return chosen(FIGURES, facts(settings), settings.data.group, settings.logging)
