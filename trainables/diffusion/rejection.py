"""Rejection sampling (DiffRS), with a head that was trained on this network's images."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.diffusion.rejection_head import RejectionHead, Tapped
from models.diffusion.strategies.guidance import guided_prediction, is_guided
from models.diffusion.strategies.rejection import (
    Judge,
    Outcome,
    RejectionSettings,
    Thresholds,
    check_sampling,
    rejection_sample,
    warm_up,
)
from models.diffusion.strategies.settings import SamplingSettings
from models.draws import hash63
from trainables.api import Modules, SettingsError, Tensors, setting
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.diffusion.prediction import predict, strategy_of
from trainables.diffusion.settings import DiffusionSettings
from trainables.external import fingerprint

_STREAM = 37
"""Of the seeds of the warm-up."""


@dataclass(frozen=True, kw_only=True)
class RejectionNode(RejectionSettings):
    """Rejection sampling, with the head of `checkpoint`."""

    checkpoint: str = setting(
        "",
        "reject by this head: a training or checkpoint of trainables.diffusion_rejection:"
        "DiffusionRejection; empty for none",
    )

    def check(self) -> None:
        given = [f"rejection.{f.name}" for f in fields(RejectionSettings)
                 if getattr(self, f.name) != f.default]  # fmt: skip
        if given and not self.checkpoint:
            raise SettingsError(
                f"{given[0]} is of rejection sampling, which needs a head. Set "
                "rejection.checkpoint to the training of one."
            )


def open_head(named: str, modules: Modules) -> RejectionHead:
    """The head of a training's best checkpoint, or of a step-* folder, on the network's device.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        SettingsError: it is no head, or one that was trained on another network's images.
    """
    path = checkpoint.find(Path(named).expanduser(), best=True)
    opened = open_checkpoint(path)
    head = opened.modules.get("head")
    if not isinstance(head, RejectionHead):
        raise SettingsError(
            f"rejection.checkpoint={named} is a checkpoint of {opened.system.name}, which has no "
            "head. Name a training of trainables.diffusion_rejection:DiffusionRejection."
        )
    network = modules["network"]
    known = checkpoint.read_meta(path)["built"]["network"]
    if fingerprint(network.state_dict()) != known:
        raise SettingsError(
            f"rejection.checkpoint={named} judges the images of another network than this one. "
            "Train a head with diffusion.checkpoint on this one's checkpoint."
        )
    return head.to(next(network.parameters()).device)


@dataclass(frozen=True)
class Rejecter:
    """What makes images with rejection.

    Attributes:
        thresholds: of the warm-up.
    """

    settings: DiffusionSettings
    modules: Modules
    head: nn.Module
    sampling: SamplingSettings
    node: RejectionSettings
    thresholds: Thresholds

    def __call__(self, batch: Tensors, seeds: Tensor) -> Outcome:
        """An image in the space for each seed, under the conditions of the batch."""
        shape = _shape(self.settings, self.modules)
        judge = judge_of(self.settings, self.modules, self.head, batch, self.sampling)
        return rejection_sample(
            strategy_of(self.settings, shape[1:]),
            judge,
            self.thresholds,
            seeds,
            shape,
            self.sampling,
            self.node,
        )

    def counted(self, batch: Tensors, seeds: Tensor, counts: dict[str, float]) -> Tensor:
        """The images alone; what happened is added to the counts."""
        made = self(batch, seeds)
        tensors = {
            "evaluations": made.evaluations,
            "rejections": made.rejections,
            "capped_samples": made.is_capped,
        }
        for name, values in tensors.items():
            counts[name] = counts.get(name, 0.0) + int(values.sum())
        return made.x


def make_rejecter(
    settings: DiffusionSettings,
    modules: Modules,
    head: nn.Module,
    batch: Tensors,
    sampling: SamplingSettings,
    node: RejectionSettings,
) -> Rejecter:
    """Warms up.

    Args:
        batch: conditions of `node.warm_up` trajectories, the same for every process.
    """
    check_sampling(sampling, settings.strategy.kind)
    shape, device = _shape(settings, modules), next(head.parameters()).device
    seeds = warm_up_seeds(node).to(device)
    judge = judge_of(settings, modules, head, batch, sampling)
    strategy = strategy_of(settings, shape[1:])
    thresholds = warm_up(strategy, judge, seeds, shape, sampling, node.percentile)
    return Rejecter(settings, modules, head, sampling, node, thresholds)


def warm_up_seeds(node: RejectionSettings) -> Tensor:
    """int64 [`warm_up`]."""
    return torch.tensor([hash63(node.seed, _STREAM, index) for index in range(node.warm_up)])


def judge_of(
    settings: DiffusionSettings,
    modules: Modules,
    head: nn.Module,
    batch: Tensors,
    sampling: SamplingSettings,
) -> Judge:
    """The prediction, guided where that is asked for, and the logit of the head on the features of
    the conditional pass.
    """
    tapped: Any = Tapped(modules["network"])  # type: ignore[arg-type]
    heard: dict[str, Any] = {**modules, "network": tapped}

    def judge(x: Tensor, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        its = {name: value[rows] for name, value in batch.items()}
        none = torch.ones(len(rows), dtype=torch.bool, device=x.device)
        given = none if "not_given" in batch else None

        def under(parts: Modules, is_null: Tensor | None, x: Tensor, t: Tensor) -> Tensor:
            return predict(parts, x, t, its, settings, is_null)

        without = functools.partial(under, modules, none)
        both = guided_prediction(
            functools.partial(under, heard, given),
            without if is_guided(sampling.guidance) else None,
            sampling.guidance,
        )
        prediction = both(x, t)
        return prediction, head(tapped.features).double()

    return judge


def _shape(settings: DiffusionSettings, modules: Modules) -> tuple[int, ...]:
    space: Any = modules["space"]
    images = settings.data.space(settings.model.spatial_dims)
    return (len(space.shift), *space.size_of(images))
