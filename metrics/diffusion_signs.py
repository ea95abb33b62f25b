"""The signs that a training of diffusion is ill: images that are all alike or too different, a
network that does not look at the time, a moving average that lags behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metrics.health import STOP_HELP, HealthSettings
from metrics.health_signs import SIGNS, MeasuredSign
from settings.schema import setting

SPREAD, TIME_RESPONSE, AVERAGE_ERROR = "generated_spread", "time_response", "average_error"
"""Columns of validation."""

_MEASURED = (
    MeasuredSign(
        "spread_low",
        f"val.{SPREAD}",
        "images that are made are all alike: their deviation over that of the data",
        warns_below=True,
    ),
    MeasuredSign(
        "spread_high",
        f"val.{SPREAD}",
        "images that are made differ more than the data do: their deviation over that of the data",
    ),
    MeasuredSign(
        "time_response",
        f"val.{TIME_RESPONSE}",
        "what is predicted does not depend on the time (see train.precision, optimizer.lr): "
        "relative deviation over times",
        warns_below=True,
    ),
    MeasuredSign(
        "average_behind",
        f"val.{AVERAGE_ERROR}",
        "the moving average is behind the weights (see train.ema_decay, ema_start): its squared "
        "error over theirs",
    ),
)


@dataclass(frozen=True, kw_only=True)
class DiffusionHealthSettings(HealthSettings):
    """Health thresholds of a diffusion."""

    measured: ClassVar[tuple[MeasuredSign, ...]] = _MEASURED

    spread_low: float = setting(
        0.5, "warn below: deviation between images that are made over that of the data", low=0.0
    )
    spread_high: float = setting(2.0, "warn above: the same", low=0.0)
    time_response: float = setting(
        1e-6, "warn below: relative deviation over times of what is predicted", low=0.0
    )
    average_behind: float = setting(
        2.0,
        "warn above: squared error of the moving average over that of the last weights",
        low=0.0,
    )
    stop: tuple[str, ...] = setting(
        (), STOP_HELP, choices=(*SIGNS, *(sign.name for sign in _MEASURED))
    )
