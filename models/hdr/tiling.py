"""A frame of any size through the model: whole, or in overlapping tiles.

What does not fit the network's halvings is padded by repeating the border, after the head has made
its first guess and taken its percentiles: padding is in neither. Where tiles overlap, their log
radiance is mixed by linear ramps.

Shapes: a frame is a batch of one: warped [1, 3, H, W], hole [1, 1, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from models.hdr.head import residual_mask
from models.hdr.network import SMALLEST_SIDE, STRIDE, HdrPatchModel

LEAST_VALID = 0.25
"""Share of valid pixels below which a tile takes its first guess and its percentiles from a larger
window around it: inside of a large hole there is nothing to guess from.
"""

_PIXELS_AT_ONCE = 1 << 18
"""Of the tiles that go through the network together."""

_SPATIAL = ("prefilled", "log_base", "hole", "image")
"""What the head prepares for each pixel, beside the mask."""


@dataclass(frozen=True)
class Filled:
    """A filled frame.

    Attributes:
        radiance: [1, 3, H, W]; `warped`, bit by bit, where nothing is changed.
        changed: [1, 1, H, W], bool: the pixels to which a residual is applied.
        seam: (sum, count) of the largest difference in log radiance between the tiles of a changed
            value, over the values that several tiles have, in nat. Spread over the overlap, it is
            the step that tiles add.
    """

    radiance: Tensor
    changed: Tensor
    seam: tuple[float, float]


@dataclass(frozen=True)
class _Window:
    """Rows and columns of a frame."""

    top: int
    left: int
    height: int
    width: int

    def of(self, plane: Tensor) -> Tensor:
        bottom, right = self.top + self.height, self.left + self.width
        return plane[..., self.top : bottom, self.left : right]

    def grown(self, by: int, height: int, width: int) -> _Window:
        """The window with so many pixels more on each side, within the frame."""
        top, left = max(self.top - by, 0), max(self.left - by, 0)
        bottom = min(self.top + self.height + by, height)
        right = min(self.left + self.width + by, width)
        return _Window(top, left, bottom - top, right - left)

    def inside(self, outer: _Window) -> _Window:
        """The same pixels, as counted in a window around this one."""
        return _Window(self.top - outer.top, self.left - outer.left, self.height, self.width)


@torch.no_grad()
def fill_frame(
    model: HdrPatchModel, frame: Mapping[str, Tensor], tile: int = 0, overlap: int = 0
) -> Filled:
    """Fills a frame on the model's device.

    Args:
        frame: `warped` and `hole`, and what else the network reads.
        tile: side in pixels; 0 takes the frame at once.
        overlap: pixels that neighbouring tiles share at least, below `tile`.
    """
    warped, hole = frame["warped"].float().clamp(min=0.0), frame["hole"].float()
    height, width = hole.shape[-2:]
    mask = residual_mask(model.head.settings, hole)
    places = product(_spans(height, tile, overlap), _spans(width, tile, overlap))
    windows = [_Window(top, left, h, w) for (top, h), (left, w) in places]
    together = max(1, _PIXELS_AT_ONCE // (windows[0].height * windows[0].width))

    total, weight = torch.zeros_like(warped), torch.zeros_like(hole)
    low, high = torch.full_like(warped, torch.inf), torch.full_like(warped, -torch.inf)
    for first in range(0, len(windows), together):
        some = windows[first : first + together]
        for window, log in zip(some, _logs(model, frame, mask, some), strict=True):
            ramp = _ramps(window, overlap if tile else 0, log)
            window.of(total)[0].add_(ramp * log)
            window.of(weight)[0].add_(ramp)
            for bound, least in ((low, torch.minimum), (high, torch.maximum)):
                part = window.of(bound)[0]
                part.copy_(least(part, log))
    epsilon = model.head.settings.epsilon
    moved = ((total / weight).exp() - epsilon).clamp(min=0.0)
    changed = mask > 0
    shared = changed & (_covered(windows, hole) > 1)
    apart = torch.where(shared, high - low, 0.0)
    seam = float(apart.double().sum()), float(shared.sum() * apart.shape[1])
    return Filled(torch.where(changed, moved, warped), changed, seam)


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """(start, length) of tiles that cover so many pixels, evenly spread."""
    if not 0 < tile < length:
        return [(0, length)]
    count = math.ceil((length - overlap) / (tile - overlap))
    last = length - tile
    return [(round(index * last / (count - 1)), tile) for index in range(count)]


def _logs(
    model: HdrPatchModel, frame: Mapping[str, Tensor], mask: Tensor, windows: Sequence[_Window]
) -> Iterator[Tensor]:
    """log(radiance + eps) of windows of one size, [3, h, w] each."""
    prepared = [{**_prepared(model, frame, each), "mask": each.of(mask)} for each in windows]
    joined = {key: torch.cat([part[key] for part in prepared]) for key in prepared[0]}
    size = mask.shape[-2:]
    cut = {key: p.shape[-2:] == size for key, p in frame.items()}
    parts = {
        key: torch.cat([each.of(plane) if cut[key] else plane for each in windows])
        for key, plane in frame.items()
    }
    height, width = windows[0].height, windows[0].width
    padded = {key: _padded(joined[key]) for key in ("image", "hole")}
    raw = model.raw(padded, {k: _padded(p) if cut[k] else p for k, p in parts.items()})
    found = model.head(raw[..., :height, :width], joined)
    yield from found["log_base"] + found["applied"]


def _prepared(
    model: HdrPatchModel, frame: Mapping[str, Tensor], window: _Window
) -> dict[str, Tensor]:
    """What the head prepares of a window, from a larger one where it is nearly all hole."""
    height, width = frame["hole"].shape[-2:]
    around, grow = window, max(window.height, window.width) // 2
    while (around.height, around.width) != (height, width):
        if float(around.of(frame["hole"]).float().mean()) <= 1.0 - LEAST_VALID:
            break
        around, grow = window.grown(grow, height, width), 2 * grow
    given = {key: around.of(frame[key]) for key in ("warped", "hole")}
    prepared, inner = model.head.prepare(given), window.inside(around)
    return {**prepared, **{key: inner.of(prepared[key]) for key in _SPATIAL}}


def _padded(plane: Tensor) -> Tensor:
    """The plane with its last row and column repeated up to a size that the network takes."""
    height, width = (
        max(math.ceil(side / STRIDE) * STRIDE, SMALLEST_SIDE) for side in plane.shape[-2:]
    )
    missing = (0, width - plane.shape[-1], 0, height - plane.shape[-2])
    return F.pad(plane, missing, mode="replicate") if any(missing) else plane


def _ramps(window: _Window, overlap: int, like: Tensor) -> Tensor:
    """The weights of a tile's pixels: 1, and a line down to 1 / (overlap + 1) at its sides."""

    def ramp(length: int) -> Tensor:
        place = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
        nearest = torch.minimum(place, place.flip(0))
        return nearest.clamp(max=overlap + 1) / (overlap + 1)

    return ramp(window.height)[:, None] * ramp(window.width)


def _covered(windows: Sequence[_Window], like: Tensor) -> Tensor:
    """How many tiles have a pixel."""
    count = torch.zeros_like(like)
    for window in windows:
        window.of(count).add_(1.0)
    return count
