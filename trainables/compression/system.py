"""System `compression`: medical images to latents and back, by a VAE, a VQ-VAE or a DC-AE, in 2-D
and 3-D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.mri.augment import AugmentSettings
from data.mri.batch_augment import BatchAugment, BatchAugmentSettings
from data.mri.dataset import DataSettings, Prepared, open_split, prepare
from losses.adversarial import idle_critic
from losses.compression import CriticSettings, LossSettings, critic_terms, terms
from metrics.compression import MetricSettings, compression_metrics
from metrics.ms_ssim import check_sides
from metrics.perceptual import missing
from models.autoencoders.build import build_autoencoder
from models.autoencoders.settings import PURE_WEIGHTS, ModelSettings
from models.discriminator import (
    DiscriminatorSettings,
    build_discriminator,
    judge_both,
    least_side,
)
from models.efficientnet import SHORTEST_SIDE
from settings.mri import channels_of
from trainables.api import (
    Built,
    Composite,
    Finding,
    HealthSettings,
    Loaders,
    Metric,
    OptimizerSettings,
    Phase,
    Settings,
    SettingsError,
    SystemBase,
    Tensors,
    TrainSettings,
)
from trainables.compression.profile import profile_cases, profile_step
from trainables.compression.tags import LoggingSettings, figure_tags, tags
from trainables.compression.use import encode_data, prepare_volumes, reconstruct
from trainables.stepping.optimizer import check_eps


@dataclass(frozen=True, kw_only=True)
class CompressionSettings(Settings):
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
    health: HealthSettings = field(default_factory=HealthSettings)
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
        if self.discriminator.enabled and min(space) < least_side(self.discriminator):
            raise SettingsError(
                f"the critic needs {least_side(self.discriminator)} pixels a side "
                f"(discriminator.layers={self.discriminator.layers}), not {min(space)}. Lower "
                "discriminator.layers."
            )
        if not model.seg_mode and sorted(space)[-2] < SHORTEST_SIDE:
            raise SettingsError(
                "the perceptual term, which validation measures also where it is off, needs "
                f"{SHORTEST_SIDE} px or more along two sides, and the samples have "
                f"{' x '.join(map(str, space))}. Use larger ones "
                f"(data.{'image_size' if len(space) == 2 else 'volume_size'})."
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


class Compression(SystemBase):
    """See `trainables.system.System` for what each member is."""

    name = "compression"
    Settings = CompressionSettings
    prepare_reads = ("data.*", "model.spatial_dims")
    changeable = ("augment.*", "batch_augment.*")
    small: Mapping[str, Any] = {
        "model.vae.widths": (8, 8),
        "discriminator.enabled": True,
        "discriminator.width": 4,
        "discriminator.layers": 1,
        "loss.adversarial.enabled": True,
        "data.image_size": 16,
        "data.slices": 12,
        "data.patients": (2, 1, 1),
        "data.validation_samples": 6,
        "train.batch_size": 2,
        "train.validation_batch_size": 4,
    }
    originals: Mapping[str, Any] = {"augment.kind": "none", "batch_augment.enabled": False}

    def prepare(self, settings: CompressionSettings, cache: Path) -> Prepared:
        return prepare(settings.data, cache, settings.model.spatial_dims)

    def build(self, settings: CompressionSettings, prepared: Prepared | None) -> Built:
        return _made(settings, channels_of(settings.data.group), load=True)

    def rebuild(self, settings: CompressionSettings, meta: Mapping[str, Any]) -> Built:
        """Without the weights to start from: those of the checkpoint follow."""
        return _made(settings, meta["channels"], load=False)

    def loaders(self, settings: CompressionSettings, prepared: Prepared) -> Loaders:
        regions = settings.loss.l1.regional.enabled
        train = open_split(prepared, "train", settings.augment, regions=regions)
        validation = open_split(prepared, "validation")
        test = open_split(prepared, "test")
        return Loaders(
            train,
            validation,
            BatchAugment(settings.batch_augment),
            notes=prepared.notes,
            warnings=prepared.warnings,
            test=test if len(test) else None,  # type: ignore[arg-type]  # map-style
        )

    def phases(self, settings: CompressionSettings, prepared: Prepared | None) -> Sequence[Phase]:
        composite = Composite(terms(settings), settings.loss)
        if not settings.discriminator.enabled:
            return [Phase("autoencoder", ("autoencoder",), compress, composite, shared=last_layer)]
        critic = Composite(critic_terms(settings), settings.critic, "critic")
        return [
            Phase(
                "autoencoder",
                ("autoencoder",),
                compress_and_ask,
                composite,
                shared=last_layer,
                shares_outputs=("reconstruction",),
                without={"adversarial": compress},
            ),
            Phase("critic", ("discriminator",), judge, critic, "critic_optimizer"),
        ]

    def metrics(
        self, settings: CompressionSettings, prepared: Prepared | None
    ) -> Sequence[Metric]:
        return compression_metrics(settings)

    def tensorboard_names(self, settings: CompressionSettings) -> Mapping[str, tuple[str, ...]]:
        return tags(settings)

    def tensorboard_figures(self, settings: CompressionSettings) -> Mapping[str, tuple[str, ...]]:
        return figure_tags(settings)

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        return side_by_side(batch["image"], prediction["reconstruction"])

    def preflight(self, settings: CompressionSettings, prepared: Prepared) -> Sequence[Finding]:
        idle = [Finding(text) for text in idle_critic(settings)]
        return [*idle, *(Finding(text, hopeless=True) for text in missing(settings))]

    def generate(
        self,
        settings: CompressionSettings,
        modules: Mapping[str, nn.Module],
        source: Path,
        target: Path,
    ) -> dict[str, float]:
        """Reconstructs the scans at `source`, a NIfTI file or folders of patients; see
        `trainables.compression.use.reconstruct`.
        """
        model: Any = modules["autoencoder"]
        return reconstruct(settings, model, source, target, side_by_side)

    def encode(
        self,
        settings: CompressionSettings,
        modules: Mapping[str, nn.Module],
        prepared: Prepared,
        splits: Sequence[str],
        source: Mapping[str, Any],
        output: Path | None,
    ) -> dict[str, Any]:
        model: Any = modules["autoencoder"]
        return encode_data(settings, model, prepared, splits, source, output)

    def prepare_volumes(
        self, settings: CompressionSettings, cache: Path
    ) -> tuple[CompressionSettings, Prepared]:
        return prepare_volumes(settings, cache)

    def profile_cases(
        self, settings: CompressionSettings, kinds: Sequence[str], sizes: Sequence[str]
    ) -> list[tuple[dict[str, Any], CompressionSettings]]:
        return profile_cases(settings, kinds, sizes)

    def profile_step(self, settings: CompressionSettings, steps: int) -> dict[str, Any]:
        return profile_step(self, settings, steps)


def _made(settings: CompressionSettings, channels: int, load: bool) -> Built:
    autoencoder = build_autoencoder(settings.model, channels, load=load)
    modules: dict[str, nn.Module] = {"autoencoder": autoencoder}
    if settings.discriminator.enabled:
        dims = settings.model.spatial_dims
        modules["discriminator"] = build_discriminator(settings.discriminator, channels, dims)
    return Built(modules=modules, meta={"channels": channels})


def compress(modules: Mapping[str, nn.Module], batch: Tensors, settings: Any) -> dict[str, Tensor]:
    """The reconstruction of a batch; in validation also that of the rounded latent, which is what
    a rate is paid for.
    """
    model: Any = modules["autoencoder"]
    prediction: dict[str, Tensor] = model(batch["image"])
    if not model.training:
        prediction |= model.quantise(prediction, settings.metric.rate_step)
    return prediction


def compress_and_ask(
    modules: Mapping[str, nn.Module], batch: Tensors, settings: Any
) -> dict[str, Tensor]:
    """The same, and what the critic says of the reconstruction."""
    prediction = compress(modules, batch, settings)
    logits = modules["discriminator"](prediction["reconstruction"])
    return {**prediction, "fake_logits": logits}


def judge(modules: Mapping[str, nn.Module], batch: Tensors, settings: Any) -> dict[str, Tensor]:
    """What the critic says of the images and of their reconstructions."""
    critic = modules["discriminator"]
    return judge_both(critic, batch["image"], batch["autoencoder.reconstruction"])


PICTURED = 8
"""Samples of a batch that are drawn."""


def side_by_side(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Rows of image, reconstruction and their absolute difference (times 4); of volumes the middle
    slice, of several channels each one. [B, C, *S] -> [3, 3 H, n W].
    """
    shown = [image.float(), reconstruction.float()]
    if image.ndim == 5:
        shown = [volume[:, :, volume.shape[2] // 2] for volume in shown]
    true, found = (images.flatten(0, 1)[:PICTURED].clamp(0.0, 1.0) for images in shown)
    rows = [true, found, (4.0 * (true - found).abs()).clamp(max=1.0)]
    grid = torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0)
    return grid.expand(3, -1, -1)


def last_layer(modules: Mapping[str, nn.Module]) -> Sequence[nn.Parameter]:
    """Where a balancer compares gradients."""
    model: Any = modules["autoencoder"]
    return model.last_layer()
