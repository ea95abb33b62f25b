"""Shifted data augmentation (SDA): a second loss on turned or flipped clean images, at times that
are shifted to the noise.

Nothing is derived about the shift: it is a hyper-parameter (001-M7).

Shapes: B samples; seeds int64 [B]; t [B] in [0, 1], 0 clean, 1 noise; `*S` (H, W) or (D, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.score_aug.draws import draw_symmetry
from models.diffusion.score_aug.settings import PER, check_turns
from models.diffusion.score_aug.transforms import Plan, symmetries
from models.draws import draw_uniform
from settings.schema import Settings, SettingsError, setting

FORMS = ("normalised", "document")
SCALE = 1000.0
"""The document's times, which are t times it."""


@dataclass(frozen=True, kw_only=True)
class SdaSettings(Settings):
    """Which images are augmented, and how far their times are shifted."""

    probability: float = setting(
        0.5, "share of the training samples that are augmented", low=0.0, high=1.0
    )
    shift: float = setting(0.1, "of the time, towards the noise", low=0.0, high=0.5)
    rotation: bool = setting(True, "quarter turns in the H-W plane; need H = W")
    flip: bool = setting(True, "flips of an axis")
    per: str = setting(
        "sample", "each sample has a draw of its own, or all of an update one", choices=PER
    )
    form: str = setting(
        "normalised",
        "t + shift, reflected at 1; or the document's, which adds the shift to a time of 0 ... "
        "1000 and cuts at 1, so that nearly all images are all but clean, and which leaves "
        "condition images as they are (001-M7)",
        choices=FORMS,
    )

    def check(self) -> None:
        if not (self.rotation or self.flip):
            raise SettingsError(
                "loss.sda has neither turns nor flips. Set loss.sda.rotation=true or "
                "loss.sda.flip=true; loss.sda.enabled=false turns it off."
            )

    def check_sides(self, sides: Sequence[int]) -> None:
        """Refuses `*S` that cannot be turned.

        Raises:
            SettingsError: with what to change.
        """
        check_turns("loss.sda", self.rotation, sides)

    @property
    def moves_conditions(self) -> bool:
        """Whether condition images (masks) are transformed with the image they belong to."""
        return self.form == "normalised"


@dataclass(frozen=True, kw_only=True)
class SdaDraw:
    """The augmented half of a step.

    Attributes:
        is_used: bool [B], the samples that are in it.
        t: float32 [B], shifted where it is in it.
        plan: what is done to image and noise, and to condition images if `moves_conditions`.
    """

    is_used: Tensor
    t: Tensor
    plan: Plan


def draw_sda(settings: SdaSettings, seeds: Tensor, t: Tensor, sides: Sequence[int]) -> SdaDraw:
    """What of a step is augmented, and how: a turn or a flip, all equally likely.

    Args:
        seeds: int64 [B], the samples' own; with `per=batch`, which makes of the first one a draw
            for all, the update's (`update_seed`).
        t: [B], as drawn for the images as they are.
        sides: `*S` of what is transformed.

    Raises:
        SettingsError: sides that cannot be turned.
    """
    settings.check_sides(sides)
    if settings.per == "batch":
        seeds = seeds[:1].expand(len(seeds))
    is_used = draw_uniform(seeds, "sda.used") < settings.probability
    table = symmetries(settings.rotation, settings.flip, len(sides), combined=False)
    turns, flip = draw_symmetry(seeds, "sda.spatial", table, is_used)
    used = is_used.to(t.device)
    return SdaDraw(
        is_used=used,
        t=torch.where(used, shifted(t, settings), t.float()),
        plan=Plan(
            dimensions=len(sides), turns=turns, flip=flip, needs_square=settings.rotation
        ).to(t.device),
    )


def shifted(t: Tensor, settings: SdaSettings) -> Tensor:
    """Float32 [B], the times of augmented images.

    normalised: t + shift, reflected at 1, so that none gather there. Where times are steps it may
    lie between two of them; `on_grid` takes the next.

    document: min(1000 t + shift, 1) / 1000, what its code makes of its times. Every t from
    (1 - shift) / 1000 on becomes 1 / 1000.
    """
    exact = t.double()
    if settings.form == "document":
        return ((SCALE * exact + settings.shift).clamp(0.0, 1.0) / SCALE).float()
    return (1.0 - (1.0 - (exact + settings.shift)).abs()).float()
