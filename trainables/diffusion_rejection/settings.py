"""The settings of the head of rejection sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.mri.augment import AugmentSettings
from losses.diffusion_rejection import LossSettings
from models.diffusion.rejection_head import HeadSettings
from trainables.api import OptimizerSettings, Settings, SystemSettings, TrainSettings, setting


@dataclass(frozen=True, kw_only=True)
class BaseSettings(Settings):
    checkpoint: str = setting(
        "",
        "a training of diffusion with a UNet, not of latents (its best is taken), or a checkpoint",
    )


@dataclass(frozen=True, kw_only=True)
class SampleSettings(Settings):
    """The generated images, made once. Their seeds are of their split alone."""

    train: int = setting(256, "to train on; the document has 5000", low=1, high=1_000_000)
    held_out: int = setting(
        128, "to validate on, and as many to test on; no more than there are real ones", low=1
    )
    steps: int = setting(25, "of the sampler", low=1, high=100_000)
    seed: int = setting(0, "of the generated images", low=0)


@dataclass(frozen=True, kw_only=True)
class RejectionHeadSettings(SystemSettings):
    """The defaults are the demo."""

    diffusion: BaseSettings = field(default_factory=BaseSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    samples: SampleSettings = field(default_factory=SampleSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    augment: AugmentSettings = field(
        # the law that the diffusion was trained on
        default_factory=lambda: AugmentSettings(kind="diffusion")
    )
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=3e-4, weight_decay=1e-7, warmup=0.05)
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=300, batch_size=32, report_every=100, validation_batch_size=64, ema_decay=0.0
        )
    )
