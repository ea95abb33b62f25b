"""The settings of a control branch (`models.diffusion.control`).

Shapes: `*S` sides of the image, `*s` of what is diffused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from settings.schema import Settings, SettingsError, setting


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
