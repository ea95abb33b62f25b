"""System `StyleVae`: a small autoencoder of RGB images, whose latents `style_flow` transfers.

It is trained by the one loop, usually within the `prepare` of that system
(`trainables.style_flow.images`), and as well by itself:
`python -m ray_jobs.train style_vae --dir DIR`.

Shapes: B images [B, 3, H, W] in [0, 1]; c channels of the latent [B, c, h, w]; f pixels along a
side of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.style.dataset import Prepared, prepare
from data.style.images import CropImages
from data.style.settings import CropSettings, DataSettings
from losses.style.vae import TERMS, LossSettings
from metrics.style.vae import style_vae_metrics
from models.autoencoders.settings import ModelSettings as AutoencoderSettings
from models.autoencoders.settings import VaeSettings
from models.autoencoders.vae import Vae
from trainables.api import (
    Built,
    Composite,
    Loaders,
    Metric,
    Modules,
    OptimizerSettings,
    Phase,
    Reference,
    Settings,
    SystemBase,
    SystemSettings,
    Tensors,
    TrainSettings,
    setting,
)
from trainables.drawing import rows
from trainables.principal import principal_axes
from trainables.stepping.inputs import SEED

CHANNELS = 3

_LARGEST = 512
"""Training images that principal components are taken of, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """With widths of 3 levels a latent has a quarter of the sides."""

    vae: VaeSettings = field(
        default_factory=lambda: VaeSettings(
            widths=(8, 16, 16), latent_channels=4, shortcut="lapped"
        )
    )
    start: str = setting(
        "components",
        "where the linear map beside the network begins (model.vae.shortcut): principal "
        "components of the cells of training images, with which the reconstruction does; or "
        "cosines, which need no images",
        choices=("components", "cosines"),
    )

    @property
    def network(self) -> AutoencoderSettings:
        """As the networks of `models.autoencoders` take them."""
        return AutoencoderSettings(kind="vae", vae=self.vae)


@dataclass(frozen=True, kw_only=True)
class StyleVaeSettings(SystemSettings):
    """The defaults are the demo: CPU-sized, about half a minute."""

    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: CropSettings = field(default_factory=CropSettings)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=3e-3, warmup=0.05, final=0.01)
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=300, batch_size=8, report_every=100, validation_batch_size=32
        )
    )

    def check(self) -> None:
        self.model.network.latent_shape((self.data.crop, self.data.crop))


class StyleVae(SystemBase[StyleVaeSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "style_vae"
    Settings = StyleVaeSettings
    prepare_reads = ("data.*",)
    small: Mapping[str, Any] = {
        "model.vae.widths": (4, 4, 4),
        "data.crop": 16,
        "data.crops": 8,
        "data.held_out_crops": 2,
        "train.batch_size": 4,
        "train.validation_batch_size": 4,
    }

    def prepare(self, settings: StyleVaeSettings, cache: Path) -> Prepared:
        return prepare(crop_data(settings.data), cache)

    def build(self, settings: StyleVaeSettings, prepared: Prepared) -> Built:
        built = self.rebuild(settings, {})
        model: Any = built.modules["vae"]
        if settings.model.start == "components" and settings.model.vae.shortcut != "none":
            begin_at_components(model, training_images(prepared))
        return built

    def rebuild(self, settings: StyleVaeSettings, meta: Mapping[str, Any]) -> Built:
        return Built(modules={"vae": Vae(settings.model.network, CHANNELS)})

    def loaders(self, settings: StyleVaeSettings, prepared: Prepared) -> Loaders:
        folder = Path(prepared.folder)
        train, validation, test = (
            CropImages(folder / f"{split}.npy") for split in ("train", "validation", "test")
        )
        return Loaders(
            train,
            validation,
            notes={"training images": float(len(train))},
            test=test if len(test) else None,
            units={split: prepared.units[split] for split in ("validation", "test")},
        )

    def phases(self, settings: StyleVaeSettings, prepared: Prepared | None) -> Sequence[Phase]:
        return [Phase("vae", ("vae",), reconstruct, Composite(TERMS, settings.loss))]

    def metrics(self, settings: StyleVaeSettings, prepared: Prepared | None) -> Sequence[Metric]:
        return style_vae_metrics()

    def references(
        self, settings: StyleVaeSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        """The mean image, and a linear network with the same latent."""
        images, network = training_images(prepared), settings.model.network
        mean = images.mean(dim=0)
        axes, middle = components(images, network.factors[0], network.latent_channels)

        def linear(batch: Tensors) -> Tensors:
            image = batch["image"]
            side = network.factors[0]
            at, directions = middle.to(image.device), axes.to(image.device)
            rest = cells_of(image, side) - at
            restored = at + rest @ directions.T @ directions
            size = (image.shape[2], image.shape[3])
            whole = F.fold(restored.mT, size, side, stride=side)
            return {"reconstruction": whole, "mean": (rest @ directions.T).mT}

        def average(batch: Tensors) -> Tensors:
            image = batch["image"]
            whole = mean.to(image.device).expand_as(image)
            return {"reconstruction": whole, "mean": image.new_zeros(len(image), 1)}

        about = f"the first {len(axes)} principal components of the pixels of a latent's cell"
        return {
            "mean": Reference(average, "the mean of the training images"),
            "cell_components": Reference(linear, f"{about}: a linear network with this latent"),
        }

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        """Rows of the images and their reconstructions."""
        return rows(batch["image"], prediction["reconstruction"])


def reconstruct(modules: Modules, batch: Tensors, settings: StyleVaeSettings) -> dict[str, Tensor]:
    """The prediction on a batch."""
    prediction: dict[str, Tensor] = modules["vae"](batch["image"], batch.get(SEED))
    return prediction


def crop_data(crops: CropSettings) -> DataSettings:
    """The data whose images are crops alone; every split needs two of each style."""
    return DataSettings(source="embedded", references=1, **asdict(crops.of_crops))


def training_images(prepared: Prepared) -> Tensor:
    """[N, 3, S, S] in [0, 1], evenly spaced."""
    images = CropImages(Path(prepared.folder) / "train.npy")
    chosen = np.linspace(0, len(images) - 1, min(len(images), _LARGEST)).round().astype(int)
    return torch.stack([images[int(index)]["image"] for index in chosen])


def cells_of(images: Tensor, side: int) -> Tensor:
    """[B, 3, H, W] -> [B, cells, 3 f^2]"""
    return F.unfold(images, side, stride=side).mT


def components(images: Tensor, side: int, most: int) -> tuple[Tensor, Tensor]:
    """The principal directions [K, 3 f^2] of the cells of images, and their mean [3 f^2]."""
    cells = cells_of(images, side).flatten(0, 1)
    middle = cells.mean(dim=0)
    return principal_axes(cells, middle, most), middle


@torch.no_grad()
def begin_at_components(model: Vae, images: Tensor) -> None:
    """Has the shortcut begin as the principal components of the cells of images, each channel of
    the latent with mean 0 and variance 1; where there is a network, its biases have the mean.
    """
    shortcut = model.shortcut
    if shortcut is None:
        raise ValueError("this VAE has no shortcut (model.vae.shortcut=none) to begin anywhere.")
    side = shortcut.factors[0]
    axes, middle = components(images, side, model.settings.latent_channels)
    codes = (cells_of(images, side) - middle) @ axes.T
    spread = codes.flatten(0, 1).std(dim=0, correction=0)[:, None]
    inside = (slice(len(axes)), slice(None), slice(side, 2 * side), slice(side, 2 * side))
    for weights, patterns in ((shortcut.down, axes / spread), (shortcut.up, axes * spread)):
        weights.zero_()
        weights[inside] = patterns.view(-1, CHANNELS, side, side)
    if model.settings.vae.shortcut == "lapped":
        mean = torch.zeros(model.settings.latent_channels)
        mean[: len(axes)] = (axes / spread) @ middle
        model.network.quant_conv_mu.conv.bias.copy_(-mean)
        bias = middle.view(CHANNELS, -1).mean(dim=1)
        model.network.decoder.blocks[-1].conv.bias.copy_(bias)
