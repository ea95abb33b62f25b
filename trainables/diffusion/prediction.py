"""What the network of a diffusion is asked, and what it says: an image with noise, its time and
everything that it is conditioned on.

Shapes: B samples; x_t [B, c, *s] in the space of the diffusion; embeddings [B, E] or [B, 2, E].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.diffusion.conditions import ModeEmbedding, SizeBinEmbedding, SizeBinMaps
from models.diffusion.interface import combined
from models.diffusion.regularisers import FeatureNoise
from models.diffusion.score_aug.omega import OmegaEmbedding, omega_code
from models.diffusion.score_aug.transforms import Plan, apply, by_modality, unchanged
from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.interface import Strategy
from models.diffusion.strategies.settings import StrategySettings
from settings.mri import MASK, MODALITIES
from trainables.api import Modules, Tensors, draw_uniform
from trainables.diffusion.latent.masks import MaskEntry
from trainables.diffusion.settings import ConditionSettings, DiffusionSettings
from trainables.stepping.inputs import SEED

_LARGEST_ESTIMATE = 5.0
"""Deviations of an image's values from their mean."""


@functools.lru_cache(maxsize=32)
def _strategy(settings: StrategySettings, sides: tuple[int, ...]) -> Strategy:
    return make_strategy(settings, sides)


def strategy_of(settings: DiffusionSettings, sides: Sequence[int] = ()) -> Strategy:
    """The strategy of these settings; it has no state, and is made once.

    Args:
        sides: *s of what is diffused; () for those of the settings, which know no latents'.
    """
    return _strategy(settings.strategy, tuple(sides) or settings.sides)


class Conditions(nn.Module):
    """What is learnt about conditions: embeddings of modes and of counts, maps of counts, and how
    masks enter latents.
    """

    def __init__(
        self,
        settings: ConditionSettings,
        width: int,
        masks: MaskEntry | None = None,
        has_omega: bool = False,
    ) -> None:
        """
        Args:
            width: `embedding_width` of the network.
            has_omega: the network is told how its input is transformed (ScoreAug).
        """
        super().__init__()
        self.masks = masks
        self.omega = OmegaEmbedding(width) if has_omega else None
        self.mode = ModeEmbedding(settings.mode, width) if settings.mode.enabled else None
        self.sizes: SizeBinEmbedding | SizeBinMaps | None = None
        if settings.sizes.enabled:
            by_maps = settings.sizes.enters == "maps"
            self.sizes = (
                SizeBinMaps(settings.sizes) if by_maps else SizeBinEmbedding(settings.sizes, width)
            )

    def forward(
        self,
        batch: Tensors,
        size: Sequence[int],
        is_null: Tensor | None = None,
        omega: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """(embedding, maps [B, K, *s]); each None where there is none. omega: [B, 36]."""
        seed, embeddings, maps = batch.get(SEED), [], None
        if self.omega is not None and omega is not None:
            embeddings.append(self.omega(omega))
        if self.mode is not None:
            embeddings.append(self.mode(batch["modality"], seed, is_null))
        if isinstance(self.sizes, SizeBinMaps):
            maps = self.sizes(batch["counts"], size, seed, is_null)
        elif self.sizes is not None:
            embeddings.append(self.sizes(batch["counts"], seed, is_null))
        return combined(embeddings), maps


def is_learning(modules: Modules) -> bool:
    """Whether a step of a training asks: by the mode of the control branch where there is one, for
    the network beside it is frozen in evaluation.
    """
    return modules.get("control", modules["network"]).training


def predict(
    modules: Modules,
    noisy: Tensor,
    t: Tensor,
    batch: Tensors,
    settings: DiffusionSettings,
    is_null: Tensor | None = None,
    forward: int = 0,
    plan: Plan | None = None,
) -> Tensor:
    """What the network says of x_t, float32.

    Args:
        batch: with what it is conditioned on, and in training with the seeds of its dropout.
        is_null: bool [B], whose conditions are not given.
        forward: its number, where the same x_t is predicted more than once.
        plan: how x_t was transformed, as the condition images are then; None where it was not.
    """
    embedding, images = None, []
    if settings.condition.mask.enabled:
        images.append(_mask_image(modules, batch, settings, is_null))
    if "conditions" in modules:
        omega = _omega(noisy, batch, settings, plan)
        embedding, maps = modules["conditions"](batch, noisy.shape[2:], is_null, omega)
        images += [] if maps is None else [maps]
    if plan is not None:
        images = [apply(plan, image) for image in images]
    control = _control_image(modules, batch, settings, is_null)
    if control is not None and plan is not None:
        control = apply(plan, control)
    context = None
    if images and settings.model.conditioning == "cross_attn":
        context, images = torch.cat(images, dim=1), []

    def asked(*further: Tensor) -> Tensor:
        beside = [image.to(noisy.dtype) for image in (*further, *images)]
        x = noisy
        if settings.score_aug.enabled and settings.score_aug.modality_factors:
            x = by_modality(x, _modes(batch, len(x), settings))
        x = torch.cat([x, *beside], dim=1) if beside else x
        added: Sequence[Tensor] = ()
        if control is not None:
            added = modules["control"](x, t, control, embedding, settings.control.scale)
        return _run(modules, x, t, embedding, context, added, batch, settings, forward)

    node = settings.regulariser.self_conditioning
    if not node.enabled:
        return asked()
    space: Any = modules["space"]
    estimate = _first_estimate(asked, noisy, t, settings, space.deviation)
    if is_learning(modules):
        is_given = draw_uniform(batch[SEED], "self_conditioning") < node.probability
        estimate = torch.where(is_given.view(-1, *[1] * (noisy.ndim - 1)), estimate, 0.0)
    return asked(estimate)


def _omega(
    noisy: Tensor, batch: Tensors, settings: DiffusionSettings, plan: Plan | None
) -> Tensor | None:
    """The code of the transformation, that of none where there is none; None without omega."""
    node = settings.score_aug
    if not (node.enabled and node.omega):
        return None
    plan = plan or unchanged(len(noisy), noisy.ndim - 2, noisy.device)
    modes = _modes(batch, len(noisy), settings) if node.modality_factors else None
    return omega_code(plan, node.identity, modes)


def _modes(batch: Tensors, count: int, settings: DiffusionSettings) -> Tensor:
    """int64 [B], the place of a sample's modality in `MODALITIES`; of masks the one behind."""
    group = settings.data.group
    if group == "multi_modality":
        return batch["modality"]
    place = len(MODALITIES) if group == MASK else MODALITIES.index(group)
    return torch.full((count,), place, dtype=torch.int64)


def _run(
    modules: Modules,
    x: Tensor,
    t: Tensor,
    embedding: Tensor | None,
    context: Tensor | None,
    added: Sequence[Tensor],
    batch: Tensors,
    settings: DiffusionSettings,
    forward: int,
) -> Tensor:
    """One pass of the network, in training with noise on its features where that is asked for."""
    network: Any = modules["network"]
    node = settings.regulariser.feature_noise
    further = {"added": added} if added else {}
    if not (node.enabled and is_learning(modules)):
        output: Tensor = network(x, t, embedding, context, **further)
        return output.float()
    noise = FeatureNoise(node, batch[SEED], forward)
    output = network(x, t, embedding, context, noise, **further)
    noise.check()
    return output.float()


@torch.no_grad()
def _first_estimate(
    asked: Callable[..., Tensor],
    noisy: Tensor,
    t: Tensor,
    settings: DiffusionSettings,
    deviation: Tensor,
) -> Tensor:
    """The clean estimate of a pass that is given 0 in its place, kept to what images of this
    deviation have: where there is noise alone an estimate of ddpm divides by nearly 0.
    """
    output = asked(torch.zeros_like(noisy))
    strategy = strategy_of(settings, noisy.shape[2:])
    estimate = strategy.clean_estimate(noisy, output, t).to(noisy.dtype)
    largest = _LARGEST_ESTIMATE * deviation.to(estimate)
    return estimate.clamp(-largest, largest)


def _control_image(
    modules: Modules, batch: Tensors, settings: DiffusionSettings, is_null: Tensor | None
) -> Tensor | None:
    """The mask that the control branch sees, in pixels: 1 in lesions, -1 outside, 0 where it is
    not given; None where the branch is not asked: without masks, and where it is left out.
    """
    node = settings.control
    if not node.enabled or "control" not in modules or "mask" not in batch:
        return None
    if is_learning(modules) and node.dropout > 0.0:
        dropped = draw_uniform(batch[SEED], "control") < node.dropout
        is_null = dropped if is_null is None else dropped | is_null
    signs = 2.0 * batch["mask"].float() - 1.0
    if is_null is None:
        return signs
    return torch.where(is_null.view(-1, *[1] * (signs.ndim - 1)), 0.0, signs)


def _mask_image(
    modules: Modules, batch: Tensors, settings: DiffusionSettings, is_null: Tensor | None
) -> Tensor:
    """The mask in the arrangement of the space: 1 in lesions, -1 outside, 0 where it is not given,
    which an empty mask is not (001-M10); in latents as `MaskEntry` has it.
    """
    dropout = settings.condition.mask.dropout
    if modules["network"].training and dropout > 0.0:
        dropped = draw_uniform(batch[SEED], "condition.mask") < dropout
        is_null = dropped if is_null is None else dropped | is_null
    if settings.space.is_latent:
        conditions: Any = modules["conditions"]
        entered: Tensor = conditions.masks(batch, is_null)
        return entered
    space: Any = modules["space"]
    signs = space.rearranged(2.0 * batch["mask"].float() - 1.0)
    if is_null is None:
        return signs
    return torch.where(is_null.view(-1, *[1] * (signs.ndim - 1)), 0.0, signs)
