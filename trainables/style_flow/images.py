"""Images as latents of several styles: an autoencoder trained once in `prepare`, or one of a
folder, and what it makes of every crop.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.cache import cached_by, file_states
from data.style.dataset import Prepared
from data.style.images import grey, to_unit
from data.style.sets import SPLITS
from data.style.settings import CropSettings
from losses.style.vae import LossSettings
from losses.terms import TermSettings
from metrics.image import psnr_db
from models.autoencoders.settings import VaeSettings
from models.autoencoders.vae import Vae
from settings.flat import flatten
from trainables.api import (
    External,
    OptimizerSettings,
    Settings,
    SettingsError,
    TrainSettings,
    external_file,
    setting,
)
from trainables.checkpoints.restore import open_checkpoint
from trainables.external import write_tensors
from trainables.nested.training import train_within
from trainables.style_flow.codec import ImageCodec, made, meta_of, of_folder, of_vae
from trainables.style_flow.style_vae import (
    CHANNELS,
    ModelSettings,
    StyleVae,
    StyleVaeSettings,
)

_FORMAT = 1
"""Version of the stored files; part of their name."""

_VAE, _CODEC = "vae.safetensors", "codec.safetensors"


@dataclass(frozen=True, kw_only=True)
class ImageVaeSettings(Settings):
    """All that `prepare` reads of the autoencoder of images: the network and its training."""

    folder: str = setting(
        "",
        "take this local folder of diffusers' AutoencoderKL instead of training an autoencoder; "
        "the other settings of the node are not read then",
    )
    factor: int = setting(4, "pixels along a side of a cell of the latent", choices=(2, 4, 8, 16))
    latent_channels: int = setting(4, "channels of the latent", low=1, high=64)
    width: int = setting(8, "channels of the finest level, twice as many below", low=4, high=512)
    steps: int = setting(300, "of its training", low=1, high=1_000_000)
    batch_size: int = setting(8, "crops per step of its training", low=1, high=1024)
    lr: float = setting(3e-3, "peak learning rate of its training", low=1e-9, high=1.0)
    beta: float = setting(
        1e-6, "weight of its divergence, where that of the absolute error is 1", low=0.0, high=1.0
    )
    seed: int = setting(0, "of its training", low=0)

    def check(self) -> None:
        if self.width % 4:
            raise SettingsError(
                f"vae.width must be a multiple of 4 (groups of GroupNorm), not {self.width}."
            )

    @property
    def network(self) -> VaeSettings:
        halvings = self.factor.bit_length() - 1
        widths = (self.width, *[2 * self.width] * halvings)
        return VaeSettings(widths=widths, latent_channels=self.latent_channels, shortcut="lapped")


@dataclass(frozen=True)
class Encoded:
    """The latents of images.

    Attributes:
        data: of the latents.
        codec: the weights of the codec.
        meta: from which it is made again.
        grey: split -> .npy of the latents of the same images without colour.
        notes: what it loses.
    """

    data: Prepared
    codec: External
    meta: Mapping[str, Any]
    grey: Mapping[str, str]
    notes: Mapping[str, float]


def encode_images(
    images: Prepared, vae: ImageVaeSettings, crops: CropSettings, cache: Path
) -> Encoded:
    """The latents of all crops, made once and found in the cache.

    Raises:
        SettingsError: `vae.folder` is not what it should be.
    """
    files: list[Path] = []
    if vae.folder:
        root = Path(vae.folder).expanduser()
        files = sorted(path for path in root.glob("*") if path.is_file())

    def make(scratch: Path) -> dict[str, Any]:
        codec = _codec(images, vae, crops, cache)
        raw = {split: codec.raw(_images_of(images, split)) for split in SPLITS}
        codec.measure(raw["train"])
        for split, values in raw.items():
            scaled = (values - codec.shift) / codec.deviation
            without = codec.encode(grey(_images_of(images, split)))
            np.save(scratch / f"{split}.npy", scaled.numpy())
            np.save(scratch / f"{split}_grey.npy", without.numpy())
            if split == "train":
                styles = np.asarray(images.styles[split])
                first = [int(np.flatnonzero(styles == k)[0]) for k in range(len(images.names))]
                codec.examples.copy_(scaled[first])
        write_tensors(scratch / _CODEC, codec.state_dict())
        return {
            "meta": meta_of(codec),
            "shape": list(raw["train"].shape[1:]),
            "scale": 1.0 / float(codec.deviation),
            "psnr_db": _psnr(codec, _images_of(images, "validation")),
        }

    key = _FORMAT, images.folder, flatten(vae), file_states(files)
    folder, index = cached_by(cache, "style-latents", key, make)
    weights = external_file(folder / _CODEC)
    source = vae.folder or f"style_vae {weights.fingerprint[:12]}"
    data = Prepared(
        **{
            **vars(images),
            "folder": str(folder),
            "shape": index["shape"],
            "scale": index["scale"],
            "source": source,
            "are_images": False,
        }
    )
    return Encoded(
        data,
        weights,
        index["meta"],
        {split: str(folder / f"{split}_grey.npy") for split in SPLITS},
        {"PSNR of decoded validation images, dB": index["psnr_db"]},
    )


def open_codec(meta: Mapping[str, Any], weights: External | None = None) -> ImageCodec:
    """The codec; without `weights` they follow."""
    codec = made(meta)
    if weights is not None:
        codec.load_state_dict(load_file(weights.file))
    return codec


def _images_of(images: Prepared, split: str) -> Tensor:
    """[N, 3, S, S] in [-1, 1]"""
    return torch.from_numpy(np.load(Path(images.folder) / f"{split}.npy"))


def _psnr(codec: ImageCodec, images: Tensor) -> float:
    decoded = codec.decode(codec.encode(images))
    return float(psnr_db(to_unit(decoded), to_unit(images), 1.0).double().mean())


def _codec(
    images: Prepared, vae: ImageVaeSettings, crops: CropSettings, cache: Path
) -> ImageCodec:
    """Not yet scaled."""
    styles, side = len(images.names), crops.crop
    if vae.folder:
        return of_folder(Path(vae.folder).expanduser(), styles, side)
    settings = _tree(vae, crops)

    def make(scratch: Path) -> dict[str, Any]:
        _train(settings, scratch, cache)
        return {"format": _FORMAT}

    key = _FORMAT, flatten(settings), images.folder
    folder, _ = cached_by(cache, "style-vae", key, make)
    model = Vae(settings.model.network, CHANNELS)
    model.load_state_dict(load_file(folder / _VAE))
    return of_vae(model.eval(), styles, side)


def _tree(vae: ImageVaeSettings, crops: CropSettings) -> StyleVaeSettings:
    """The settings of the training, all of them; of its schedules those of the system."""
    base = StyleVaeSettings()
    return StyleVaeSettings(
        model=ModelSettings(vae=vae.network),
        loss=LossSettings(kl=TermSettings(weight=vae.beta)),
        data=crops.of_crops,
        optimizer=OptimizerSettings(
            lr=vae.lr, warmup=base.optimizer.warmup, final=base.optimizer.final
        ),
        train=TrainSettings(
            steps=vae.steps,
            batch_size=vae.batch_size,
            report_every=vae.steps,
            validation_batch_size=base.train.validation_batch_size,
            seed=vae.seed,
            tensorboard=False,
        ),
    )


def _train(settings: StyleVaeSettings, folder: Path, cache: Path) -> None:
    """Trains one and writes `folder/vae.safetensors`.

    Raises:
        RuntimeError: in a worker of a group.
    """
    system: Any = StyleVae()
    newest = train_within(
        system,
        settings,
        system.prepare(settings, cache),
        folder / "training",
        name="autoencoder of images",
        column="val.psnr_db",
        shown="{:.1f} dB",
    )
    write_tensors(folder / _VAE, open_checkpoint(newest).modules["vae"].state_dict())
    shutil.rmtree(folder / "training")
