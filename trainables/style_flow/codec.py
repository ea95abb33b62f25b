"""Images to the latents that a flow transfers, and back: a frozen autoencoder, ours or a folder of
diffusers' `AutoencoderKL`, with the scale of its latents and one of each style to show.

Shapes: B images [B, 3, H, W] in [-1, 1]; latents [B, c, h, w] of deviation 1; K styles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data.style.images import from_unit, to_unit
from models.autoencoders.settings import ModelSettings
from models.autoencoders.vae import Vae
from settings.flat import flatten, replace
from trainables.api import SettingsError

AT_ONCE = 32
"""Images that are encoded or decoded together."""

Meta = Mapping[str, Any]
"""As JSON holds it."""


class Autoencoder(Protocol):
    """Images in [0, 1]."""

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


class Published(nn.Module):
    """diffusers' `AutoencoderKL`, whose latent is the mean, as an autoencoder of images in
    [0, 1].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def encode(self, image: Tensor) -> Tensor:
        mean: Tensor = self.network.encode(from_unit(image)).latent_dist.mode()
        return mean

    def decode(self, latent: Tensor) -> Tensor:
        image: Tensor = self.network.decode(latent).sample
        return to_unit(image)


class ImageCodec(nn.Module):
    """standardised = (latent - shift) / deviation, a shift for each channel and one deviation for
    all: their relative strengths stay.

    Attributes:
        factor: pixels along a side of a cell.
        examples: latents [K, c, h, w], one of each style.
    """

    def __init__(
        self, autoencoder: nn.Module, factor: int, channels: int, example: tuple[int, ...]
    ) -> None:
        """Args: example: [K, c, h, w] of the examples."""
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.factor = factor
        self.shift: Tensor
        self.deviation: Tensor
        self.examples: Tensor
        self.register_buffer("shift", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("examples", torch.zeros(example))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> ImageCodec:
        """It never learns."""
        super().train(False)
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, c, h, w]"""
        return (self.raw(images) - self.shift) / self.deviation

    @torch.no_grad()
    def raw(self, images: Tensor) -> Tensor:
        """The latents before they are scaled."""
        parts = [self.autoencoder.encode(to_unit(part)) for part in images.split(AT_ONCE)]
        return torch.cat(parts).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, 3, H, W]"""
        restored = latents * self.deviation + self.shift
        parts = [self.autoencoder.decode(part) for part in restored.split(AT_ONCE)]
        return from_unit(torch.cat(parts).float().clamp(0.0, 1.0))

    @torch.no_grad()
    def measure(self, latents: Tensor) -> None:
        """Sets the scale by latents as `raw` gives them, of the training split."""
        values = latents.double()
        shift = values.mean(dim=(0, 2, 3), keepdim=True)[0]
        self.shift.copy_(shift)
        self.deviation.copy_((values - shift).square().mean().sqrt())


def meta_of(codec: ImageCodec) -> Meta:
    """From which `made` makes it again."""
    shapes = {
        "factor": codec.factor,
        "channels": len(codec.shift),
        "examples": list(codec.examples.shape),
    }
    inner = codec.autoencoder
    if isinstance(inner, Published):
        return {**shapes, "published": json.loads(inner.network.to_json_string())}
    return {**shapes, "network": flatten(inner.settings)}


def made(meta: Meta) -> ImageCodec:
    """The codec that `meta_of` describes; its weights follow."""
    if "published" in meta:
        from diffusers import AutoencoderKL

        inner: nn.Module = Published(AutoencoderKL.from_config(meta["published"]))
    else:
        inner = Vae(replace(ModelSettings(), meta["network"]), 3)
    return ImageCodec(inner, meta["factor"], meta["channels"], tuple(meta["examples"]))


def of_vae(vae: Vae, styles: int, side: int) -> ImageCodec:
    """A codec of our autoencoder for images of that side, not yet scaled."""
    channels, *cells = vae.latent_shape((side, side))
    return ImageCodec(vae, vae.settings.factors[0], channels, (styles, channels, *cells))


def of_folder(folder: Path, styles: int, side: int) -> ImageCodec:
    """A codec of a local folder of diffusers' `AutoencoderKL`, not yet scaled. Nothing is fetched.

    Raises:
        SettingsError: there is no such folder, or it is of something else or of other images.
    """
    network: Any = _published(folder)
    channels, factor = (
        network.config.latent_channels,
        2 ** (len(network.config.down_block_types) - 1),
    )
    if network.config.in_channels != 3:
        raise SettingsError(
            f"vae.folder={folder} takes images of {network.config.in_channels} channels, and "
            "these have 3. Name another one, or leave it empty to train one."
        )
    if side % factor:
        raise SettingsError(
            f"data.crop must be a multiple of {factor}, by which vae.folder={folder} divides the "
            f"sides, not {side}."
        )
    cells = side // factor
    return ImageCodec(Published(network), factor, channels, (styles, channels, cells, cells))


def _published(folder: Path) -> nn.Module:
    way_out = "Save one with AutoencoderKL.save_pretrained, or leave it empty to train one."
    if not (folder / "config.json").is_file():
        raise SettingsError(
            f"vae.folder={folder} is no local folder of diffusers' AutoencoderKL: it has no "
            f"config.json. {way_out}"
        )
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_class_name")
    if kind != "AutoencoderKL":
        raise SettingsError(
            f"vae.folder={folder} is a {kind or 'network without a name'} of diffusers, and "
            f"latents come from an AutoencoderKL. {way_out}"
        )
    from diffusers import AutoencoderKL

    try:
        network: nn.Module = AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"vae.folder={folder} cannot be read: {str(error).splitlines()[0]} {way_out}"
        ) from error
    return network
