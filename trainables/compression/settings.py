"""The settings of system `compression`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from data.mri.augment import AugmentSettings
from data.mri.batch_augment import BatchAugmentSettings
from data.mri.dataset import DataSettings
from losses.adversarial import CriticSettings
from losses.compression import LossSettings
from metrics.codebook import CodebookHealthSettings
from metrics.compression import MetricSettings
from metrics.ms_ssim import check_sides
from models.autoencoders.settings import PURE_WEIGHTS, ModelSettings
from models.discriminator import DiscriminatorSettings
from models.efficientnet import SHORTEST_SIDE
from trainables.adversarial import check_critic
from trainables.api import (
    OptimizerSettings,
    SettingsError,
    SystemSettings,
    TrainSettings,
)
from trainables.optimizing.optimizer import check_eps
from trainables.reporting.tags import LoggingSettings


@dataclass(frozen=True, kw_only=True)
class CompressionSettings(SystemSettings):
    """The defaults are the demo: a CPU-sized VAE of 2-D slices. Every kind in 2-D and 3-D is
    CPU-sized until a preset says otherwise.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    batch_augment: BatchAugmentSettings = field(default_factory=BatchAugmentSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    health: CodebookHealthSettings = field(default_factory=CodebookHealthSettings)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=2e-3, weight_decay=0.0, warmup=0.05, final=0.01
        )
    )
    critic_optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=5e-4, weight_decay=0.0, warmup=0.05, final=0.01
        )
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=200, batch_size=8, report_every=40, validation_batch_size=16
        )
    )

    def check(self) -> None:
        model, data = self.model, self.data
        if model.seg_mode != (data.group == "seg"):
            raise SettingsError(
                "model.seg_mode is for masks and only for them: it is "
                f"{str(model.seg_mode).lower()} with data.group={data.group}. Set "
                f"model.seg_mode={str(data.group == 'seg').lower()}, or another data.group."
            )
        check_eps(self.optimizer, "optimizer", getattr(torch, PURE_WEIGHTS[model.pure_weights]))
        space = data.space(model.spatial_dims)
        model.latent_shape(space)
        size = f"data.{'image_size' if len(space) == 2 else 'volume_size'}"
        check_critic(self.discriminator, min(space), size)
        if not model.seg_mode and sorted(space)[-2] < SHORTEST_SIDE:
            raise SettingsError(
                "the perceptual term, which validation measures also where it is off, needs "
                f"{SHORTEST_SIDE} px or more along two sides, and the samples have "
                f"{' x '.join(map(str, space))}. Use larger ones ({size})."
            )
        if self.metric.ms_ssim:
            check_sides(space)
        if self.train.precision == "fp16" and model.pure_weights != "no":
            raise SettingsError(
                "train.precision=fp16 scales the gradients, and torch can unscale those of fp32 "
                f"parameters alone, not of model.pure_weights={model.pure_weights}. Set "
                "train.precision=no, or model.pure_weights=no."
            )
        if self.batch_augment.enabled and data.group == "seg":
            raise SettingsError(
                "batch_augment.enabled mixes images, and data.group=seg has masks, which are no "
                "masks when they are mixed (001-M26). Set batch_augment.enabled=false."
            )
