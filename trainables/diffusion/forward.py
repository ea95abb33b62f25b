"""The forward of diffusion: an image, noised, and what the network predicts of it.

Shapes: B samples; images [B, C, *S], in the space of the diffusion [B, c, *s].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losses.diffusion_terms import LATENT
from metrics.diffusion import LEVELS, TIME_BINS
from models.diffusion.conditions import ModeEmbedding, SizeBinEmbedding, SizeBinMaps
from models.diffusion.interface import combined
from models.diffusion.regularisers import FeatureNoise, perturbed_noise
from models.diffusion.spaces import Space
from models.diffusion.strategies.build import make_strategy
from models.diffusion.strategies.interface import Strategy, mixed
from models.diffusion.strategies.settings import StrategySettings
from trainables.api import Modules, Tensors, draw_integers, draw_normal, draw_uniform
from trainables.diffusion.latent.masks import MaskEntry
from trainables.diffusion.samples import BIN, LEVEL
from trainables.diffusion.settings import ConditionSettings, DiffusionSettings
from trainables.stepping.inputs import SCHEDULE, SEED

Estimate = Callable[[Tensor, Tensor], Tensor]

_LARGEST_ESTIMATE = 5.0
"""Deviations of an image's values from their mean."""

PROGRESS = "progress"
"""Settings key of the schedule that the curriculum follows."""


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
        self, settings: ConditionSettings, width: int, masks: MaskEntry | None = None
    ) -> None:
        """Args: width: `embedding_width` of the network."""
        super().__init__()
        self.masks = masks
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
    if LATENT in batch:
        clean = space.standardised(batch[LATENT].float())
    else:
        clean = space.encode(batch["image"].float())
    strategy = strategy_of(settings, clean.shape[2:])
    t = times(strategy, batch)
    noise = told = draw_normal(batch[SEED], "noise", clean.shape[1:])
    if LEVEL not in batch:
        noise, told = perturbed_noise(settings.regulariser.input_noise, noise, batch[SEED])
    leading = _leading(batch, clean, settings)
    if leading is not None:
        clean, noise, told = clean * leading, noise * leading, told * leading
    return {
        **({} if leading is None else {"leading": leading}),
        "clean": clean,
        "noisy": strategy.noised(clean, noise, t),
        "t": t,
        "target": strategy.target(clean, told, t),
        "weight": strategy.weight(t),
    }


def _leading(batch: Tensors, clean: Tensor, settings: DiffusionSettings) -> Tensor | None:
    """1 in the leading channels that a training sample keeps, by its seed, and 0 behind them,
    [B, c, 1, ..., 1]; None where all are kept, as they are in validation.
    """
    node = settings.augmented_diffusion
    if not (node.enabled and settings.space.is_latent) or LEVEL in batch:
        return None
    options = torch.tensor(node.options(clean.shape[1]), device=clean.device)
    counts = options[draw_integers(batch[SEED], "augmented_diffusion", len(options), (1,))]
    places = torch.arange(clean.shape[1], device=clean.device)
    return (places < counts).to(clean.dtype).view(*clean.shape[:2], *[1] * (clean.ndim - 2))


def noise_only(modules: Modules, batch: Tensors, settings: DiffusionSettings) -> dict[str, Tensor]:
    """`noised` with the network's prediction, without the image that it amounts to."""
    space: Any = modules["space"]
    given = noised(space, batch, settings)
    output = predict(modules, given["noisy"], given["t"], batch, settings)
    leading = given.get("leading")
    output = output if leading is None else output * leading
    second = _again(modules, given, output, batch, settings)
    return {**given, "prediction": output, "second": second}


def _again(
    modules: Modules,
    given: Tensors,
    output: Tensor,
    batch: Tensors,
    settings: DiffusionSettings,
) -> Tensor:
    """The predictions, in training those of a share of the samples by a second pass where
    `loss.consistency` compares them; in evaluation it would be the first again. The pass is over
    all samples, for to pick them out would wait for the device.
    """
    node = settings.loss.consistency
    if not (node.is_on and modules["network"].training):
        return output
    again = predict(modules, given["noisy"], given["t"], batch, settings, forward=1)
    if "leading" in given:
        again = again * given["leading"]
    is_twice = draw_uniform(batch[SEED], "consistency") < node.probability
    return torch.where(is_twice.view(-1, *[1] * (output.ndim - 1)), again, output)


def denoise(modules: Modules, batch: Tensors, settings: DiffusionSettings) -> dict[str, Tensor]:
    """`noise_only` with the clean estimate, in the space and as an image; of latents an image
    where it is looked at, and where there is an autoencoder. Of leading channels alone it is the
    image that the autoencoder makes of them, with 0 behind as in its own training.
    """
    space: Any = modules["space"]
    prediction = noise_only(modules, batch, settings)
    noisy, output, t = (prediction[key] for key in ("noisy", "prediction", "t"))
    estimate = strategy_of(settings, noisy.shape[2:]).clean_estimate(noisy, output, t)
    prediction["clean_estimate"] = estimate
    is_seen = LEVEL in batch or settings.loss.perceptual.is_on or not settings.space.is_latent
    if space.decodes and is_seen:
        values, leading = space.unscaled(estimate), prediction.get("leading")
        prediction["reconstruction"] = space.restored(
            values if leading is None else values * leading
        )
    return prediction


def with_estimate(
    space: Space, batch: Tensors, settings: DiffusionSettings, estimate: Estimate
) -> dict[str, Tensor]:
    """What `denoise` gives for a clean estimate that no network makes.

    Args:
        estimate: `estimate(x_t / alpha [B, c, *s], sigma^2 / alpha^2 float32 [B])` -> [B, c, *s].
    """
    given = noised(space, batch, settings)
    noisy, t = given["noisy"], given["t"]
    strategy = strategy_of(settings, noisy.shape[2:])
    at = strategy.coefficients(t)
    clean = estimate(mixed((1.0 / at.alpha, noisy)), (at.sigma / at.alpha).square().float())
    noise = mixed((1.0 / at.sigma, noisy), (-at.alpha / at.sigma, clean))
    return {
        **given,
        "prediction": (prediction := strategy.target(clean, noise, t)),
        "second": prediction,
        "clean_estimate": clean,
        **({"reconstruction": space.decode(clean)} if space.decodes else {}),
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
    forward: int = 0,
) -> Tensor:
    """What the network says of x_t, float32.

    Args:
        batch: with what it is conditioned on, and in training with the seeds of its dropout.
        is_null: bool [B], whose conditions are not given.
        forward: its number, where the same x_t is predicted more than once.
    """
    embedding, images = None, []
    if settings.condition.mask.enabled:
        images.append(_mask_image(modules, batch, settings, is_null))
    if "conditions" in modules:
        embedding, maps = modules["conditions"](batch, noisy.shape[2:], is_null)
        images += [] if maps is None else [maps]
    context = None
    if images and settings.model.conditioning == "cross_attn":
        context, images = torch.cat(images, dim=1), []

    def asked(*further: Tensor) -> Tensor:
        beside = [image.to(noisy.dtype) for image in (*further, *images)]
        x = torch.cat([noisy, *beside], dim=1) if beside else noisy
        return _run(modules, x, t, embedding, context, batch, settings, forward)

    node = settings.regulariser.self_conditioning
    if not node.enabled:
        return asked()
    estimate = _first_estimate(asked, noisy, t, settings)
    if modules["network"].training:
        is_given = draw_uniform(batch[SEED], "self_conditioning") < node.probability
        estimate = torch.where(is_given.view(-1, *[1] * (noisy.ndim - 1)), estimate, 0.0)
    return asked(estimate)


def _run(
    modules: Modules,
    x: Tensor,
    t: Tensor,
    embedding: Tensor | None,
    context: Tensor | None,
    batch: Tensors,
    settings: DiffusionSettings,
    forward: int,
) -> Tensor:
    """One pass of the network, in training with noise on its features where that is asked for."""
    network: Any = modules["network"]
    node = settings.regulariser.feature_noise
    if not (node.enabled and network.training):
        output: Tensor = network(x, t, embedding, context)
        return output.float()
    noise = FeatureNoise(node, batch[SEED], forward)
    output = network(x, t, embedding, context, noise)
    noise.check()
    return output.float()


@torch.no_grad()
def _first_estimate(
    asked: Callable[..., Tensor], noisy: Tensor, t: Tensor, settings: DiffusionSettings
) -> Tensor:
    """The clean estimate of a pass that is given 0 in its place, kept to what standardised images
    have: where there is noise alone an estimate of ddpm divides by nearly 0.
    """
    output = asked(torch.zeros_like(noisy))
    strategy = strategy_of(settings, noisy.shape[2:])
    estimate = strategy.clean_estimate(noisy, output, t).to(noisy.dtype)
    return estimate.clamp(-_LARGEST_ESTIMATE, _LARGEST_ESTIMATE)


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
