"""System `diffusion`: brain images and masks made of noise, by rectified flow or DDPM, in 2-D and
3-D.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import Dataset

from losses.diffusion import terms
from metrics.diffusion import diffusion_metrics
from metrics.perceptual import refuse_missing
from models.diffusion.build import build_control, build_network
from models.diffusion.latent_space import LatentSpace
from models.diffusion.spaces import Space, build_space
from settings.flat import flatten, replace
from settings.mri import channels_of
from trainables.api import (
    Built,
    Composite,
    Drawn,
    Examination,
    Finding,
    Generates,
    Loaders,
    Measures,
    Metric,
    Modules,
    Phase,
    Reference,
    Request,
    Solvers,
    SystemBase,
    Tensors,
)
from trainables.checkpoints import checkpoint
from trainables.checkpoints.checkpoint import CheckpointError
from trainables.diffusion.examine import examinations
from trainables.diffusion.forward import PROGRESS, denoise, noise_only
from trainables.diffusion.heatmap import heatmap
from trainables.diffusion.inspecting.solvers import solvers
from trainables.diffusion.inspecting.views import augmentations, augmented_views
from trainables.diffusion.latent.autoencoder import FrozenAutoencoder
from trainables.diffusion.latent.modules import (
    externals,
    frozen_modules,
    latents_meta,
    mask_encoder_of,
    mask_entry,
    space_of,
)
from trainables.diffusion.prediction import Conditions
from trainables.diffusion.prepared import Prepared, prepare
from trainables.diffusion.profile import profile_cases, profile_step
from trainables.diffusion.references import references
from trainables.diffusion.samples import PAIRS, Pairs, WithCounts, open_splits, order_of
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.tags import figure_tags, tags
from trainables.diffusion.use import GenerateSettings, draw, generate
from trainables.drawing import flat, rows

_SHOWN_DEVIATIONS = 3.0
"""Of standardised latents, from black to white."""

_SHARED = (
    *("model.kind", "model.spatial_dims", "model.unet.", "data.group"),
    *("space.kind", "space.statistics", "space.input_scale"),
    *("strategy.kind", "strategy.ddpm.prediction", "condition.", "score_aug.enabled"),
    *("score_aug.omega", "score_aug.modality_factors", "regulariser.self_conditioning.enabled"),
)
"""Settings, or what they begin with, that say what the frozen network is and was taught."""

Samples = TypeVar("Samples", bound=Dataset[dict[str, Tensor]])


class Diffusion(SystemBase[DiffusionSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "diffusion"
    Settings = DiffusionSettings
    prepare_reads = (
        *("data.*", "model.spatial_dims"),
        *("condition.sizes.enabled", "condition.sizes.edges_mm"),  # counts in every sample
        *("space.latents", "condition.mask.enabled", "condition.mask.enters"),
        *("condition.mask.encoder", "augmented_diffusion.*"),  # which latents, and whether at all
    )
    changeable = ("augment.*", "sampling.*")
    generates = Generates(
        "a NIfTI mask, or folders of patients with one",
        needs_inputs=False,
        draws=True,
        batch_size=8,
        options=GenerateSettings,
    )
    small: Mapping[str, Any] = {
        "model.unet.widths": (8, 8),
        "model.unet.norm_groups": 4,
        "model.unet.head_width": 8,
        "model.unet.attention": 0,
        "data.image_size": 16,
        "data.slices": 12,
        "data.patients": (2, 1, 1),
        "data.validation_samples": 10,
        "sampling.steps": 2,
        "train.batch_size": 2,
        "train.validation_batch_size": 12,
        "train.ema_decay": 0.0,
        "train.measure_idle_terms": True,
    }
    audit: Mapping[str, Any] = {
        # two predictions of the same x_t differ then
        "regulariser.feature_noise.enabled": True,
        "loss.consistency.enabled": True,
    }
    originals: Mapping[str, Any] = {"augment.kind": "none"}

    def prepare(self, settings: DiffusionSettings, cache: Path) -> Prepared:
        return prepare(settings, cache)

    def build(self, settings: DiffusionSettings, prepared: Prepared | None) -> Built:
        channels, dims = channels_of(settings.data.group), settings.model.spatial_dims
        if prepared is None:
            space = build_space(settings.space, dims, channels)
            return _made(settings, channels, space, {})
        meta: dict[str, Any] = {"affine": [list(row) for row in prepared.affine]}
        if not settings.space.is_latent:
            return _made(settings, channels, prepared.space(settings.space), meta)
        latents = prepared.needed_latents()
        meta["latents"] = latents_meta(latents)
        masks = latents.masks
        encoder = mask_encoder_of(meta["latents"], dims, masks.weights if masks else None)
        built = _made(settings, channels, prepared.space(settings.space), meta, encoder)
        return dataclasses.replace(built, external=externals(latents))

    def rebuild(self, settings: DiffusionSettings, meta: Mapping[str, Any]) -> Built:
        """The moments of the space follow with the weights."""
        dims, given = settings.model.spatial_dims, {"affine": meta["affine"]}
        if not settings.space.is_latent:
            space = build_space(settings.space, dims, meta["channels"])
            return _made(settings, meta["channels"], space, given)
        latents = meta["latents"]
        given["latents"] = latents
        encoder = mask_encoder_of(latents, dims)
        return _made(settings, meta["channels"], space_of(latents, dims), given, encoder)

    def loaders(self, settings: DiffusionSettings, prepared: Prepared) -> Loaders:
        data = prepared.data
        splits = open_splits(settings, prepared)
        units = {
            split: [unit for unit in splits.units[split] for _ in range(PAIRS)]
            for split in splits.fixed
        }
        pairs: dict[str, Any] = {
            split: Pairs(_counted(settings, samples, data.least_lesion))
            for split, samples in splits.fixed.items()
        }
        return Loaders(
            _counted(settings, splits.train, data.least_lesion),
            pairs["validation"],
            notes=data.notes,
            warnings=data.warnings,
            test=pairs["test"] if len(pairs["test"]) else None,
            units=units,
            order=order_of(settings, splits.train),
        )

    def phases(self, settings: DiffusionSettings, prepared: Prepared | None) -> Sequence[Phase]:
        modules = ("network", "conditions") if _has_conditions(settings) else ("network",)
        if settings.control.enabled:
            modules = ("control",)
        composite = Composite(terms(settings), settings.loss)
        plain = {"perceptual": noise_only} if "perceptual" in composite.terms else {}
        curriculum = settings.strategy.curriculum.enabled
        score_aug, sda = settings.score_aug, settings.loss.sda
        by_update = (score_aug.enabled and score_aug.per == "batch") or (
            sda.is_on and sda.per == "batch"
        )
        phase = Phase(
            "network",
            modules,
            denoise,
            composite,
            without=plain,
            schedules={PROGRESS: settings.progress} if curriculum else {},
            training_schedules=(PROGRESS,) if curriculum else (),
            draws_by_update=by_update,
        )
        return [phase]

    def metrics(self, settings: DiffusionSettings, prepared: Prepared | None) -> Sequence[Metric]:
        return diffusion_metrics(settings)

    def examinations(
        self, settings: DiffusionSettings, prepared: Prepared | None
    ) -> Sequence[Examination]:
        return examinations(settings)

    def preflight(self, settings: DiffusionSettings, prepared: Prepared) -> Sequence[Finding]:
        refuse_missing(settings)
        findings = list(_other_trunk(settings))
        if settings.augmented_diffusion.enabled and not settings.space.is_latent:
            findings.append(
                Finding(
                    "augmented_diffusion.enabled=true masks channels of latents, and has no "
                    f"effect with space.kind={settings.space.kind}. Leave it out, or set "
                    "space.kind=latent."
                )
            )
        return findings

    def unit_key(self, settings: DiffusionSettings) -> str:
        """A folder has none: its own train/ and val/ say whose scans are which; nor has a file of
        latents.
        """
        is_drawn = settings.data.source == "embedded" and settings.space.has_images
        return "data.seed" if is_drawn else ""

    def references(
        self, settings: DiffusionSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        return references(replace(settings, self.originals), prepared)

    def tensorboard_names(self, settings: DiffusionSettings) -> Mapping[str, tuple[str, ...]]:
        return tags(settings)

    def tensorboard_figures(self, settings: DiffusionSettings) -> Mapping[str, tuple[str, ...]]:
        return figure_tags(settings)

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        if "reconstruction" in prediction:
            return rows(flat(batch["image"]), flat(prediction["reconstruction"]))
        latents = (prediction["clean"][:, :1], prediction["clean_estimate"][:, :1])
        span = 2.0 * _SHOWN_DEVIATIONS * prediction["deviation"].max()
        return rows(*(flat(0.5 + values / span) for values in latents))

    def charts(
        self, settings: DiffusionSettings, report: Mapping[str, float | str | None]
    ) -> Mapping[str, Tensor]:
        return {"val.heatmap": heatmap(report)}

    def generate(
        self, settings: DiffusionSettings, modules: Modules, request: Request
    ) -> Measures:
        return generate(settings, modules, request)

    def solvers(self, settings: DiffusionSettings, request: Request) -> Solvers:
        return solvers(settings, request.options)

    def draw(self, settings: DiffusionSettings, modules: Modules, request: Request) -> Drawn:
        return draw(settings, modules, request)

    def augmentations(self, settings: DiffusionSettings) -> Mapping[str, Mapping[str, Any]]:
        return augmentations(settings)

    def augmented_views(
        self, settings: DiffusionSettings, prepared: Prepared, batch: Tensors
    ) -> Mapping[str, Mapping[str, Tensor]]:
        return augmented_views(settings, prepared, batch)

    def profile_cases(
        self, settings: DiffusionSettings, kinds: Sequence[str], sizes: Sequence[str]
    ) -> list[tuple[dict[str, Any], DiffusionSettings]]:
        return profile_cases(settings, kinds, sizes)

    def profile_step(self, settings: DiffusionSettings, steps: int) -> dict[str, Any]:
        return profile_step(self, settings, steps)


def _made(
    settings: DiffusionSettings,
    channels: int,
    space: Space,
    meta: Mapping[str, Any],
    mask_encoder: FrozenAutoencoder | None = None,
) -> Built:
    images, masks = 0, None
    condition, sides = settings.condition, settings.data.space(settings.model.spatial_dims)
    if isinstance(space, LatentSpace):
        masks = mask_entry(condition.mask, meta["latents"], mask_encoder)
    if condition.mask.enabled:
        images += space.channels_of(1) if masks is None else masks.width
    if condition.sizes.enabled and condition.sizes.enters == "maps":
        images += condition.sizes.bins
    network = build_network(
        settings.model,
        space.size_of(sides),
        len(space.shift),
        condition_channels=images,
        further_channels=(
            len(space.shift) if settings.regulariser.self_conditioning.enabled else 0
        ),
    )
    placed: Any = space
    placed.affine = meta.get("affine")
    modules: dict[str, Any] = {"network": network, "space": space}
    if _has_conditions(settings):
        modules["conditions"] = Conditions(
            condition, network.embedding_width, masks, _has_omega(settings)
        )
    if isinstance(space, LatentSpace):
        placed.source = meta["latents"]["source"]
        modules |= frozen_modules(space, mask_encoder)
    ready = None
    if settings.control.enabled:
        settings.control.check_size(sides, space.size_of(sides))
        modules["control"] = build_control(settings.model, settings.control, network.in_channels)
        ready = _copy_encoder
        for name in ("network", "conditions"):
            if name in modules:
                modules[name].requires_grad_(False).eval()  # draws no dropout
    return Built(modules=modules, meta={"channels": channels, **meta}, ready=ready)


def _copy_encoder(modules: Modules) -> None:
    """The control branch begins as the encoder of the network that was loaded."""
    control: Any = modules["control"]
    control.copy_encoder(modules["network"])


def _other_trunk(settings: DiffusionSettings) -> Iterator[Finding]:
    """One finding for all settings in which the training of the frozen network differs. Where its
    checkpoint is gone there is none: a training that is resumed has the network itself.
    """
    if not settings.control.enabled:
        return
    try:
        path = checkpoint.find(Path(settings.train.init_from).expanduser(), best=True)
        theirs: dict[str, Any] = checkpoint.read_meta(path).get("settings", {})
    except CheckpointError:
        return
    ours = json.loads(json.dumps(flatten(settings)))
    theirs = json.loads(json.dumps(theirs))
    differing = [
        f"{key} is {theirs[key]} there and {value} here"
        for key, value in ours.items()
        if key.startswith(_SHARED)
        and not key.endswith("dropout")
        and theirs.get(key, value) != value
    ]
    if differing:
        yield Finding(
            f"control.enabled=true keeps the network of {path} as it is, which was trained with "
            f"other settings: {'; '.join(differing)}. Take its settings, or train a network with "
            "these first.",
            hopeless=True,
        )


def _has_conditions(settings: DiffusionSettings) -> bool:
    """Whether something is learnt about conditions beside the network."""
    condition = settings.condition
    is_reduced = condition.mask.enabled and settings.space.is_latent
    embedded = condition.mode.enabled or condition.sizes.enabled or _has_omega(settings)
    return embedded or is_reduced


def _has_omega(settings: DiffusionSettings) -> bool:
    """Whether the network is told how ScoreAug transformed its input."""
    return settings.score_aug.enabled and settings.score_aug.omega


def _counted(
    settings: DiffusionSettings, samples: Samples, least: int
) -> Samples | WithCounts:
    """The samples, with their counts of lesions where these are a condition."""
    sizes = settings.condition.sizes
    return WithCounts(samples, sizes.edges_mm, least) if sizes.enabled else samples
