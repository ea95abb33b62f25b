"""The forward of diffusion: an image, noised, and what the network predicts of it.

Shapes: B samples; images [B, C, *S], in the space of the diffusion [B, c, *s].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metrics.diffusion import LEVELS, TIME_BINS
from models.diffusion.conditions import ModeEmbedding, SizeBinEmbedding, SizeBinMaps
from models.diffusion.interface import combined
from models.diffusion.spaces import Space
from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.interface import Strategy, mixed
from models.diffusion.strategies.settings import StrategySettings
from trainables.api import Modules, Tensors, draw_normal, draw_uniform
from trainables.diffusion.samples import BIN, LEVEL
from trainables.diffusion.settings import ConditionSettings, DiffusionSettings
from trainables.stepping.inputs import SCHEDULE, SEED

Estimate = Callable[[Tensor, Tensor], Tensor]

PROGRESS = "progress"
"""Settings key of the schedule that the curriculum follows."""


@functools.lru_cache(maxsize=32)
def _strategy(settings: StrategySettings, sides: tuple[int, ...]) -> Strategy:
    return make_strategy(settings, sides)


def strategy_of(settings: DiffusionSettings) -> Strategy:
    """The strategy of these settings; it has no state, and is made once."""
    return _strategy(settings.strategy, settings.sides)


class Conditions(nn.Module):
    """What is learnt about conditions: embeddings of modes and of counts, or maps of counts."""

    def __init__(self, settings: ConditionSettings, width: int) -> None:
        """Args: width: `embedding_width` of the network."""
        super().__init__()
        self.mode = ModeEmbedding(settings.mode, width) if settings.mode.enabled else None
        self.sizes: SizeBinEmbedding | SizeBinMaps | None = None
        if settings.sizes.enabled:
            by_maps = settings.sizes.enters == "maps"
            self.sizes = (
                SizeBinMaps(settings.sizes) if by_maps else SizeBinEmbedding(settings.sizes, width)
            )

    def forward(
        self, batch: Tensors, size: Sequence[int], is_null: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(embedding, maps [B, K, *s]); each None where there is none."""
        seed, embeddings, maps = batch.get(SEED), [], None
        if self.mode is not None:
            embeddings.append(self.mode(batch["modality"], seed, is_null))
        if isinstance(self.sizes, SizeBinMaps):
            maps = self.sizes(batch["counts"], size, seed, is_null)
        elif self.sizes is not None:
            embeddings.append(self.sizes(batch["counts"], seed, is_null))
        return combined(embeddings), maps


def noised(space: Space, batch: Tensors, settings: DiffusionSettings) -> dict[str, Tensor]:
    """A batch as the network is to see it: `clean`, `noisy`, `t`; what it is to predict, `target`,
    and the `weight` of its error. Noise and times are those of the samples' seeds.
    """
    strategy = strategy_of(settings)
    clean = space.encode(batch["image"].float())
    t = times(strategy, batch)
    noise = draw_normal(batch[SEED], "noise", clean.shape[1:])
    return {
        "clean": clean,
        "noisy": strategy.noised(clean, noise, t),
        "t": t,
        "target": strategy.target(clean, noise, t),
        "weight": strategy.weight(t),
    }


def noise_only(modules: Modules, batch: Tensors, settings: DiffusionSettings) -> dict[str, Tensor]:
    """`noised` with the network's prediction, without the image that it amounts to."""
    space: Any = modules["space"]
    given = noised(space, batch, settings)
    output = predict(modules, given["noisy"], given["t"], batch, settings)
    return {**given, "prediction": output}


def denoise(modules: Modules, batch: Tensors, settings: DiffusionSettings) -> dict[str, Tensor]:
    """`noise_only` with the clean estimate, in the space and as an image."""
    space: Any = modules["space"]
    prediction = noise_only(modules, batch, settings)
    noisy, output, t = (prediction[key] for key in ("noisy", "prediction", "t"))
    estimate = strategy_of(settings).clean_estimate(noisy, output, t)
    return {**prediction, "clean_estimate": estimate, "reconstruction": space.decode(estimate)}


def with_estimate(
    space: Space, batch: Tensors, settings: DiffusionSettings, estimate: Estimate
) -> dict[str, Tensor]:
    """What `denoise` gives for a clean estimate that no network makes.

    Args:
        estimate: `estimate(x_t / alpha [B, c, *s], sigma^2 / alpha^2 float32 [B])` -> [B, c, *s].
    """
    strategy, given = strategy_of(settings), noised(space, batch, settings)
    noisy, t = given["noisy"], given["t"]
    at = strategy.coefficients(t)
    clean = estimate(mixed((1.0 / at.alpha, noisy)), (at.sigma / at.alpha).square().float())
    noise = mixed((1.0 / at.sigma, noisy), (-at.alpha / at.sigma, clean))
    return {
        **given,
        "prediction": strategy.target(clean, noise, t),
        "clean_estimate": clean,
        "reconstruction": space.decode(clean),
    }


def times(strategy: Strategy, batch: Tensors) -> Tensor:
    """t float32 [B]: drawn from the seeds in training; of a validation pair that of its log-SNR,
    or the middle of its time bin.
    """
    if LEVEL not in batch:
        progress = batch.get(f"{SCHEDULE}{PROGRESS}", 1.0)
        return strategy.draw_times(batch[SEED], progress)
    level = batch[LEVEL]
    table = torch.tensor(LEVELS, dtype=torch.float64, device=level.device)
    by_log_snr = strategy.time_of(table[level.clamp(min=0)])
    by_bin = (batch[BIN].double() + 0.5) / TIME_BINS
    return torch.where(level >= 0, by_log_snr, by_bin).float()


def predict(
    modules: Modules,
    noisy: Tensor,
    t: Tensor,
    batch: Tensors,
    settings: DiffusionSettings,
    is_null: Tensor | None = None,
) -> Tensor:
    """What the network says of x_t, float32.

    Args:
        batch: with what it is conditioned on, and in training with the seeds of its dropout.
        is_null: bool [B], whose conditions are not given.
    """
    network: Any = modules["network"]
    embedding, images = None, []
    if settings.condition.mask.enabled:
        images.append(_mask_image(modules, batch, settings.condition.mask.dropout, is_null))
    if "conditions" in modules:
        embedding, maps = modules["conditions"](batch, noisy.shape[2:], is_null)
        images += [] if maps is None else [maps]
    x, context = noisy, None
    if images and settings.model.conditioning == "cross_attn":
        context = torch.cat(images, dim=1)
    elif images:
        x = torch.cat([noisy, *(image.to(noisy.dtype) for image in images)], dim=1)
    output: Tensor = network(x, t, embedding, context)
    return output.float()


def _mask_image(
    modules: Modules, batch: Tensors, dropout: float, is_null: Tensor | None
) -> Tensor:
    """The mask in the arrangement of the space: 1 in lesions, -1 outside, 0 where it is not given,
    which an empty mask is not (001-M10).
    """
    space: Any = modules["space"]
    signs = space.rearranged(2.0 * batch["mask"].float() - 1.0)
    if modules["network"].training and dropout > 0.0:
        dropped = draw_uniform(batch[SEED], "condition.mask") < dropout
        is_null = dropped if is_null is None else dropped | is_null
    if is_null is None:
        return signs
    return torch.where(is_null.view(-1, *[1] * (signs.ndim - 1)), 0.0, signs)
