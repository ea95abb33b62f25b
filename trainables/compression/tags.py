"""The TensorBoard tags that the source document has for its compression trainers, and which of our
columns each one shows: tables 1 to 4, 6 to 8 and 10 to 12 as one table.

Rows that other trainers have as well, and what the document leaves open, are in
`trainables.reporting.tags`. What a row needs is computed by settings of its own, such as
`discriminator.enabled`. Of table 3's `metrics/...`, a diffusion model's, the measure
`boundary_sharpness` is taken over.
"""

from __future__ import annotations

from settings.mri import SIZE_NAMES
from trainables.compression.settings import CompressionSettings
from trainables.reporting import tags as common
from trainables.reporting.tags import TESTS, Row, chosen

OVERLAPS = {
    "regional_dice": "dice",
    "regional_iou": "iou",
    **{f"regional_dice_{size}": f"dice_{size}" for size in SIZE_NAMES},
}
"""Our metric -> the last part of the document's tag."""

CODEBOOK = {
    "perplexity": "perplexity",
    "utilisation": "utilization",
    "dead_codes": "dead_codes",
    "entropy": "entropy",
    "perplexity_pct": "perplexity_pct",
}

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
    *common.QUALITY,
    Row("val.dice", "Validation/Dice", ("masks",)),
    Row("val.iou", "Validation/IoU", ("masks",)),
    *common.legacy("boundary_sharpness", "boundary_sharpness", (), "boundary_sharpness"),
    # 4. Regions
    *common.REGIONAL,
    *(Row(f"val.{x}", f"regional_seg/{tag}", ("masks",)) for x, tag in OVERLAPS.items()),
    # 6. Diagnostics of the training
    Row("train.grad_norm_mean", "training/grad_norm_g_avg", ("gan",), "grad_norm"),
    Row("train.grad_norm", "training/grad_norm_g_max", ("gan",), "grad_norm"),
    Row("train.critic.grad_norm_mean", "training/grad_norm_d_avg", ("gan",), "grad_norm"),
    Row("train.critic.grad_norm", "training/grad_norm_d_max", ("gan",), "grad_norm"),
    *common.GRAD_NORM,
    # 7. Learning rates
    Row("train.lr", "LR/Generator"),
    Row("train.critic.lr", "LR/Discriminator", ("gan",)),
    # 8. Codebook
    *(Row(f"val.codebook_{x}", f"Codebook/{tag}", ("vqvae",)) for x, tag in CODEBOOK.items()),
    # 10. Resources
    *common.RESOURCES,
    # 11. The test split
    *common.TESTED,
    *(
        Row(f"{test}.{column}", f"{test}/{tag}", ("masks",))
        for test in TESTS
        for column, tag in (("dice", "Dice"), ("iou", "IoU"))
    ),
)

FIGURES: tuple[Row, ...] = (
    # 12. The document has the volume's figure for VAE-3D and VQ-VAE-3D beside that of every kind.
    *common.WORST,
    Row("val.worst_batch", "Validation/WorstBatch_3D", ("3d", "not_dcae"), "worst_batch"),
)


def facts(settings: CompressionSettings) -> frozenset[str]:
    """The conditions that hold under the settings, the system's whole tree."""
    model = settings.model
    holds = common.facts(settings.data.group, model.spatial_dims, settings.metric)
    critic = "gan" if settings.discriminator.enabled else "no_gan"
    return holds | {model.kind, critic} | ({"not_dcae"} if model.kind != "dcae" else set())


def tags(settings: CompressionSettings) -> dict[str, tuple[str, ...]]:
    """Column -> the document's tags for it. Columns of a test are `test_best.<metric>` and
    `test_latest.<metric>`.
    """
    return chosen(TABLE, facts(settings), settings.data.group, settings.logging)


def figure_tags(settings: CompressionSettings) -> dict[str, tuple[str, ...]]:
    """The document's tags of the figures `val.worst_batch`, `test_best.worst_batch` and
    `test_latest.worst_batch`. A figure without a tag is not drawn.
    """
    return chosen(FIGURES, facts(settings), settings.data.group, settings.logging)
