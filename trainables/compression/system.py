"""System `compression`: medical images to latents and back, by a VAE, a VQ-VAE or a DC-AE, in 2-D
and 3-D.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data.mri.batch_augment import BatchAugment
from data.mri.dataset import Prepared, open_split, prepare, units_of
from losses.adversarial import idle_critic, refuse_late_critic
from losses.compression import terms
from metrics.compression import compression_metrics
from metrics.perceptual import refuse_missing
from models.autoencoders.build import build_autoencoder
from settings.flat import replace
from settings.mri import channels_of
from trainables.adversarial import critic_modules, phases_with_critic
from trainables.api import (
    Built,
    Composite,
    Finding,
    Generates,
    HealthSettings,
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
from trainables.compression.encoding import encode_data, prepare_volumes
from trainables.compression.profile import profile_cases, profile_step
from trainables.compression.references import references
from trainables.compression.settings import CompressionSettings
from trainables.compression.tags import figure_tags, tags
from trainables.compression.use import reconstruct
from trainables.drawing import flat, rows
from trainables.stepping.inputs import SEED, UPDATE_SEED


class Compression(SystemBase[CompressionSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "compression"
    Settings = CompressionSettings
    prepare_reads = ("data.*", "model.spatial_dims")
    changeable = ("augment.*", "batch_augment.*")
    generates = Generates("a NIfTI file, or folders of patients", batch_size=0)
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
        signed = prepared.signed if prepared else None
        return _made(settings, channels_of(settings.data.group), signed, load=True)

    def rebuild(self, settings: CompressionSettings, meta: Mapping[str, Any]) -> Built:
        """Builds without the weights to start from, for those of the checkpoint follow. One of
        before `signed` was trained under data.below_zero=each, which decides nothing.
        """
        return _made(settings, meta["channels"], meta.get("signed"), load=False)

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
            test=test if len(test) else None,
            units={
                "validation": units_of(prepared, "validation", validation),
                "test": units_of(prepared, "test", test),
            },
        )

    def phases(self, settings: CompressionSettings, prepared: Prepared | None) -> Sequence[Phase]:
        model, composite = ("autoencoder",), Composite(terms(settings), settings.loss)
        autoencoder = Phase(
            "autoencoder",
            model,
            compress,
            composite,
            shared=last_layer,
            draws_by_update=settings.model.draws_by_update,
        )
        return phases_with_critic(autoencoder, critic_views, "reconstruction", "image", settings)

    def metrics(
        self, settings: CompressionSettings, prepared: Prepared | None
    ) -> Sequence[Metric]:
        return compression_metrics(settings)

    def health(self, settings: CompressionSettings) -> HealthSettings:
        return settings.health.of_model(settings.model)

    def unit_key(self, settings: CompressionSettings) -> str:
        """A folder has none: its own train/ and val/ say whose scans are which."""
        return "data.seed" if settings.data.source == "embedded" else ""

    def references(
        self, settings: CompressionSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        plain = replace(settings, self.originals)
        return references(settings, self.loaders(plain, prepared))

    def tensorboard_names(self, settings: CompressionSettings) -> Mapping[str, tuple[str, ...]]:
        return tags(settings)

    def tensorboard_figures(self, settings: CompressionSettings) -> Mapping[str, tuple[str, ...]]:
        return figure_tags(settings)

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        return side_by_side(batch["image"], prediction["reconstruction"])

    def preflight(self, settings: CompressionSettings, prepared: Prepared) -> Sequence[Finding]:
        refuse_late_critic(settings)
        refuse_missing(settings)
        return [Finding(text) for text in idle_critic(settings)]

    def generate(
        self, settings: CompressionSettings, modules: Modules, request: Request
    ) -> Measures:
        """Reconstructs scans; see `trainables.compression.use.reconstruct`."""
        model: Any = modules["autoencoder"]
        return reconstruct(settings, model, request, side_by_side)

    def encode(
        self,
        settings: CompressionSettings,
        modules: Modules,
        prepared: Prepared,
        splits: Sequence[str],
        source: Mapping[str, Any],
        output: Path | None,
    ) -> dict[str, Any]:
        model: Any = modules["autoencoder"]
        return encode_data(settings, model, prepared, splits, source, output)

    def prepare_volumes(
        self, settings: CompressionSettings, cache: Path, given: Collection[str] = ()
    ) -> tuple[CompressionSettings, Prepared]:
        return prepare_volumes(settings, cache, given)

    def profile_cases(
        self, settings: CompressionSettings, kinds: Sequence[str], sizes: Sequence[str]
    ) -> list[tuple[dict[str, Any], CompressionSettings]]:
        return profile_cases(settings, kinds, sizes)

    def profile_step(self, settings: CompressionSettings, steps: int) -> dict[str, Any]:
        return profile_step(self, settings, steps)


def _made(
    settings: CompressionSettings, channels: int, signed: Sequence[str] | None, *, load: bool
) -> Built:
    autoencoder = build_autoencoder(settings.model, channels, load=load)
    autoencoder.signed = signed
    critic = critic_modules(settings.discriminator, channels, settings.model.spatial_dims)
    meta = {"channels": channels} | ({} if signed is None else {"signed": list(signed)})
    return Built(modules={"autoencoder": autoencoder, **critic}, meta=meta)


def compress(modules: Modules, batch: Tensors, settings: CompressionSettings) -> dict[str, Tensor]:
    """The reconstruction of a batch; in validation also that of the rounded latent, whose rate is
    measured.
    """
    model: Any = modules["autoencoder"]
    seed = UPDATE_SEED if settings.model.draws_by_update else SEED
    prediction: dict[str, Tensor] = model(batch["image"], batch.get(seed))
    if not model.training:
        prediction |= model.quantise(prediction, settings.metric.rate_step)
    return prediction


def critic_views(
    prediction: Tensors, batch: Tensors, settings: CompressionSettings
) -> tuple[Tensor, Tensor]:
    """The reconstructions and the images."""
    return prediction["reconstruction"], batch["image"]


def side_by_side(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Rows of image, reconstruction and their absolute difference (times 4). Of a volume the
    middle slice is drawn, and every channel by itself. [B, C, *S] -> [3, 3 H, n W].
    """
    true, output = flat(image), flat(reconstruction)
    return rows(true, output, 4.0 * (true - output).abs())


def last_layer(modules: Modules) -> Sequence[nn.Parameter]:
    """The parameters at which a balancer compares gradients."""
    model: Any = modules["autoencoder"]
    return model.last_layer()
