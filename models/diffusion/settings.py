"""Settings of the networks of the diffusion: UNet, DiT, HDiT and UViT, in 2-D and 3-D, the
published sizes of each, and a control branch beside a UNet.

Shapes: `*S` the space that is diffused, (H, W) or (D, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from settings.schema import Settings, SettingsError, setting

KINDS = ("unet", "dit", "hdit", "uvit")
PATCH_SIZES = (1, 2, 4, 8)
CONDITIONINGS = ("concat", "cross_attn")


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """How large a transformer is. `depth` counts its blocks; in a HDiT `level_depths` does."""

    width: int
    heads: int
    depth: int = 0


DIT_SIZES: Mapping[str, TransformerSize] = MappingProxyType(
    {
        "demo": TransformerSize(width=64, heads=4, depth=4),
        "demo-B": TransformerSize(width=128, heads=8, depth=4),
        "demo-L": TransformerSize(width=176, heads=11, depth=8),
        "S": TransformerSize(width=384, heads=6, depth=12),
        "B": TransformerSize(width=768, heads=12, depth=12),
        "L": TransformerSize(width=1024, heads=16, depth=24),
        "XL": TransformerSize(width=1152, heads=16, depth=28),
    }
)
"""arXiv 2212.09748, table 1; for the demo S, B and L with a third of the blocks and a sixth of the
width, in whole heads.
"""

HDIT_SIZES: Mapping[str, TransformerSize] = MappingProxyType(
    {
        "demo": TransformerSize(width=48, heads=4),
        "S": TransformerSize(width=384, heads=6),
        "B": TransformerSize(width=768, heads=12),
        "L": TransformerSize(width=1024, heads=16),
        "XL": TransformerSize(width=1152, heads=16),
    }
)
"""The widths of DiT."""

UVIT_SIZES: Mapping[str, TransformerSize] = MappingProxyType(
    {
        "demo": TransformerSize(width=64, heads=4, depth=5),
        "S": TransformerSize(width=512, heads=8, depth=13),
        "S-Deep": TransformerSize(width=512, heads=8, depth=17),
        "M": TransformerSize(width=768, heads=12, depth=17),
        "L": TransformerSize(width=1024, heads=16, depth=21),
    }
)
"""arXiv 2209.12152, table 1, and a small one for the demo."""


@dataclass(frozen=True, kw_only=True)
class UnetSettings(Settings):
    """DiffusionModelUNet of latent diffusion (arXiv 2112.10752), from MONAI."""

    widths: tuple[int, ...] = setting(
        (16, 32, 32),
        "channels of the levels, finest first; each level but the last halves every side",
        low=1,
        high=4096,
    )
    res_blocks: int = setting(1, "residual blocks a level", low=1, high=8)
    attention: int = setting(
        1,
        "coarsest levels with self-attention; the middle, at the coarsest level, has it always",
        low=0,
        high=8,
    )
    head_width: int = setting(
        32,
        "channels of an attention head; divides the widths of the levels with attention",
        low=1,
        high=1024,
    )
    norm_groups: int = setting(16, "groups of GroupNorm; divides every width", low=1, high=128)

    def check(self) -> None:
        if not self.widths:
            raise SettingsError("model.unet.widths needs one level or more, such as (16, 32, 32).")
        if any(width % self.norm_groups for width in self.widths):
            raise SettingsError(
                f"model.unet.norm_groups must divide every width, not {self.norm_groups} of "
                f"{self.widths}. Set it to {math.gcd(*self.widths)} or a divisor of that."
            )
        attended = self.widths[-max(1, self.attention) :]
        if any(width % self.head_width for width in attended):
            raise SettingsError(
                "model.unet.head_width must divide the widths of the levels with attention, not "
                f"{self.head_width} of {attended}. Set it to {math.gcd(*attended)} or a divisor "
                "of that."
            )


UNET_SIZES: Mapping[str, UnetSettings] = MappingProxyType(
    {
        "demo": UnetSettings(),
        "default": UnetSettings(
            widths=(128, 256, 256), attention=2, head_width=256, norm_groups=32
        ),
        "default_4lvl": UnetSettings(
            widths=(128, 256, 256, 512), attention=2, head_width=256, norm_groups=32
        ),
        "default_3d": UnetSettings(
            widths=(16, 32, 64, 256, 512, 512), attention=2, head_width=256, norm_groups=16
        ),
        "default_3d_5lvl": UnetSettings(
            widths=(32, 64, 256, 512, 512), attention=2, head_width=256, norm_groups=16
        ),
        "wdm_3d": UnetSettings(
            widths=(64, 128, 128, 256, 256), head_width=256, norm_groups=32, attention=0
        ),
    }
)
"""The document's. It has no numbers for `default_3d_5lvl`: ours is `default_3d` without its finest
level. `wdm_3d` has attention in the middle alone.
"""


@dataclass(frozen=True, kw_only=True)
class DitSettings(Settings):
    """Diffusion transformer (DiT, arXiv 2212.09748; as a flow SiT, 2401.08740)."""

    size: str = setting("demo", "width, blocks and heads", choices=tuple(DIT_SIZES))
    patch_size: int = setting(
        4, "side of a patch, in cells of what is diffused", choices=PATCH_SIZES
    )
    positions: str = setting(
        "learned",
        "sines and cosines of the patch's place, trained from there or fixed",
        choices=("learned", "fixed"),
    )
    qk_norm: bool = setting(True, "LayerNorm on the queries and keys of every head")
    drop_path: float = setting(
        0.0,
        "probability that a sample leaves out a branch of the last block in training; less before "
        "it, linearly down to 0 in the first",
        low=0.0,
        high=0.9,
    )
    conditioning: str = setting(
        "concat",
        "how a condition image enters: as channels of the input, or by a cross-attention to its "
        "patches in every block",
        choices=CONDITIONINGS,
    )


@dataclass(frozen=True, kw_only=True)
class HditSettings(Settings):
    """Hourglass of DiT blocks: tokens are merged between levels, 2 x 2 or 2 x 2 x 2 into one, and
    split again, with skip connections (after U-DiT, arXiv 2405.02730).
    """

    size: str = setting("demo", "width and heads", choices=tuple(HDIT_SIZES))
    patch_size: int = setting(
        4, "side of a patch, in cells of what is diffused", choices=PATCH_SIZES
    )
    level_depths: tuple[int, ...] = setting(
        (2, 4, 6, 4, 2),
        "blocks a level, down to the coarsest and up again: an odd number of levels",
        low=1,
        high=64,
    )
    positions: str = setting(
        "learned",
        "of each level: sines and cosines of a token's place, trained from there or fixed",
        choices=("learned", "fixed"),
    )
    qk_norm: bool = setting(True, "LayerNorm on the queries and keys of every head")
    drop_path: float = setting(
        0.0,
        "probability that a sample leaves out a branch of the last block in training; less before "
        "it, linearly down to 0 in the first",
        low=0.0,
        high=0.9,
    )

    def check(self) -> None:
        if len(self.level_depths) % 2 == 0:
            raise SettingsError(
                "model.hdit.level_depths needs an odd number of levels (down, the coarsest, up), "
                f"not {self.level_depths}. An example: (2, 4, 6, 4, 2)."
            )


@dataclass(frozen=True, kw_only=True)
class UvitSettings(Settings):
    """Vision transformer with long skip connections and the time as a token (U-ViT, arXiv
    2209.12152).
    """

    size: str = setting("demo", "width, blocks and heads", choices=tuple(UVIT_SIZES))
    patch_size: int = setting(
        4, "side of a patch, in cells of what is diffused", choices=PATCH_SIZES
    )
    qk_norm: bool = setting(False, "LayerNorm on the queries and keys of every head")
    time_mlp: bool = setting(
        False, "two linear layers between the sinusoids of the time and its token"
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The network; only the node of `kind` is read."""

    kind: str = setting("unet", "which network", choices=KINDS)
    spatial_dims: int = setting(2, "of the images: 2 slices, 3 volumes", choices=(2, 3))
    checkpointing: bool = setting(
        False, "recompute activations in the backward pass: less memory, more time"
    )
    unet: UnetSettings = field(default_factory=UnetSettings)
    dit: DitSettings = field(default_factory=DitSettings)
    hdit: HditSettings = field(default_factory=HditSettings)
    uvit: UvitSettings = field(default_factory=UvitSettings)

    @property
    def conditioning(self) -> str:
        """How a condition image enters, one of `CONDITIONINGS`."""
        return self.dit.conditioning if self.kind == "dit" else "concat"

    @property
    def divisors(self) -> tuple[int, ...]:
        """By what the sides of `*S` must be divisible, one number for each axis."""
        divisor = {
            "unet": 2 ** (len(self.unet.widths) - 1),
            "dit": self.dit.patch_size,
            "hdit": self.hdit.patch_size * 2 ** (len(self.hdit.level_depths) // 2),
            "uvit": self.uvit.patch_size,
        }[self.kind]
        return (divisor,) * self.spatial_dims

    def check_size(self, size: Sequence[int]) -> None:
        """Refuses sides that the network cannot divide.

        Raises:
            SettingsError: with what to change.
        """
        divisors = self.divisors
        if len(size) != len(divisors) or any(
            side < 1 or side % divisor for side, divisor in zip(size, divisors, strict=True)
        ):
            key = {"unet": "widths", "hdit": "level_depths or patch_size"}
            raise SettingsError(
                f"this {self.kind} takes images whose sides are multiples of {_by(divisors)}, not "
                f"{_by(size)}. Change the size of the images, or "
                f"model.{self.kind}.{key.get(self.kind, 'patch_size')}."
            )


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))


@dataclass(frozen=True, kw_only=True)
class ControlSettings(Settings):
    """A branch that learns to follow lesion masks, beside a frozen UNet that was trained before.
    """

    enabled: bool = setting(
        False, "train a control branch alone, on the network of train.init_from"
    )
    widths: tuple[int, ...] = setting(
        (16, 32, 96, 256),
        "channels of what reads the mask; each behind the first halves its sides, down to those "
        "of what is diffused: four fit latents of factor 8, one fits pixels",
        low=1,
        high=4096,
    )
    scale: float = setting(1.0, "of what the branch adds", low=0.0, high=10.0)
    dropout: float = setting(
        0.15, "share of the training samples whose mask is not given", low=0.0, high=1.0
    )

    def check(self) -> None:
        if not self.widths:
            raise SettingsError("control.widths needs one width or more, such as (16,).")

    def check_size(self, images: Sequence[int], cells: Sequence[int]) -> None:
        """Refuses widths that do not lead from a mask's sides to those of what is diffused.

        Raises:
            SettingsError: with how many are needed, where any number fits.
        """
        factor = 2 ** (len(self.widths) - 1)
        if all(side == factor * cell for side, cell in zip(images, cells, strict=True)):
            return
        factors = {side / cell for side, cell in zip(images, cells, strict=True)}
        shown = " x ".join(f"{side / cell:g}" for side, cell in zip(images, cells, strict=True))
        fitting = [n for n in range(1, 12) if factors == {2.0 ** (n - 1)}]
        way = f"Give it {fitting[0]}" if fitting else "Use a space whose factor is a power of 2"
        raise SettingsError(
            f"control.widths has {len(self.widths)} widths and shrinks masks by {factor}, and "
            f"what is diffused is smaller than the image by {shown}. {way}."
        )
