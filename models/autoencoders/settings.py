"""Settings of the autoencoders of images and volumes: VAE, VQ-VAE and DC-AE, in 2-D and 3-D.

Shapes: `*S` the space, (H, W) or (D, H, W); c and `*s` of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from models.autoencoders.structured_latent import StructuredSettings
from settings.schema import Settings, SettingsError, setting

KINDS = ("vae", "vqvae", "dcae")

PURE_WEIGHTS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Names of precisions in the settings -> in torch."""

HEAD_WIDTH = 32
"""Channels per head of DC-AE's linear attention; the widths of its stages are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class VaeSettings(Settings):
    """AutoencoderKL of latent diffusion (arXiv 2112.10752), from MONAI."""

    widths: tuple[int, ...] = setting(
        (8, 16, 32),
        "channels of the levels, finest first; each level but the last halves every side",
        low=1,
        high=4096,
    )
    latent_channels: int = setting(3, "channels of the latent", low=1, high=1024)
    res_blocks: int = setting(1, "residual blocks a level", low=1, high=8)
    attention: int = setting(
        0,
        "coarsest levels with self-attention; with 0 there is none in the middle either",
        low=0,
        high=8,
    )
    norm_groups: int = setting(4, "groups of GroupNorm; divides every width", low=1, high=128)
    shortcut: str = setting(
        "none",
        "what is added to the mean of the latent and to the reconstruction: nothing, or a linear "
        "map of each cell and those around it, which begins as the cosine transform of the cell "
        "and is trained with the network; or that map alone, without the network "
        "(lapped_alone): what a network has to beat",
        choices=("none", "lapped", "lapped_alone"),
    )

    def check(self) -> None:
        _need_levels("model.vae.widths", self.widths)
        if any(width % self.norm_groups for width in self.widths):
            raise SettingsError(
                f"model.vae.norm_groups must divide every width, not {self.norm_groups} of "
                f"{self.widths}. Set it to {math.gcd(*self.widths)} or a divisor of that."
            )


@dataclass(frozen=True, kw_only=True)
class VqvaeSettings(Settings):
    """VQ-VAE with a codebook of moving averages (arXiv 1711.00937, A.1), from MONAI."""

    widths: tuple[int, ...] = setting(
        (16, 32),
        "channels of the stages, finest first; each is a convolution of size 4 that halves every "
        "side",
        low=1,
        high=4096,
    )
    res_blocks: int = setting(1, "residual blocks a stage", low=0, high=8)
    codes: int = setting(512, "entries of the codebook", low=2, high=65536)
    code_width: int = setting(3, "numbers in a code: channels of the latent", low=1, high=1024)
    decay: float = setting(0.99, "of the moving averages behind the codes", low=0.0, high=0.99999)
    epsilon: float = setting(
        1e-5, "added to the uses of a code before the codes are divided by them", low=0.0, high=1.0
    )
    start: str = setting(
        "normal",
        "where the codes begin: random numbers, or k-means of what the encoder makes in the first "
        "update",
        choices=("normal", "kmeans"),
    )
    revive: str = setting(
        "none",
        "what becomes of codes that are hardly used: nothing, or they begin anew at random cells "
        "of the encoder's output",
        choices=("none", "encoder"),
    )
    revive_below: float = setting(
        0.25,
        "revive=encoder: share of the mean uses of a code below which one begins anew",
        low=0.0,
        high=1.0,
    )

    def check(self) -> None:
        if not self.widths:
            raise SettingsError("model.vqvae.widths needs one stage or more, such as (16, 32).")


@dataclass(frozen=True, kw_only=True)
class DcaeSettings(Settings):
    """Deep compression autoencoder (DC-AE, arXiv 2410.10733): in 2-D that of diffusers, in 3-D
    ours, of residual blocks throughout.
    """

    latent_channels: int = setting(16, "channels of the latent", low=1, high=4096)
    widths: tuple[int, ...] = setting(
        (8, 16, 32, 64),
        "channels of the stages, finest first; each but the last halves height and width",
        low=1,
        high=8192,
    )
    layers: tuple[int, ...] = setting(
        (0, 1, 1, 1),
        "the encoder's blocks a stage; 0 for the first stage: it only halves the sides",
        low=0,
        high=32,
    )
    decoder_layers: tuple[int, ...] = setting(
        (0, 1, 1, 1), "the decoder's blocks a stage, finest first as well", low=0, high=32
    )
    depth_factors: tuple[int, ...] = setting(
        (2, 2, 1), "3-D only: by what each stage but the last divides the depth", low=1, high=2
    )
    attention: int = setting(
        1, "2-D only: coarsest stages with linear attention (EfficientViT)", low=0, high=16
    )
    multiscale: bool = setting(
        False, "2-D only: the attention also sees keys and values aggregated over 5 x 5"
    )
    batch_norm: int = setting(
        0,
        "2-D only: finest stages of the decoder with BatchNorm and ReLU, as the published "
        "ImageNet networks have them, instead of RMSNorm and SiLU",
        low=0,
        high=16,
    )
    strided: bool = setting(
        False,
        "2-D only: convolutions of stride 2 down and nearest neighbours up, as in the published "
        "network of Sana, instead of moving pixels into channels",
    )
    adaptive_layers: bool = setting(
        True,
        "structured latents only: the two convolutions at the latent compute the kept channels "
        "alone, with equal results",
    )
    structured: StructuredSettings = field(default_factory=StructuredSettings)

    def check(self) -> None:
        _need_levels("model.dcae.widths", self.widths)
        stages = len(self.widths)
        for name in ("layers", "decoder_layers"):
            layers = getattr(self, name)
            if len(layers) != stages or 0 in layers[1:]:
                raise SettingsError(
                    f"model.dcae.{name} has one number for each of the {stages} stages "
                    f"(model.dcae.widths), 0 at most for the first, not {layers}."
                )
        if self.widths[-1] % self.latent_channels:
            raise SettingsError(
                "model.dcae.latent_channels must divide the last width (the shortcut averages "
                f"groups of channels), not {self.latent_channels} of {self.widths[-1]}."
            )
        if self.structured.enabled:
            self.structured.options(self.latent_channels)

    def check_dims(self, dims: int) -> None:
        """The rules that depend on the number of dimensions."""
        stages = len(self.widths)
        if dims == 3 and len(self.depth_factors) != stages - 1:
            raise SettingsError(
                f"model.dcae.depth_factors has one factor for each of the {stages} stages but the "
                f"last (model.dcae.widths), not {self.depth_factors}."
            )
        has_blocks = max(self.layers[0], self.decoder_layers[0]) > 0
        for stage, (fine, coarse) in enumerate(pairwise(self.widths)):
            cells = 4 * (self.depth_factors[stage] if dims == 3 else 1)
            has_shortcut = stage > 0 or has_blocks
            if coarse % cells or (has_shortcut and fine * cells % coarse):
                raise SettingsError(
                    f"model.dcae.widths: stage {stage + 1} moves {cells} pixels into the "
                    f"channels, so the next width must be a multiple of {cells} and divide "
                    f"{cells} times its own, not {coarse} after {fine}."
                )
        attended = self.widths[stages - min(self.attention, stages) :]
        if dims == 2 and any(width % HEAD_WIDTH for width in attended):
            raise SettingsError(
                f"stages with attention must be a multiple of {HEAD_WIDTH} wide, not {attended}: "
                "change model.dcae.widths, or lower model.dcae.attention."
            )


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The autoencoder; only the node of `kind` is read."""

    kind: str = setting("vae", "which autoencoder", choices=KINDS)
    spatial_dims: int = setting(2, "of the images: 2 slices, 3 volumes", choices=(2, 3))
    checkpointing: bool = setting(
        False, "recompute activations in the backward pass: less memory, more time"
    )
    pure_weights: str = setting(
        "no",
        "keep the parameters themselves in this precision; codebooks stay in fp32, and so do the "
        "optimizer's moments with bf16",
        choices=tuple(PURE_WEIGHTS),
    )
    pretrained: str = setting(
        "",
        "2-D dcae: folder or hub name of a diffusers AutoencoderDC to start from, such as "
        "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers; the shape settings must describe it",
    )
    seg_mode: bool = setting(
        False, "dcae and vqvae: the images are masks, the decoder makes logits of them"
    )
    phase: int = setting(
        1,
        "dcae: 1 trains everything, 2 the layers around the latent, 3 the decoder's head",
        choices=(1, 2, 3),
    )
    vae: VaeSettings = field(default_factory=VaeSettings)
    vqvae: VqvaeSettings = field(default_factory=VqvaeSettings)
    dcae: DcaeSettings = field(default_factory=DcaeSettings)

    def check(self) -> None:
        if self.kind == "dcae":
            self.dcae.check_dims(self.spatial_dims)
        elif self.phase != 1:
            raise SettingsError(
                f"model.phase={self.phase} is a phase of DC-AE: use model.kind=dcae or "
                "model.phase=1."
            )
        if self.pretrained and (self.kind != "dcae" or self.spatial_dims != 2):
            raise SettingsError(
                "model.pretrained takes a 2-D DC-AE: use model.kind=dcae with "
                f"model.spatial_dims=2 instead of {self.kind} with {self.spatial_dims}, or leave "
                "it empty."
            )
        if self.seg_mode and self.kind == "vae":
            raise SettingsError(
                "model.seg_mode is for model.kind=dcae or vqvae (as in the document), not vae."
            )

    @property
    def draws_by_update(self) -> bool:
        """Whether a training draws once for all samples of an update: a number of channels."""
        return self.kind == "dcae" and self.dcae.structured.enabled

    @property
    def latent_channels(self) -> int:
        """The number of latent channels, c."""
        if self.kind == "vqvae":
            return self.vqvae.code_width
        return self.vae.latent_channels if self.kind == "vae" else self.dcae.latent_channels

    @property
    def factors(self) -> tuple[int, ...]:
        """Pixels per cell of the latent along each axis of `*S`."""
        halvings = {
            "vae": len(self.vae.widths) - 1,
            "vqvae": len(self.vqvae.widths),
            "dcae": len(self.dcae.widths) - 1,
        }[self.kind]
        if self.kind == "dcae" and self.spatial_dims == 3:
            return (math.prod(self.dcae.depth_factors), 2**halvings, 2**halvings)
        return (2**halvings,) * self.spatial_dims

    def latent_shape(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """(c, *s) of an image of size `spatial`.

        Raises:
            SettingsError: a side is not a whole number of cells.
        """
        factors = self.factors
        if len(spatial) != len(factors) or any(
            side < 1 or side % factor for side, factor in zip(spatial, factors, strict=True)
        ):
            raise SettingsError(
                f"this {self.kind} takes images whose sides are multiples of {_by(factors)}, not "
                f"{_by(spatial)}. Change the size of the images, or the number of stages "
                f"(model.{self.kind}.widths)."
            )
        cells = (side // factor for side, factor in zip(spatial, factors, strict=True))
        return (self.latent_channels, *cells)


def _need_levels(key: str, widths: Sequence[int]) -> None:
    if len(widths) < 2:
        raise SettingsError(f"{key} needs two levels or more, not {tuple(widths)}.")


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
