"""The settings of system `diffusion`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from data.mri.augment import AugmentSettings
from data.mri.dataset import DataSettings
from losses.diffusion import LossSettings
from metrics.diffusion import MetricSettings
from metrics.diffusion_signs import DiffusionHealthSettings
from metrics.ms_ssim import check_sides
from models.diffusion.conditions import ModeSettings, SizeBinSettings
from models.diffusion.regularisers import RegulariserSettings
from models.diffusion.score_aug.settings import ScoreAugSettings
from models.diffusion.settings import ControlSettings, ModelSettings
from models.diffusion.spaces import SPACES, SpaceSettings
from models.diffusion.strategies.guidance import check_guidance
from models.diffusion.strategies.settings import (
    RflowSettings,
    SamplingSettings,
    StrategySettings,
)
from models.efficientnet import SHORTEST_SIDE
from settings.mri import MASK
from trainables.api import (
    OptimizerSettings,
    ScheduleSettings,
    Settings,
    SettingsError,
    SystemSettings,
    TrainSettings,
    setting,
)
from trainables.reporting import tags


@dataclass(frozen=True, kw_only=True)
class MaskSettings(Settings):
    """The lesion mask as a condition image: 1 in lesions, -1 outside, 0 where it is not given."""

    enabled: bool = setting(False, "images are made under their lesion mask")
    enters: str = setting(
        "bit_planes",
        "in latents: the bits of every cell through a learned reduction, or the latent of an "
        "encoder of masks; other spaces take the mask in their own arrangement",
        choices=("bit_planes", "encoder"),
    )
    encoder: str = setting(
        "", "enters=encoder: a training or checkpoint of an autoencoder of masks"
    )
    dropout: float = setting(
        0.0,
        "share of the training samples whose mask is not given; guidance needs some (001-M21)",
        low=0.0,
        high=1.0,
    )

    def check(self) -> None:
        is_encoded = self.enters == "encoder"
        if self.enabled and is_encoded and not self.encoder:
            raise SettingsError(
                "condition.mask.enters=encoder gives masks to the autoencoder of masks that "
                "condition.mask.encoder names, and it names none. Set it to a training of one, or "
                "condition.mask.enters=bit_planes."
            )
        if self.encoder and not (self.enabled and is_encoded):
            raise SettingsError(
                f"condition.mask.encoder={self.encoder} is read with condition.mask.enabled=true "
                "and condition.mask.enters=encoder alone. Set both, or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class LeadingSettings(Settings):
    """In training a sample keeps a random number of leading channels of its latent: noisy latent,
    noise and prediction are 0 behind them (DC-AE 1.5, arXiv 2508.00413).
    """

    enabled: bool = setting(
        False, "mask channels of latents in training; structured latents need it"
    )
    min_channels: int = setting(16, "the fewest channels that are kept", low=1, high=1024)
    channel_step: int = setting(4, "between two numbers of channels", low=1, high=1024)

    def options(self, channels: int) -> tuple[int, ...]:
        """The numbers of channels to draw from, ascending; the last is all of them."""
        return (*range(self.min_channels, channels, self.channel_step), channels)


@dataclass(frozen=True, kw_only=True)
class ModeNode(ModeSettings):
    enabled: bool = setting(False, "the modality is told to the network")
    batches: str = setting(
        "mixed",
        "of which modalities a batch is: of all; of one, in a shuffled order of the batches "
        "(grouped); or of one, and all of a modality before the next (in_turn, the document's "
        "form, 001-M16)",
        choices=("mixed", "grouped", "in_turn"),
    )

    def check(self) -> None:
        if self.batches != "mixed" and not self.enabled:
            raise SettingsError(
                f"condition.mode.batches={self.batches} makes batches of one modality, where "
                "there are several: with data.group=multi_modality and "
                "condition.mode.enabled=true. Set both, or condition.mode.batches=mixed."
            )


@dataclass(frozen=True, kw_only=True)
class SizesNode(SizeBinSettings):
    enabled: bool = setting(False, "counts of lesions by size are told to the network")


@dataclass(frozen=True, kw_only=True)
class ConditionSettings(Settings):
    """What an image is made under."""

    mask: MaskSettings = field(default_factory=MaskSettings)
    mode: ModeNode = field(default_factory=ModeNode)
    sizes: SizesNode = field(default_factory=SizesNode)

    @property
    def dropout(self) -> float:
        """Share of the training samples without any condition: each is left out by a draw of its
        own. 0 where there is none.
        """
        dropouts = [node.dropout for node in (self.mask, self.mode, self.sizes) if node.enabled]
        return math.prod(dropouts) if dropouts else 0.0

    @property
    def is_any(self) -> bool:
        """Whether there is a condition."""
        return self.mask.enabled or self.mode.enabled or self.sizes.enabled


@dataclass(frozen=True, kw_only=True)
class LoggingSettings(tags.LoggingSettings):
    """The switches that a trainer of diffusion has beside those of every one."""

    timestep_losses: bool = setting(True, "Timestep/*, and those of the test split")
    timestep_region_losses: bool = setting(True, "loss/timestep_region_heatmap")
    intermediate_steps: bool = setting(True, "denoising_trajectory")
    num_intermediate_steps: int = setting(
        5, "states that the trajectory shows, from noise to image", low=2, high=50
    )


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(SystemSettings):
    """The defaults are the demo: rectified flow on slices, with a UNet of a CPU's size."""

    model: ModelSettings = field(default_factory=ModelSettings)
    strategy: StrategySettings = field(
        # log-SNRs of -6 to 6, at which the clean estimate is judged, are within 1.7 deviations
        default_factory=lambda: StrategySettings(rflow=RflowSettings(std=1.8))
    )
    progress: ScheduleSettings = field(
        default_factory=lambda: ScheduleSettings(kind="warmup", start=0.0, end=0.1)
    )
    space: SpaceSettings = field(default_factory=SpaceSettings)
    augmented_diffusion: LeadingSettings = field(default_factory=LeadingSettings)
    condition: ConditionSettings = field(default_factory=ConditionSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(steps=10))
    loss: LossSettings = field(default_factory=LossSettings)
    regulariser: RegulariserSettings = field(default_factory=RegulariserSettings)
    score_aug: ScoreAugSettings = field(default_factory=ScoreAugSettings)
    data: DataSettings = field(default_factory=lambda: DataSettings(validation_samples=16))
    augment: AugmentSettings = field(
        # noise, blur and bends would be made, too
        default_factory=lambda: AugmentSettings(kind="diffusion")
    )
    metric: MetricSettings = field(default_factory=MetricSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    health: DiffusionHealthSettings = field(
        # a prediction that begins at 0 has a first gradient of about 10
        default_factory=lambda: DiffusionHealthSettings(gradient_norm_high=30.0)
    )
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=2e-3, weight_decay=0.0, warmup=0.05, final=0.01
        )
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=400,
            batch_size=8,
            report_every=100,
            validation_batch_size=16,
            ema_decay=0.99,
            measure_idle_terms=False,
        )
    )

    @property
    def sides(self) -> tuple[int, ...]:
        """*s of what is diffused, in a space without loss; of latents their space has it."""
        images = self.data.space(self.model.spatial_dims)
        return SPACES[self.space.kind](self.model.spatial_dims, 1).size_of(images)

    @property
    def dropout(self) -> float:
        """Share of the training samples without any condition, the mask of a control branch
        included; 0 where there is none.
        """
        if not self.control.enabled:
            return self.condition.dropout
        return self.control.dropout * (self.condition.dropout if self.condition.is_any else 1.0)

    def check(self) -> None:
        self._check_conditions()
        if self.space.is_latent:
            self._check_latents()
        else:
            try:
                sides = self.sides
            except ValueError as error:
                raise SettingsError(str(error)) from error
            self.model.check_size(sides)
            self.score_aug.check_sides(sides)
        self._check_augmented()
        self._check_control()
        check_guidance(self.sampling.guidance, self.dropout)
        images = self.data.space(self.model.spatial_dims)
        if self.metric.ms_ssim and self.space.has_images:
            check_sides(images)
        if self.loss.perceptual.is_on and sorted(images)[-2] < SHORTEST_SIDE:
            raise SettingsError(
                f"loss.perceptual needs {SHORTEST_SIDE} px or more along two sides, and the "
                f"samples have {' x '.join(map(str, images))}. Use larger ones, or "
                "loss.perceptual.enabled=false."
            )

    def _check_control(self) -> None:
        if not self.control.enabled:
            return
        if self.model.kind != "unet":
            raise SettingsError(
                "control.enabled=true copies the encoder of a UNet, and model.kind="
                f"{self.model.kind} has none. Set model.kind=unet, or control.enabled=false."
            )
        if not self.train.init_from:
            raise SettingsError(
                "control.enabled=true trains a branch on a network that was trained before and "
                "stays as it is, and train.init_from names none. Set it to a training of "
                "diffusion with the same model.*, or control.enabled=false."
            )
        if self.control.scale == 0.0:
            raise SettingsError(
                "control.enabled=true trains what the branch adds, and control.scale=0 leaves it "
                "out, so that nothing is learnt. Set a scale above 0; control_scale=0 is an "
                "option of generate."
            )
        unsure = self.data.source == "folder" and not self.data.require_seg
        if self.data.group == MASK or unsure or not self.space.has_images:
            raise SettingsError(
                "control.enabled=true needs images with their lesion masks. Use a data.group of "
                "images (not seg), data.require_seg=true with a folder, and for space.latents the "
                "checkpoint of an autoencoder instead of a file of latents."
            )
        if self.space.is_latent:
            return
        if self.score_aug.enabled and self.space.kind != "pixel":
            raise SettingsError(
                "score_aug.enabled=true transforms what is diffused, and the mask of "
                f"control.enabled=true is in pixels, not in space.kind={self.space.kind}. Set "
                "space.kind=pixel, or turn score_aug off."
            )
        images = self.data.space(self.model.spatial_dims)
        self.control.check_size(images, self.sides)

    def _check_augmented(self) -> None:
        """What ScoreAug and SDA do not go with."""
        if self.loss.sda.is_on and self.score_aug.enabled:
            raise SettingsError(
                "score_aug.enabled and loss.sda.enabled are not true together, as in the "
                "document: both augment, the one after the noise and the other before it. Turn "
                "one of them off."
            )
        if self.loss.sda.is_on:
            if self.space.is_latent:
                raise SettingsError(
                    "loss.sda turns images, and space.kind=latent has latents that were made "
                    "once. Set loss.sda.enabled=false, or another space."
                )
            self.loss.sda.check_sides(self.data.space(self.model.spatial_dims))
        if self.score_aug.removes and self.condition.sizes.enabled:
            raise SettingsError(
                "score_aug with shifts, cutouts or patterns takes lesions away that "
                "condition.sizes has counted. Turn score_aug.translation and .cutout off with "
                "score_aug.kind=single or compose, or set condition.sizes.enabled=false."
            )
        terms = {"regional": self.loss.regional.is_on, "perceptual": self.loss.perceptual.is_on}
        named = [name for name, is_on in terms.items() if is_on]
        if self.score_aug.enabled and named:
            raise SettingsError(
                f"score_aug.enabled=true transforms what is predicted, and loss.{named[0]} "
                f"compares it with images as they are. Set loss.{named[0]}.enabled=false, or turn "
                "score_aug off."
            )
        if self.score_aug.modality_factors and self.data.group == "dual":
            raise SettingsError(
                "score_aug.modality_factors=true has one factor a sample, and a sample of "
                "data.group=dual has two modalities. Turn it off."
            )

    def _check_latents(self) -> None:
        loss = self.loss
        if self.augment.kind != "none":
            raise SettingsError(
                "latents are made once, of images as they are, so space.kind=latent is trained "
                f"without augmentation, not with augment.kind={self.augment.kind}. Set "
                "augment.kind=none."
            )
        terms = {"regional": loss.regional.is_on, "perceptual": loss.perceptual.is_on}
        named = [name for name, is_on in terms.items() if is_on]
        if named and not self.space.has_images:
            raise SettingsError(
                f"loss.{named[0]} reads images, and space.latents={self.space.latents} is a file "
                "of latents alone. Set space.latents to the checkpoint of their autoencoder, or "
                f"loss.{named[0]}.enabled=false."
            )

    def _check_conditions(self) -> None:
        condition, group = self.condition, self.data.group
        if condition.mask.enabled and group == MASK:
            raise SettingsError(
                "condition.mask.enabled=true makes images under their mask, and data.group=seg "
                "has masks themselves. Use condition.sizes, or another data.group."
            )
        if condition.sizes.enabled and group != MASK:
            raise SettingsError(
                "condition.sizes.enabled=true makes masks by their lesions of each size, and "
                f"data.group={group} has images. Set data.group=seg, or condition.mask.enabled."
            )
        unsure = self.data.source == "folder" and not self.data.require_seg
        if (condition.mask.enabled or condition.sizes.enabled) and unsure:
            raise SettingsError(
                "condition.mask and condition.sizes take a patient without a seg file for one "
                "without lesions. Set data.require_seg=true, which leaves such patients out."
            )
        if condition.mask.enters == "encoder" and not self.space.is_latent:
            raise SettingsError(
                "condition.mask.enters=encoder is for latents, and space.kind="
                f"{self.space.kind} takes the mask in its own arrangement. Set "
                "condition.mask.enters=bit_planes, or space.kind=latent."
            )
        if condition.mode.enabled != (group == "multi_modality"):
            raise SettingsError(
                "condition.mode.enabled says which modality an image is of, where there are "
                f"several: it is {str(condition.mode.enabled).lower()} with data.group={group}. "
                f"Set it to {str(not condition.mode.enabled).lower()}, or change data.group."
            )
        if self.model.conditioning == "cross_attn" and not self.has_condition_image:
            raise SettingsError(
                "model.dit.conditioning=cross_attn needs a condition image: set "
                "condition.mask.enabled=true, or model.dit.conditioning=concat."
            )

    @property
    def has_condition_image(self) -> bool:
        sizes = self.condition.sizes
        return self.condition.mask.enabled or (sizes.enabled and sizes.enters == "maps")
