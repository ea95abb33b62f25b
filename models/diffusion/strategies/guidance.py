"""Classifier-free guidance, by a factor that is linear in t."""

from __future__ import annotations

from torch import Tensor

from models.diffusion.strategies.interface import Predict
from models.diffusion.strategies.settings import GuidanceSettings
from models.integration import guided
from settings.schema import SettingsError


def is_guided(settings: GuidanceSettings) -> bool:
    """Whether an unconditional prediction is asked for at all."""
    return (settings.start, settings.end) != (1.0, 1.0)


def check_guidance(settings: GuidanceSettings, dropout: float) -> None:
    """Raises SettingsError where guidance is asked of a network that no dropout of its condition
    has taught an unconditional prediction (001-M21: dense masks, whose dropout is 0).

    Args:
        dropout: the share of training samples without their condition.
    """
    if is_guided(settings) and dropout <= 0.0:
        raise SettingsError(
            "guidance needs a network that was trained without its condition at times, and this "
            f"one's dropout is {dropout:g}, or it has no condition: sampling.guidance must stay "
            f"at 1, not {settings.start:g} to {settings.end:g}. Set both ends to 1, or train with "
            "a condition (condition.*) whose dropout is above 0."
        )


def guidance_weight(settings: GuidanceSettings, t: Tensor) -> Tensor:
    """w at t: `start` at t = 1, where sampling begins, and `end` at t = 0."""
    return settings.end + (settings.start - settings.end) * t


def guided_prediction(
    conditional: Predict, unconditional: Predict | None, settings: GuidanceSettings
) -> Predict:
    """p_u + w(t) (p_c - p_u). At one x and t a velocity is linear in the prediction, so that
    guiding the one is guiding the other, whatever is predicted.

    Raises:
        ValueError: guidance without an unconditional prediction.
    """
    if not is_guided(settings):
        return conditional
    if unconditional is None:
        raise ValueError(
            f"guidance of {settings.start:g} to {settings.end:g} needs the unconditional "
            "prediction. Give it, or set sampling.guidance.start and end to 1."
        )
    return guided(conditional, unconditional, lambda t: guidance_weight(settings, t))
