"""The metrics of style_flow: how near the end point is to its target style, and to its source.

Both are written anew and not by the loss's functions, with constants of their own, so that no
setting changes what judges: patches of 1 x 1 and 3 x 3 without padding, 512 directions that never
change, all positions. `swd_target` is the objective, and its distance above `swd_floor` is what a
flow has left to do: a finite number of patches of the same style is not at 0 (002-M5). Below them
the signs that a training is ill.

Shapes: B samples, R references, C channels, H rows, W columns, N positions, P directions, K
styles; `x1`, `latent` [B, C, H, W], `references` [B, R, C, H, W], `target` int64 [B].
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.health import STOP_HELP, HealthSettings
from metrics.health_signs import SIGNS, MeasuredSign
from metrics.metric import Metric, Tensors, per_sample
from models.draws import draw_normal
from settings.schema import setting

SIZES = (1, 3)
DIRECTIONS, SEED = 512, 0

FLOOR = 1e-3
"""Length of a vector below which its direction is let go; four channels of deviation 1 have 2."""

MEASURES = ("target", "floor", "halves", "source", "moved")
"""Rows of `style_sums`: of the end point, one reference, half of them, the source, all from the
references; of the end point from the source.
"""

MOVED, OUTSIDE, VELOCITY = "moved_share", "outside_share", "velocity_share"
"""Columns of validation that signs of health read."""

Measured = tuple[Tensor, Tensor]


# Style


@functools.lru_cache(maxsize=8)
def directions(channels: int, size: int) -> Tensor:
    """[P, C size^2], of length 1."""
    shape = (DIRECTIONS, channels * size**2)
    normals = draw_normal(torch.tensor([SEED]), f"swd_target.{size}", shape)[0]
    return F.normalize(normals, dim=1)


def quantiles(latents: Tensor, size: int) -> Tensor:
    """The projections of all patches in ascending order: [L, C, H, W] -> [P, L n]."""
    columns = F.unfold(latents, size).movedim(1, 0).flatten(1)
    along = directions(latents.shape[1], size).to(latents.device)
    return ascending(along @ columns)


def ascending(x: Tensor) -> Tensor:
    """Sorted along the last axis, on the CPU by NumPy, which is several times faster."""
    if x.device.type != "cpu":
        return x.sort(dim=-1).values
    return torch.from_numpy(np.sort(x.numpy(), axis=-1))


def of_all_sizes(latents: Tensor) -> list[Tensor]:
    return [quantiles(latents, size) for size in SIZES]


def swd(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """SW_2^2 of patches, from the quantiles of each size, a mean over them: [P, N], [P, r N] ->
    scalar. Each of the one side's patches is matched with r of the other's.
    """
    costs = []
    for one, many in zip(x, y, strict=True):
        matched = many.unflatten(1, (one.shape[1], -1))
        costs.append((one[..., None] - matched).square().mean(dtype=torch.float64))
    return torch.stack(costs).mean()


def floor(reference: Tensor) -> Tensor:
    """What a real latent of the style has in place of x_1: the mean over the references of the
    distance of each to the others. NaN of a single one.
    """
    count = len(reference)
    if count < 2:
        return reference.new_tensor(math.nan, dtype=torch.float64)
    others = (torch.cat([reference[:i], reference[i + 1 :]]) for i in range(count))
    each = zip(reference.split(1), others, strict=True)
    costs = [swd(of_all_sizes(one), of_all_sizes(rest)) for one, rest in each]
    return torch.stack(costs).mean()


def halves(reference: Tensor) -> Tensor:
    """Between the first half of the references and the second; of an odd number without the last.
    NaN of a single one.
    """
    half = len(reference) // 2
    if not half:
        return reference.new_tensor(math.nan, dtype=torch.float64)
    first, second = reference[: 2 * half].split(half)
    return swd(of_all_sizes(first), of_all_sizes(second))


_MOST = 20_000
"""Pairs that are remembered, three numbers each."""

_known: dict[bytes, Tensor] = {}


def _without_end(
    source: Tensor, reference: Tensor, start: Sequence[Tensor], style: Sequence[Tensor]
) -> Tensor:
    """Floor, halves and the source's distance of a pair, float64 [3] on the CPU. They are the same
    in every validation, and most of its cost: they are computed once in a process.

    Args:
        start, style: the quantiles of the source and of the references.
    """
    parts = (x.cpu().contiguous().numpy().tobytes() for x in (source, reference))
    shape = str(tuple(reference.shape)).encode()
    key = hashlib.sha256(b"".join((shape, *parts))).digest()
    if key not in _known:
        if len(_known) >= _MOST:
            _known.clear()
        costs = floor(reference), halves(reference), swd(start, style)
        _known[key] = torch.stack([cost.cpu() for cost in costs])
    return _known[key].to(source.device)


def style_sums(
    styles: int, prediction: Tensors, batch: Tensors, settings: object
) -> tuple[Tensor, Tensor]:
    """Of each of `MEASURES` the sum over the samples of each target style, then their number:
    [6 K]; the samples.
    """
    rows = []
    with torch.autocast(prediction["x1"].device.type, enabled=False):
        x1, source = prediction["x1"].float(), batch["latent"].float()
        for one, itself, real in zip(x1, source, batch["references"].float(), strict=True):
            style = of_all_sizes(real)
            end, start = (of_all_sizes(x[None]) for x in (one, itself))
            rest = _without_end(itself, real, start, style)
            rows.append(torch.stack([swd(end, style), *rest, swd(end, start)]))
    values = torch.stack([*torch.stack(rows).unbind(dim=1), x1.new_ones(len(x1)).double()])
    sums = values.new_zeros(len(MEASURES) + 1, styles)
    sums.index_add_(1, batch["target"], values)
    return sums.flatten(), sums[-1].sum()


def by_style(styles: int, measure: str, sums: Tensor) -> list[float]:
    """The mean over the samples of each target style; NaN where there are none."""
    table = sums.view(-1, styles)
    totals, counts = table[MEASURES.index(measure)].tolist(), table[-1].tolist()
    pairs = zip(totals, counts, strict=True)
    return [total / count if count > 0 else math.nan for total, count in pairs]


def over_styles(styles: int, measure: str, sums: Tensor, count: float) -> float:
    """The mean over the styles that have samples, all alike."""
    seen = [value for value in by_style(styles, measure, sums) if not math.isnan(value)]
    return sum(seen) / len(seen) if seen else math.nan


def worst_style(styles: int, sums: Tensor, count: float) -> float:
    seen = [value for value in by_style(styles, "target", sums) if not math.isnan(value)]
    return max(seen, default=math.nan)


def of_style(styles: int, style: int, sums: Tensor, count: float) -> float:
    return by_style(styles, "target", sums)[style]


def identity_gap(styles: int, sums: Tensor, count: float) -> float:
    """How much nearer to the target style than the source was: 0 of the identity."""
    source, target = (over_styles(styles, name, sums, count) for name in ("source", "target"))
    return source - target


def moved_share(styles: int, sums: Tensor, count: float) -> float:
    """The distance of the end point's patches from the source's, over the floor: 0 of the
    identity.
    """
    moved, floor_ = (over_styles(styles, name, sums, count) for name in ("moved", "floor"))
    return moved / floor_ if floor_ > 0.0 else math.nan


def outside(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Values of the end points below the least or above the greatest of their references, channel
    by channel; the values. Of a real latent about 2 / (1 + R N) of them.
    """
    x1, real = prediction["x1"].float(), batch["references"].float()
    low, high = real.amin(dim=(1, 3, 4)), real.amax(dim=(1, 3, 4))
    is_outside = (x1 < low[..., None, None]) | (x1 > high[..., None, None])
    return is_outside.sum(dtype=torch.float64), x1.new_tensor(x1.numel(), dtype=torch.float64)


# Content


def gram(latent: Tensor) -> Tensor:
    """The cosines between all positions, [C, H, W] -> [N, N]."""
    x = latent.flatten(1)
    u = x * (x.square().sum(dim=0) + FLOOR**2).rsqrt()
    return u.T @ u


def gram_distance(x: Tensor, y: Tensor) -> Tensor:
    """The mean over pairs of different positions of the squared difference of their cosines."""
    error = (gram(x) - gram(y)).double().square()
    count = len(error)
    return error.fill_diagonal_(0.0).sum() / (count * (count - 1))


def content_distance(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Of the end points from their sources, sample by sample: N^2 numbers each."""
    return _contents(prediction["x1"], batch["latent"])


def content_floor(prediction: Tensors, batch: Tensors, settings: object) -> Measured:
    """Of the sources from themselves."""
    return _contents(batch["latent"], batch["latent"])


def _contents(x: Tensor, y: Tensor) -> Measured:
    with torch.autocast(x.device.type, enabled=False):
        pairs = zip(x.float(), y.float(), strict=True)
        return per_sample(torch.stack([gram_distance(one, other) for one, other in pairs]))


# The declarations


def style_flow_metrics(styles: Sequence[str]) -> list[Metric]:
    """The metrics; the first two are the objectives.

    Args:
        styles: their names, in the order of `target`, of letters, digits and _ alone.
    """
    count = len(styles)
    sums = functools.partial(style_sums, count)
    text = "squared sliced Wasserstein distance of patches, mean over target styles"

    def swd_metric(name: str, help_: str, finish: Callable[..., float]) -> Metric:
        return Metric(name, "", "min", sums, help_, finish)

    def mean_of(measure: str) -> Callable[..., float]:
        return functools.partial(over_styles, count, measure)

    worst = functools.partial(worst_style, count)
    gap = functools.partial(identity_gap, count)
    return [
        swd_metric("swd_target", f"{text}: to the references", mean_of("target")),
        Metric(
            "content_distance",
            "",
            "min",
            content_distance,
            "difference of the cosines between positions from the source's, mean square",
        ),
        swd_metric("swd_target_worst", "the same as swd_target of the worst target style", worst),
        *(
            swd_metric(
                f"swd_style_{name}",
                f"the same as swd_target of target style {name}",
                functools.partial(of_style, count, place),
            )
            for place, name in enumerate(styles)
        ),
        Metric("swd_floor", "", None, sums, f"{text}: a reference to others", mean_of("floor")),
        Metric("swd_halves", "", None, sums, f"{text}: between references", mean_of("halves")),
        Metric("swd_source", "", None, sums, f"{text}: the source", mean_of("source")),
        Metric("identity_gap", "", "max", sums, "swd_source less swd_target", gap),
        Metric("content_floor", "", None, content_floor, "content_distance of the source itself"),
        Metric(
            MOVED,
            "",
            None,
            sums,
            "the same distance between x_1 and its source, over swd_floor",
            functools.partial(moved_share, count),
        ),
        Metric(OUTSIDE, "", None, outside, "values of x_1 beyond all of its references, share"),
    ]


def style_accuracy(classify: Callable[[Tensor], Tensor] | None) -> Metric:
    """The share of end points that are taken for their target style.

    Args:
        classify: latents [B, C, H, W] -> int64 [B]; None where only the declaration is asked for,
            which measures nothing.
    """
    return Metric(
        "style_accuracy",
        "",
        "max",
        functools.partial(_taken, classify),
        "share of the end points that a classifier of real latents takes for their target style",
    )


def _taken(
    classify: Callable[[Tensor], Tensor] | None,
    prediction: Tensors,
    batch: Tensors,
    settings: object,
) -> Measured:
    x1 = prediction["x1"]
    if classify is None:  # none is measured, and the column has no value
        nothing = torch.zeros((), dtype=torch.float64, device=x1.device)
        return nothing, nothing
    with torch.autocast(x1.device.type, enabled=False):
        return per_sample((classify(x1.float()) == batch["target"]).double())


# Signs of health

_MEASURED = (
    MeasuredSign(
        "velocity_low",
        f"val.{VELOCITY}",
        "the velocity has collapsed: its root mean square over that of source - noise",
        warns_below=True,
    ),
    MeasuredSign(
        "moved_low",
        f"val.{MOVED}",
        "results are their sources (is the source its own reference?): their distance over that "
        "of two latents of one style",
        warns_below=True,
    ),
    MeasuredSign(
        "outside_high",
        f"val.{OUTSIDE}",
        "latents leave the range of the style: share of their values",
    ),
)


@dataclass(frozen=True, kw_only=True)
class StyleHealthSettings(HealthSettings):
    """Health thresholds of a style transfer. A network that starts at 0 has no velocity (002-M2),
    and one whose reference is the source gives it back (002-M1).
    """

    measured: ClassVar[tuple[MeasuredSign, ...]] = _MEASURED

    velocity_low: float = setting(
        0.05, "warn below: root mean square of v over that of source - noise", low=0.0
    )
    moved_low: float = setting(
        0.2, "warn below: distance of x_1 from its source over that of latents of a style", low=0.0
    )
    outside_high: float = setting(
        0.05, "warn above: share of the values of x_1 beyond all references", low=0.0, high=1.0
    )
    stop: tuple[str, ...] = setting(
        (), STOP_HELP, choices=(*SIGNS, *(sign.name for sign in _MEASURED))
    )
