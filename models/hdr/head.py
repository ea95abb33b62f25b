"""The log-domain head: from a network's raw output to linear radiance, in one place and in fp32.

    log_base  = log(prefill(warped) + eps)
    log_delta = safety_clamp(scale * squash(raw))     supervised as it is, on the ring too (004-M3)
    radiance  = max(exp(log_base + mask * log_delta) - eps, 0)      exp - eps may be < 0 (004-M20)

with mask = hole + ring_scale * ring, ring = maxpool(hole) - hole. Where the mask is 0 the input
comes back bit by bit. Nothing non-finite is cleaned away: the training loop must see it.

Shapes: B samples, C = 1 or 3 colours; images [B, 3, H, W], hole and mask [B, 1, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.draws import draw_uniform
from models.hdr.cap import (
    CapScale,
    CapSettings,
    ClampSettings,
    effective_cap,
    proportional_scale,
    safety_clamp,
    squash,
)
from models.hdr.prefill import PREFILLS, prefill
from settings.schema import Settings, SettingsError, setting

DENOM_MIN = 0.1
"""Least log range of a patch: below a contrast of 10 % it is noise that must not be amplified."""

DOCUMENT_DENOM_MIN = 1e-6
"""The document's, for its range by min and max."""

IMAGE_RANGE = (-1.0, 2.0)
"""Where the network's input is clipped: the tails beyond [0, 1] keep their order, outliers are
tame.
"""


@dataclass(frozen=True, kw_only=True)
class HeadSettings(Settings):
    """Everything between the warped patch and the radiance but the network."""

    epsilon: float = setting(
        1e-6, "added before the logarithm", unit="radiance", low=1e-8, high=1e-1
    )
    prefill: str = setting("zero", "first guess inside holes", choices=PREFILLS)
    range: str = setting(
        "percentile",
        "what the network's input is scaled by, and a proportional cap: 1-99 % of the valid log "
        "radiance; min_max: all pixels with the holes, as the document has it (004-M4)",
        choices=("percentile", "min_max"),
    )
    mask: bool = setting(True, "apply the residual in holes and their ring only")
    dither: bool = setting(
        False, "training: noise of +-epsilon/2 on the network's input before the log"
    )
    ring_scale: float = setting(0.5, "mask on the ring around holes", low=0.0, high=1.0)
    ring_kernel: int = setting(
        3, "odd side of the dilation that makes the ring", unit="px", low=3, high=31
    )
    cap: CapSettings = field(default_factory=CapSettings)
    clamp: ClampSettings = field(default_factory=ClampSettings)

    def check(self) -> None:
        if self.ring_kernel % 2 == 0:
            raise SettingsError(
                f"hdr.ring_kernel must be odd, or the ring is lopsided, not {self.ring_kernel}. "
                f"Take {self.ring_kernel - 1} or {self.ring_kernel + 1}."
            )


def ring(hole: Tensor, kernel: int) -> Tensor:
    """1 on valid pixels within (kernel - 1) / 2 of a hole, 0 elsewhere. [B, 1, H, W]"""
    return F.max_pool2d(hole, kernel, stride=1, padding=kernel // 2) - hole


def residual_mask(settings: HeadSettings, hole: Tensor) -> Tensor:
    """How much of log_delta is applied: 1 in holes, ring_scale on the ring, 0 elsewhere."""
    if not settings.mask:
        return torch.ones_like(hole)
    return hole + settings.ring_scale * ring(hole, settings.ring_kernel)


def valid_percentiles(values: Tensor, hole: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Percentiles over the valid pixels and colours of each sample, [len(shares), B].

    Linear between order statistics; NaN for a sample without valid pixels. Holes are left out:
    their log is log(eps), so with them the range tells whether a patch has a hole, not what
    contrast it has (004-M4).
    """
    valid = (hole < 0.5).expand_as(values)
    ordered = torch.where(valid, values, torch.inf).flatten(1).sort(dim=1).values
    count = valid.flatten(1).sum(dim=1)
    percentiles = []
    for share in shares:
        position = share * (count - 1).clamp(min=0).double()
        below = ordered.gather(1, position.floor().long()[:, None])[:, 0]
        above = ordered.gather(1, position.ceil().long()[:, None])[:, 0]
        between = (position - position.floor()).to(values.dtype)
        percentiles.append(torch.where(count > 0, torch.lerp(below, above, between), torch.nan))
    return torch.stack(percentiles)


def log_range(settings: HeadSettings, log_base: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the log radiance of each sample by `hdr.range`, [B] each."""
    if settings.range == "min_max":
        low, high = log_base.flatten(1).aminmax(dim=1)
        return low, high
    ends = valid_percentiles(log_base, hole, (0.01, 0.99))
    low, high = ends.nan_to_num(nan=math.log(settings.epsilon))
    return low, high


def prepare(
    settings: HeadSettings, batch: Mapping[str, Tensor], dither: bool = False
) -> dict[str, Tensor]:
    """All that is computed before the network runs, in fp32.

    Returns:
        prefilled, log_base [B, 3, H, W]; hole, mask [B, 1, H, W];
        denom [B, 1, 1, 1]: the range of the log radiance by `hdr.range`, at least `DENOM_MIN`
        (by min and max `DOCUMENT_DENOM_MIN`);
        image [B, 3, H, W]: log_base with that range scaled to [0, 1], for the network;
        statistics [B, 5]: mean and deviation of the valid log radiance and the ends of the range,
        in tens of nats, and the share of holes.
    """
    eps = settings.epsilon
    hole = batch["hole"].float()
    warped = batch["warped"].float().clamp(min=0.0)
    prefilled = prefill(settings.prefill, warped, hole, eps)
    log_base = (prefilled + eps).log()

    valid = (1.0 - hole).expand_as(log_base)
    count = valid.flatten(1).sum(dim=1).clamp(min=1.0)
    mean = (log_base * valid).flatten(1).sum(dim=1) / count
    squares = ((log_base - mean.view(-1, 1, 1, 1)) ** 2 * valid).flatten(1).sum(dim=1)
    low, high = log_range(settings, log_base, hole)
    least = DOCUMENT_DENOM_MIN if settings.range == "min_max" else DENOM_MIN
    denom = (high - low).clamp(min=least).view(-1, 1, 1, 1)

    shown = log_base
    if dither:
        noise = draw_uniform(batch["seed"], "hdr.dither", prefilled.shape[1:])
        shown = (prefilled + eps * (0.5 + noise)).log()
    in_tens = [part / 10.0 for part in (mean, (squares / count).sqrt(), low, high)]
    return {
        "prefilled": prefilled,
        "log_base": log_base,
        "hole": hole,
        "mask": residual_mask(settings, hole),
        "denom": denom,
        "image": ((shown - low.view(-1, 1, 1, 1)) / denom).clamp(*IMAGE_RANGE),
        "statistics": torch.stack([*in_tens, hole.flatten(1).mean(dim=1)], dim=1),
    }


class LogDomainHead(nn.Module):
    """`prepare` before the network, `forward` after it."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.scale = CapScale(settings.cap)

    @property
    def no_decay(self) -> frozenset[str]:
        """Names of parameters that must get no weight decay."""
        return frozenset(f"scale.{name}" for name in self.scale.no_decay)

    def prepare(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`prepare` of this module; dithers in training mode only."""
        return prepare(self.settings, batch, dither=self.settings.dither and self.training)

    def forward(self, raw: Tensor, prepared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The prediction, fp32.

        Returns:
            radiance, log_delta, unclamped, applied, log_base, raw [B, 3, H, W]; denom [B, 1, 1,
            1]; scale [B, C, 1, 1]; cap [B, C, 1, 1], the bound on |log_delta|: of the scale, what
            squashing and clamp leave.
        """
        settings = self.settings
        # exp overflows at 11.1 in fp16, and bf16 has 3 digits: this part never runs in either.
        with torch.autocast(device_type=raw.device.type, enabled=False):
            raw = raw.float()
            scale = self.scale(prepared["denom"], prepared["statistics"])
            unclamped = scale * squash(settings.cap.squash, raw)
            log_delta = safety_clamp(settings.clamp, unclamped)
            applied = prepared["mask"] * log_delta
            moved = ((prepared["log_base"] + applied).exp() - settings.epsilon).clamp(min=0.0)
            return {
                "radiance": torch.where(prepared["mask"] > 0, moved, prepared["prefilled"]),
                "log_delta": log_delta,
                "unclamped": unclamped,
                "applied": applied,
                "log_base": prepared["log_base"],
                "raw": raw,
                "scale": scale,
                "cap": effective_cap(settings.cap, settings.clamp, scale),
                "denom": prepared["denom"],
            }


def needed_cap(target: Tensor, log_base: Tensor, eps: float) -> Tensor:
    """|log(target + eps) - log_base|: the least cap with which the target can be reached."""
    return ((target + eps).log() - log_base).abs()


def largest_cap(settings: HeadSettings, denom: Tensor) -> Tensor:
    """The greatest |log_delta| that patches of that log range can be given, shaped as denom.

    Modes that learn their scale are credited with its upper bound.
    """
    cap = settings.cap
    if cap.mode == "proportional":
        scale = proportional_scale(cap, denom)
    elif cap.mode == "absolute":
        scale = torch.full_like(denom, cap.alpha * cap.log_delta_max)
    elif cap.mode == "unbounded":
        scale = torch.full_like(denom, math.inf)
    else:
        scale = torch.full_like(denom, cap.scale_high)
    return effective_cap(cap, settings.clamp, scale)
