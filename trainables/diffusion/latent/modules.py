"""The frozen networks of a diffusion of latents, and what they make of its space and its masks."""

from __future__ import annotations

from torch import nn

from models.diffusion.latent_space import Cells, LatentSpace
from trainables.diffusion.latent import autoencoder
from trainables.diffusion.latent.autoencoder import FrozenAutoencoder, Meta
from trainables.diffusion.latent.latents import PreparedLatents
from trainables.diffusion.latent.masks import BitPlanes, EncodedMask, MaskEntry
from trainables.diffusion.settings import MaskSettings
from trainables.external import External

AUTOENCODER, MASK_ENCODER = "autoencoder", "mask_encoder"
"""Modules whose weights lie beside a training and in none of its checkpoints."""


def latents_meta(latents: PreparedLatents) -> Meta:
    """What a checkpoint says of latents, from which everything here is made again."""
    masks = {} if latents.masks is None else {"masks": latents.masks.meta}
    return {**latents.meta, **masks}


def space_of(meta: Meta, dims: int, weights: External | None = None) -> LatentSpace:
    """The space of latents, not standardised yet, with their autoencoder where it is known."""
    known = meta.get("autoencoder")
    codec = autoencoder.made(known, dims, weights) if known else None
    return LatentSpace(Cells(meta["channels"], tuple(meta["factors"])), codec)


def mask_encoder_of(
    meta: Meta, dims: int, weights: External | None = None
) -> FrozenAutoencoder | None:
    """The encoder of masks; None where masks enter otherwise, or not."""
    known = meta.get("masks")
    return autoencoder.made(known, dims, weights) if known else None


def mask_entry(
    settings: MaskSettings, meta: Meta, encoder: FrozenAutoencoder | None
) -> MaskEntry | None:
    """How masks enter latents; None where they do not."""
    if not settings.enabled:
        return None
    if encoder is None:
        return BitPlanes(meta["factors"], meta["channels"])
    channels = encoder.model.settings.latent_channels
    return EncodedMask(channels, meta["masks"]["moments"], encoder)


def externals(latents: PreparedLatents) -> dict[str, External]:
    """The files that hold the weights of the frozen networks, by the name of the module."""
    masks = latents.masks
    weights = {AUTOENCODER: latents.weights, MASK_ENCODER: masks.weights if masks else None}
    return {name: file for name, file in weights.items() if file is not None}


def frozen_modules(
    space: LatentSpace, encoder: FrozenAutoencoder | None
) -> dict[str, nn.Module]:
    """The frozen networks that there are, by name."""
    pairs = {AUTOENCODER: space.codec, MASK_ENCODER: encoder}
    return {name: module for name, module in pairs.items() if module is not None}
