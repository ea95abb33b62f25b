"""The bound on the log residual: what it is made of, how it is squashed, and the safety clamp
behind it.

    unclamped = scale * squash(raw),   log_delta = safety_clamp(unclamped)

Shapes: B samples, C = 1 or 3 colours; raw [B, 3, H, W], scale [B, C, 1, 1], denom [B, 1, 1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from settings.schema import Settings, SettingsError, setting

CAP_MODES = ("absolute", "proportional", "learnable", "predicted", "unbounded")
REFUSED_CAP_MODES: Mapping[str, str] = {
    "batch_mean": (
        "a cap averaged over the batch makes a sample's output depend on its neighbours in the "
        "batch, so that batch sizes 1 and 8 disagree (and over the axes of one sample it averages "
        "a single number). hdr.cap.mode=proportional takes the contrast of each patch by itself"
    ),
}
"""Modes that the source document discusses and that do not exist here, with the reason."""

SQUASH_LIMIT: Mapping[str, float] = {
    "tanh": 1.0,
    "softsign": 1.0,
    "double_tanh": math.tanh(1.0),
}
"""The supremum of each squashing function: what part of the scale can be reached."""

SOFT_KNEE = 0.75
"""The soft clamp is the identity up to this part of its limit."""

LARGEST_CAP = 64.0
"""exp overflows fp32 at 88.7; the rest is room for the base's own logarithm. In nat."""


@dataclass(frozen=True, kw_only=True)
class CapSettings(Settings):
    """How far the residual may go.

    absolute: scale = alpha * log_delta_max.
    proportional: scale = log_delta_scale * denom, the patch's log range by `hdr.range`, at most
    `LARGEST_CAP`.
    learnable: scale = low + (high - low) * sigmoid(theta), theta a parameter. predicted: the same,
    theta from a small network over statistics of the patch. These two start at scale_init and
    cannot leave [scale_low, scale_high].
    unbounded: scale = theta, from scale_init on: the document's, of any size and sign (004-M7).
    """

    mode: str = setting(
        "absolute", "what the cap is made of", choices=(*CAP_MODES, *REFUSED_CAP_MODES)
    )
    log_delta_max: float = setting(
        16.0, "absolute: the cap before alpha", unit="nat", low=0.1, high=40.0
    )
    alpha: float = setting(1.2, "absolute: factor on log_delta_max", low=0.05, high=4.0)
    log_delta_scale: float = setting(
        0.9, "proportional: cap per log range of the patch", low=0.05, high=3.0
    )
    scale_init: float = setting(
        6.0,
        "learnable, predicted, unbounded: cap at the start",
        unit="nat",
        low=0.1,
        high=LARGEST_CAP,
    )
    scale_low: float = setting(
        2.0, "learnable, predicted: least cap", unit="nat", low=0.0, high=LARGEST_CAP
    )
    scale_high: float = setting(
        24.0, "learnable, predicted: greatest cap", unit="nat", low=0.1, high=LARGEST_CAP
    )
    per_channel: bool = setting(
        False, "learnable, predicted, unbounded: one cap each for R, G and B"
    )
    squash: str = setting(
        "tanh",
        "raw output to (-1, 1); double_tanh reaches 0.762 of the cap only (004-M8)",
        choices=tuple(SQUASH_LIMIT),
    )

    def check(self) -> None:
        if self.mode in REFUSED_CAP_MODES:
            raise SettingsError(
                f"hdr.cap.mode={self.mode} is refused: {REFUSED_CAP_MODES[self.mode]}."
            )
        product = self.alpha * self.log_delta_max
        if self.mode == "absolute" and product > LARGEST_CAP:
            raise SettingsError(
                f"hdr.cap.alpha * hdr.cap.log_delta_max must be at most {LARGEST_CAP:g}, where "
                f"exp is safe in fp32, not {self.alpha:g} * {self.log_delta_max:g} = {product:g}."
            )
        learns = self.mode in ("learnable", "predicted")
        if learns and not self.scale_low < self.scale_init < self.scale_high:
            raise SettingsError(
                "hdr.cap.scale_low < scale_init < scale_high must hold (a scale at its bound has "
                f"no gradient), but got {self.scale_low:g}, {self.scale_init:g}, "
                f"{self.scale_high:g}."
            )


@dataclass(frozen=True, kw_only=True)
class ClampSettings(Settings):
    """A safety clamp on log_delta after the cap, the same in every mode (004-M5: it acted in one
    only).

    hard: limits to [-max, max], gradient 0 beyond.
    soft: for |x| above the knee k = 0.75 max, sign(x) * (k + (max - k) * tanh((|x| - k) / (max -
    k))); continuous with its first derivative. Its gradient vanishes as well, only later (004-M6):
    a penalty on the pre-activation keeps a network away from it.
    """

    enabled: bool = setting(False, "whether log_delta is clamped")
    max: float = setting(8.0, "limit of |log_delta|", unit="nat", low=0.1, high=LARGEST_CAP)
    kind: str = setting("soft", "shape of the clamp", choices=("soft", "hard"))

    @property
    def threshold(self) -> float:
        """|x| up to which the clamp is the identity."""
        return self.max if self.kind == "hard" else SOFT_KNEE * self.max


def proportional_scale(cap: CapSettings, denom: Tensor) -> Tensor:
    """The scale of `mode=proportional`, shaped as denom. No setting bounds a patch's range: one of
    40 nat and a factor of 3 would let exp overflow.
    """
    return (cap.log_delta_scale * denom).clamp(max=LARGEST_CAP)


def squash(kind: str, raw: Tensor) -> Tensor:
    """The raw output in (-1, 1)."""
    if kind == "softsign":
        return F.softsign(raw)
    return raw.tanh().tanh() if kind == "double_tanh" else raw.tanh()


def safety_clamp(settings: ClampSettings, log_delta: Tensor) -> Tensor:
    """log_delta within +-max, as `ClampSettings` has it; as it is where the clamp is off."""
    if not settings.enabled:
        return log_delta
    if settings.kind == "hard":
        return log_delta.clamp(-settings.max, settings.max)
    knee = settings.threshold
    room = settings.max - knee
    beyond = (log_delta.abs() - knee).clamp(min=0.0)
    return log_delta.clamp(-knee, knee) + log_delta.sign() * room * (beyond / room).tanh()


def clamp_active(settings: ClampSettings, unclamped: Tensor) -> Tensor:
    """Where the clamp changes log_delta, bool."""
    if not settings.enabled:
        return torch.zeros_like(unclamped, dtype=torch.bool)
    return unclamped.abs() > settings.threshold


def effective_cap(cap: CapSettings, clamp: ClampSettings, scale: Tensor) -> Tensor:
    """The bound on |log_delta| that squashing and clamp leave of the scale."""
    return safety_clamp(clamp, scale.abs() * SQUASH_LIMIT[cap.squash])


class CapScale(nn.Module):
    """What multiplies the squashed output. The learnt modes but `unbounded` have a sigmoid.

    The source's predictor, softplus clamped to [2, 10], starts at .45 to 1.02, below the clamp, in
    200 of 200 initialisations: without gradient, it never learns (004-M11). Its learnable scale
    has no bound in sign or size (004-M7), and weight decay like any parameter: `unbounded`. The
    other two begin at `scale_init` with a gradient: the predictor's last layer starts so small
    that every patch begins within 1 % of it.
    """

    STATISTICS = 5
    HIDDEN = 16

    def __init__(self, settings: CapSettings) -> None:
        super().__init__()
        self.settings = settings
        channels = 3 if settings.per_channel else 1
        if settings.mode == "learnable":
            self.theta = nn.Parameter(torch.full((channels,), self._start))
        elif settings.mode == "unbounded":
            self.theta = nn.Parameter(torch.full((channels,), settings.scale_init))
        elif settings.mode == "predicted":
            self.hidden = nn.Linear(self.STATISTICS, self.HIDDEN)
            self.output = nn.Linear(self.HIDDEN, channels)
            nn.init.normal_(self.output.weight, std=1e-3)
            nn.init.constant_(self.output.bias, self._start)

    @property
    def _start(self) -> float:
        cap = self.settings
        share = (cap.scale_init - cap.scale_low) / (cap.scale_high - cap.scale_low)
        return math.log(share / (1.0 - share))

    @property
    def no_decay(self) -> frozenset[str]:
        """Parameters that decay would pull, and with them the scale, to mid-range (004-M7)."""
        names = {"learnable": {"theta"}, "predicted": {"output.bias"}}
        return frozenset(names.get(self.settings.mode, ()))

    def forward(self, denom: Tensor, statistics: Tensor) -> Tensor:
        """denom [B, 1, 1, 1], statistics [B, 5] of `models.hdr.head.prepare` -> [B, C, 1, 1]."""
        cap = self.settings
        if cap.mode == "absolute":
            return torch.full_like(denom, cap.alpha * cap.log_delta_max)
        if cap.mode == "proportional":
            return proportional_scale(cap, denom)
        if cap.mode == "predicted":
            scale = self.output(F.silu(self.hidden(statistics)))
        else:
            scale = self.theta.expand(denom.shape[0], -1)
        if cap.mode != "unbounded":
            scale = cap.scale_low + (cap.scale_high - cap.scale_low) * scale.sigmoid()
        return scale[:, :, None, None]
