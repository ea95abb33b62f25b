"""System `diffusion`: brain images and masks made of noise, by rectified flow or DDPM, in 2-D and
3-D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from data.mri.dataset import open_split, units_of
from data.mri.store import FixedSamples, TrainSamples
from losses.diffusion import terms
from metrics.diffusion import diffusion_metrics
from metrics.perceptual import refuse_missing
from models.diffusion.build import build_network
from models.diffusion.spaces import Space, build_space
from settings.flat import replace
from settings.mri import channels_of
from trainables.api import (
    Built,
    Composite,
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
    SystemBase,
    Tensors,
)
from trainables.diffusion.forward import PROGRESS, Conditions, denoise, noise_only
from trainables.diffusion.heatmap import heatmap
from trainables.diffusion.prepared import Prepared, prepare
from trainables.diffusion.profile import profile_cases, profile_step
from trainables.diffusion.references import references
from trainables.diffusion.samples import PAIRS, Pairs, WithCounts
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.tags import figure_tags, tags
from trainables.diffusion.use import GenerateSettings, draw_row, examinations, generate

Samples = TypeVar("Samples", FixedSamples, TrainSamples)


class Diffusion(SystemBase[DiffusionSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "diffusion"
    Settings = DiffusionSettings
    prepare_reads = (
        *("data.*", "model.spatial_dims"),
        *("condition.sizes.enabled", "condition.sizes.edges_mm"),  # counts in every sample
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
    originals: Mapping[str, Any] = {"augment.kind": "none"}

    def prepare(self, settings: DiffusionSettings, cache: Path) -> Prepared:
        return prepare(settings, cache)

    def build(self, settings: DiffusionSettings, prepared: Prepared | None) -> Built:
        channels = channels_of(settings.data.group)
        if prepared is None:
            space = build_space(settings.space, settings.model.spatial_dims, channels)
            return _made(settings, channels, space, {})
        space = prepared.space(settings.space)
        return _made(settings, channels, space, {"affine": [list(r) for r in prepared.affine]})

    def rebuild(self, settings: DiffusionSettings, meta: Mapping[str, Any]) -> Built:
        """The moments of the space follow with the weights."""
        space = build_space(settings.space, settings.model.spatial_dims, meta["channels"])
        return _made(settings, meta["channels"], space, {"affine": meta["affine"]})

    def loaders(self, settings: DiffusionSettings, prepared: Prepared) -> Loaders:
        data, regions = prepared.data, settings.loss.regional.is_on
        train = open_split(data, "train", settings.augment, regions=regions)
        fixed = {
            "validation": open_split(data, "validation"),
            "test": open_split(data, "test"),
        }
        units = {
            split: [unit for unit in units_of(data, split, samples) for _ in range(PAIRS)]
            for split, samples in fixed.items()
        }
        pairs: dict[str, Any] = {
            split: Pairs(_counted(settings, samples, data.least_lesion))
            for split, samples in fixed.items()
        }
        return Loaders(
            _counted(settings, train, data.least_lesion),
            pairs["validation"],
            notes=data.notes,
            warnings=data.warnings,
            test=pairs["test"] if len(pairs["test"]) else None,
            units=units,
        )

    def phases(self, settings: DiffusionSettings, prepared: Prepared | None) -> Sequence[Phase]:
        modules = ("network", "conditions") if _has_conditions(settings) else ("network",)
        composite = Composite(terms(settings), settings.loss)
        plain = {"perceptual": noise_only} if "perceptual" in composite.terms else {}
        curriculum = settings.strategy.curriculum.enabled
        phase = Phase(
            "network",
            modules,
            denoise,
            composite,
            without=plain,
            schedules={PROGRESS: settings.progress} if curriculum else {},
            training_schedules=(PROGRESS,) if curriculum else (),
        )
        return [phase]

    def metrics(self, settings: DiffusionSettings, prepared: Prepared | None) -> Sequence[Metric]:
        return diffusion_metrics(settings)

    def examinations(
        self, settings: DiffusionSettings, prepared: Prepared | None
    ) -> Sequence[Examination]:
        return examinations(settings)

    def unit_key(self, settings: DiffusionSettings) -> str:
        """A folder has none: its own train/ and val/ say whose scans are which."""
        return "data.seed" if settings.data.source == "embedded" else ""

    def references(
        self, settings: DiffusionSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        return references(replace(settings, self.originals), prepared)

    def preflight(self, settings: DiffusionSettings, prepared: Prepared) -> Sequence[Finding]:
        refuse_missing(settings)
        return ()

    def tensorboard_names(self, settings: DiffusionSettings) -> Mapping[str, tuple[str, ...]]:
        return tags(settings)

    def tensorboard_figures(self, settings: DiffusionSettings) -> Mapping[str, tuple[str, ...]]:
        return figure_tags(settings)

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        return draw_row(batch["image"], prediction["reconstruction"])

    def charts(
        self, settings: DiffusionSettings, report: Mapping[str, float | str | None]
    ) -> Mapping[str, Tensor]:
        return {"val.heatmap": heatmap(report)}

    def generate(
        self, settings: DiffusionSettings, modules: Modules, request: Request
    ) -> Measures:
        return generate(settings, modules, request)

    def profile_cases(
        self, settings: DiffusionSettings, kinds: Sequence[str], sizes: Sequence[str]
    ) -> list[tuple[dict[str, Any], DiffusionSettings]]:
        return profile_cases(settings, kinds, sizes)

    def profile_step(self, settings: DiffusionSettings, steps: int) -> dict[str, Any]:
        return profile_step(self, settings, steps)


def _made(
    settings: DiffusionSettings, channels: int, space: Space, meta: Mapping[str, Any]
) -> Built:
    images = 0
    condition = settings.condition
    if condition.mask.enabled:
        images += space.channels_of(1)
    if condition.sizes.enabled and condition.sizes.enters == "maps":
        images += condition.sizes.bins
    network = build_network(
        settings.model, settings.sides, space.channels_of(channels), condition_channels=images
    )
    placed: Any = space
    placed.affine = meta.get("affine")
    modules: dict[str, Any] = {"network": network, "space": space}
    if _has_conditions(settings):
        modules["conditions"] = Conditions(condition, network.embedding_width)
    return Built(modules=modules, meta={"channels": channels, **meta})


def _has_conditions(settings: DiffusionSettings) -> bool:
    """Whether something is learnt about conditions beside the network."""
    return settings.condition.mode.enabled or settings.condition.sizes.enabled


def _counted(
    settings: DiffusionSettings, samples: Samples, least: int
) -> Samples | WithCounts:
    """The samples, with their counts of lesions where these are a condition."""
    sizes = settings.condition.sizes
    return WithCounts(samples, sizes.edges_mm, least) if sizes.enabled else samples
