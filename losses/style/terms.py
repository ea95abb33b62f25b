"""The terms of style_flow, pure functions that sum over samples, and their settings.

The energy of an end point, E = w_style SWD(x_1, references) + w_content SSM(x_1, source), and what
may be asked of the velocity that leads there. References are real latents of the target style, not
the source (002-M1). Everything is float32 or wider, also under autocast, where that takes both: a
region without autocast, and tensors converted before it (002-M16).

Of the prediction: `x1` [B, C, H, W], where the flow ends; `velocity` [B, C, H, W] at (x_t, t) and
`x0`, where the flow starts; `divergence` [B], an estimate of the trace of d velocity / d x_t;
`dropped` [B] bool, whose style was withheld (absent: none's).
Of the batch: `latent` [B, C, H, W], the source; `style`, `target` int64 [B]; `references`
[B, R, C, H, W]; `pooled_references`, the same of any styles; `seed` [B]; `update_seed` [B] in
training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from losses import patch_sets
from losses.balancers.settings import BalancerSettings
from losses.gram import FORMS, gram_distance
from losses.patch_sets import PatchSets
from losses.patches import PADDINGS, drawn, taken
from losses.terms import Tensors, TermSettings
from models.draws import draw_uniform
from settings.schema import Settings, SettingsError, setting

# Settings


@dataclass(frozen=True, kw_only=True)
class SwdSettings(TermSettings):
    """Patches of the end point against those of its references."""

    patch_1: bool = setting(False, "compare single vectors")
    patch_3: bool = setting(True, "compare patches of 3 x 3")
    patch_5: bool = setting(False, "compare patches of 5 x 5")
    patch_7: bool = setting(False, "compare patches of 7 x 7")
    mean_removed: bool = setting(
        False, "subtract from patches above 1 x 1 their mean in each channel"
    )
    padding: str = setting(
        "none",
        "patches over the border: none, of the reflected latent, or the document's, of zeros",
        choices=PADDINGS,
    )
    projections: int = setting(64, "directions that patches are projected on", low=1, high=4096)
    directions: str = setting(
        "sample",
        "in training: each sample's own (where several are compared together, the update's), one "
        "set an update, or the fixed ones of validation",
        choices=("sample", "update", "fixed"),
    )
    max_samples: int = setting(
        8192, "patches drawn of each side of a comparison; 0 takes all", low=0, high=1 << 24
    )
    draws: str = setting(
        "independent",
        "of patches: by each side for itself, or the document's, equal places on both sides",
        choices=("independent", "shared"),
    )
    group: str = setting(
        "sample",
        "what is compared with the references: each sample, all of a target style in the "
        "micro-batch, or the document's, all of the micro-batch, which does not see which sample "
        "has which style",
        choices=("sample", "style", "pooled"),
    )
    dropped: str = setting(
        "content",
        "samples without their style: pay nothing here, are compared with references of any "
        "styles, or the document's, with those of the style that they were not told",
        choices=("content", "pooled", "target"),
    )
    style_weights: tuple[float, ...] = setting(
        (), "factor on the samples of each target style; () for 1", low=0.0, high=1e6
    )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the patches that are compared."""
        return tuple(size for size in (1, 3, 5, 7) if getattr(self, f"patch_{size}"))

    def check(self) -> None:
        if not self.sizes:
            raise SettingsError(
                "swd must compare patches of at least one size, and patch_1 to patch_7 are all "
                "false. Set one of them, or enabled=false."
            )


@dataclass(frozen=True, kw_only=True)
class SsmSettings(TermSettings):
    """Cosines between the positions of the end point against those of the source."""

    max_positions: int = setting(
        256, "positions drawn of a latent; 0 takes all", low=0, high=1 << 16
    )
    form: str = setting(
        "off_diagonal",
        "mean over pairs of different positions, or the document's, with the diagonal, whose "
        "value depends on max_positions",
        choices=FORMS,
    )
    floor: float = setting(
        1e-3,
        "length of a vector below which its direction is let go",
        low=1e-12,
        high=1.0,
    )

    def check(self) -> None:
        if self.max_positions == 1:
            raise SettingsError(
                "ssm.max_positions must be 2 or more, for pairs of positions, not 1. 0 takes all."
            )


@dataclass(frozen=True, kw_only=True)
class DivergenceSettings(TermSettings):
    form: str = setting(
        "trace",
        "of the velocity: the trace of d velocity / d x, as estimated by the forward, or the "
        "document's, a difference along the axes of the image",
        choices=("trace", "image_axes"),
    )


@dataclass(frozen=True, kw_only=True)
class RepulsionSettings(TermSettings):
    margin: float = setting(
        0.7, "root mean square from the source at which nothing repels", low=1e-3, high=10.0
    )


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """Of 002: both energies at weight 1; velocity and divergence at 0.01 where they are on."""

    swd: SwdSettings = field(default_factory=SwdSettings)
    ssm: SsmSettings = field(default_factory=SsmSettings)
    velocity: TermSettings = field(
        default_factory=lambda: TermSettings(weight=0.01, enabled=False)
    )
    divergence: DivergenceSettings = field(
        default_factory=lambda: DivergenceSettings(weight=0.01, enabled=False)
    )
    trajectory: TermSettings = field(default_factory=lambda: TermSettings(enabled=False))
    repulsion: RepulsionSettings = field(default_factory=lambda: RepulsionSettings(enabled=False))
    balancer: BalancerSettings = field(default_factory=BalancerSettings)


class StyleFlowTree(Protocol):
    """What the terms read of a system's settings."""

    @property
    def loss(self) -> LossSettings: ...


# The prediction


def precise(x: Tensor) -> Tensor:
    """In float32, or as wide as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def entry(prediction: Tensors, name: str, term: str) -> Tensor:
    """An entry of the prediction, precise.

    Raises:
        ValueError: the forward gave none.
    """
    if name not in prediction:
        raise ValueError(
            f"loss.{term} reads {name!r}, which the prediction lacks: the forward makes it where "
            f"the term is on. Set loss.{term}.enabled=false, or let the forward make it."
        )
    return precise(prediction[name])


def dropped(prediction: Tensors) -> Tensor:
    """Bool [B]."""
    x1 = prediction["x1"]
    none = torch.zeros(len(x1), dtype=torch.bool, device=x1.device)
    return prediction["dropped"].bool() if "dropped" in prediction else none


# The energy


def swd(prediction: Tensors, batch: Tensors, settings: StyleFlowTree) -> Tensor:
    """Sum over samples of w(target style) SW_2^2 between the patches of x_1 and of the
    references, a mean over the sizes of patches.

    By `group=style` the distance of a group is that of all its patches together, times its
    samples; by `group=pooled` there is one group, to which two samples that exchange their styles
    are the same (002-M7). In validation directions are fixed; patches are drawn by the samples'
    seeds, on each side for itself (002-M9).
    """
    node = settings.loss.swd
    x1 = entry(prediction, "x1", "swd")
    with without_autocast(x1):
        is_dropped = dropped(prediction) & (node.dropped != "target")
        weights = style_weights(node, batch["target"], is_dropped)
        costs = []
        for size in node.sizes:
            sets = PatchSets.of(x1, references(node, batch, is_dropped), batch["seed"], node, size)
            by = patch_sets.directions(node, batch, size, x1)
            if node.group == "sample":
                costs.append((weights * sets.distance(node, by)).sum())
                continue
            for at in groups(node, batch["target"], is_dropped):
                cost = sets.chosen(at).together().distance(node, by)
                costs.append((weights[at].sum() * cost).sum())
        total = torch.stack(costs).sum() if costs else x1.sum() * 0.0
        return total / len(node.sizes)


def references(node: SwdSettings, batch: Tensors, is_dropped: Tensor) -> Tensor:
    """What each sample is compared with, [B, R, C, H, W].

    Raises:
        ValueError: the batch lacks the references of samples without their style.
    """
    given = precise(batch["references"])
    if node.dropped != "pooled" or not bool(is_dropped.any()):
        return given
    if "pooled_references" not in batch:
        raise ValueError(
            "loss.swd.dropped=pooled compares samples without their style with references of any "
            "styles, the batch's 'pooled_references', which it lacks. Let the data make them, or "
            "take loss.swd.dropped=content."
        )
    pooled = precise(batch["pooled_references"])
    return torch.where(is_dropped[:, None, None, None, None], pooled, given)


def style_weights(node: SwdSettings, target: Tensor, is_dropped: Tensor) -> Tensor:
    """The factor on each sample, [B]: of one without its style 1, or 0 where it pays nothing.

    Raises:
        ValueError: a style without a weight.
    """
    ones = torch.ones(len(target), device=target.device)
    if node.style_weights:
        table = ones.new_tensor(node.style_weights)
        if int(target.max()) >= len(table):
            raise ValueError(
                f"loss.swd.style_weights must have a number for every style, and {len(table)} do "
                f"not reach style {int(target.max())}. Add numbers, or take () for 1."
            )
        weights = table[target]
    else:
        weights = ones
    without = 1.0 if node.dropped == "pooled" else 0.0
    return torch.where(is_dropped, without, weights)


def groups(node: SwdSettings, target: Tensor, is_dropped: Tensor) -> list[Tensor]:
    """The places of the samples that are compared together; those without their style apart, and
    in none where they pay nothing.
    """
    labels = target if node.group == "style" else torch.zeros_like(target)
    labels = torch.where(is_dropped, -1, labels)
    paying = [
        label for label in torch.unique(labels).tolist() if label >= 0 or node.dropped == "pooled"
    ]
    return [torch.nonzero(labels == label)[:, 0] for label in paying]


def ssm(prediction: Tensors, batch: Tensors, settings: StyleFlowTree) -> Tensor:
    """Sum over samples of the mean square between the cosines of x_1 and of its source, over pairs
    of positions, the same in both.
    """
    node = settings.loss.ssm
    x1, source = entry(prediction, "x1", "ssm"), precise(batch["latent"])
    with without_autocast(x1):
        x, y = x1.flatten(2), source.flatten(2)
        count = x.shape[-1]
        if 0 < node.max_positions < count:
            keys = draw_uniform(batch["seed"].to(x.device), "ssm.positions", (count,))
            places = drawn(keys, node.max_positions)
            x, y = taken(x, places), taken(y, places)
        return gram_distance(x, y, node.floor, node.form).sum()


# The velocity


def velocity(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum over samples of mean v(x_t, t)^2. Its minimum is no flow at all, and no identity either:
    from noise x_0 a flow to the source needs v = source - x_0 (002-M2).
    """
    return entry(prediction, "velocity", "velocity").square().flatten(1).mean(dim=1).sum()


def divergence(prediction: Tensors, batch: Tensors, settings: StyleFlowTree) -> Tensor:
    """Sum over samples of (trace of dv/dx / values of a sample)^2, 0 of a flow that keeps volumes;
    of an estimate by random vectors the square has its variance added, in the mean. In the form
    `image_axes` the sum of mean (d_x v + d_y v)^2, which says nothing of volumes (002-M19).
    """
    if settings.loss.divergence.form == "image_axes":
        v = entry(prediction, "velocity", "divergence")
        return divergence_image_axes(v).square().flatten(1).mean(dim=1).sum()
    trace = entry(prediction, "divergence", "divergence")
    return (trace / batch["latent"][0].numel()).square().sum()


def divergence_image_axes(v: Tensor) -> Tensor:
    """d_x v + d_y v of each channel by differences of neighbours, [B, C, H - 1, W - 1]."""
    corner = v[..., :-1, :-1]
    return (v[..., :-1, 1:] - corner) + (v[..., 1:, :-1] - corner)


def trajectory(prediction: Tensors, batch: Tensors, settings: object) -> Tensor:
    """Sum over samples of mean (v(x_t, t) - (x_1 - x_0))^2: 0 of a straight flow. Where the flow
    ends is what it is, without a gradient.
    """
    v, x0, x1 = (entry(prediction, name, "trajectory") for name in ("velocity", "x0", "x1"))
    return (v - (x1.detach() - x0)).square().flatten(1).mean(dim=1).sum()


def repulsion(prediction: Tensors, batch: Tensors, settings: StyleFlowTree) -> Tensor:
    """Sum over samples that change their style of max(0, 1 - rms(x_1 - source) / margin)^2. The
    document names a source repulsion of 0.7 and no formula; this is ours.
    """
    x1 = entry(prediction, "x1", "repulsion")
    square = (x1 - precise(batch["latent"])).square().flatten(1).mean(dim=1)
    distance = (square + TINY).sqrt() / settings.loss.repulsion.margin
    changes = batch["target"] != batch["style"]
    return (changes * (1.0 - distance).clamp_min(0.0).square()).sum()


TINY = 1e-12
"""Added to a square below a root, whose slope at 0 is infinite."""


def changing(batch: Tensors, settings: object) -> Tensor:
    """The samples whose target style is not their own."""
    return (batch["target"] != batch["style"]).sum(dtype=torch.float64)
