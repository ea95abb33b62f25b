"""The forward of diffusion: an image, noised, and what the network predicts of it.

Shapes: B samples; images [B, C, *S], in the space of the diffusion [B, c, *s].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from losses.diffusion_terms import LATENT
from metrics.diffusion import LEVELS, TIME_BINS
from models.diffusion.regularisers import perturbed_noise
from models.diffusion.score_aug.draws import draw_plan
from models.diffusion.score_aug.sda import draw_sda
from models.diffusion.score_aug.transforms import Plan, apply
from models.diffusion.spaces import Space
from models.diffusion.strategies.interface import Strategy, mixed
from models.diffusion.strategies.times import on_grid
from trainables.api import Modules, Tensors, draw_integers, draw_normal, draw_uniform
from trainables.diffusion.prediction import is_learning, predict, strategy_of
from trainables.diffusion.samples import BIN, LEVEL
from trainables.diffusion.settings import DiffusionSettings
from trainables.stepping.inputs import SCHEDULE, SEED, UPDATE_SEED

Estimate = Callable[[Tensor, Tensor], Tensor]

PROGRESS = "progress"
"""Settings key of the schedule that the curriculum follows."""


def noised(space: Space, batch: Tensors, settings: DiffusionSettings) -> dict[str, Tensor]:
    """A batch as the network is to see it: `clean`, `noisy`, `t`; what it is to predict, `target`,
    and the `weight` of its error. Noise and times are those of the samples' seeds; `told` is the
    noise that the target knows of.
    """
    if LATENT in batch:
        clean = space.standardised(batch[LATENT].float())
    else:
        clean = space.encode(batch["image"].float())
    strategy = strategy_of(settings, clean.shape[2:])
    t = times(strategy, batch, space.deviation)
    noise = told = draw_normal(batch[SEED], "noise", clean.shape[1:])
    if LEVEL not in batch:
        noise, told = perturbed_noise(settings.regulariser.input_noise, noise, batch[SEED])
    leading = _leading(batch, clean, settings)
    if leading is not None:
        clean, noise, told = clean * leading, noise * leading, told * leading
    return {
        **({} if leading is None else {"leading": leading}),
        "clean": clean,
        "noise": noise,
        "told": told,
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
    plan = plan_of(batch, given["noisy"].shape[2:], settings)
    if plan is not None:
        moved = ("clean", "noisy", "target")
        given |= {name: apply(plan, given[name], intensity=True) for name in moved}
    output = predict(modules, given["noisy"], given["t"], batch, settings, plan=plan)
    leading = given.get("leading")
    output = output if leading is None else output * leading
    second = _again(modules, given, output, batch, settings, plan)
    augmented = _augmented(modules, given, output, batch, settings)
    return {**given, **augmented, "prediction": output, "second": second}


def plan_of(batch: Tensors, sides: Sequence[int], settings: DiffusionSettings) -> Plan | None:
    """How ScoreAug transforms a training's batch, by the samples' seeds or that of the update;
    None where it does not.
    """
    node = settings.score_aug
    if not node.enabled or LEVEL in batch or SEED not in batch:
        return None
    seeds = _seeds(batch, node.per)
    return draw_plan(node, seeds, sides).to(batch[SEED].device)


def _seeds(batch: Tensors, per: str) -> Tensor:
    """Of the samples' draws, or of one for all in an update; a batch outside of a training has no
    seed of an update.
    """
    return batch.get(UPDATE_SEED, batch[SEED]) if per == "batch" else batch[SEED]


def _augmented(
    modules: Modules,
    given: Tensors,
    output: Tensor,
    batch: Tensors,
    settings: DiffusionSettings,
) -> dict[str, Tensor]:
    """What `loss.sda` compares: in training, where it is on, predictions of turned images at
    shifted times; else those of the images as they are.
    """
    node = settings.loss.sda
    if not (node.is_on and is_learning(modules)) or LEVEL in batch:
        return _named_sda(output, given["target"], given["weight"])
    space: Any = modules["space"]
    strategy = strategy_of(settings, given["clean"].shape[2:])
    seeds = _seeds(batch, node.per)
    draw = draw_sda(node, seeds, given["t"], batch["image"].shape[2:])
    moved = {"image": apply(draw.plan, batch["image"])}
    if node.moves_conditions and (settings.condition.mask.enabled or settings.control.enabled):
        moved["mask"] = apply(draw.plan, batch["mask"])
    clean = space.encode(moved["image"].float())
    noise, told = (apply(draw.plan, given[name]) for name in ("noise", "told"))
    t = on_grid(draw.t, strategy.levels) if strategy.levels else draw.t
    noisy = strategy.noised(clean, noise, t)
    again = predict(modules, noisy, t, {**batch, **moved}, settings, forward=2)
    weight = strategy.weight(t) * draw.is_used
    return _named_sda(again, strategy.target(clean, told, t), weight)


def _named_sda(prediction: Tensor, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
    return {"sda.prediction": prediction, "sda.target": target, "sda.weight": weight}


def _again(
    modules: Modules,
    given: Tensors,
    output: Tensor,
    batch: Tensors,
    settings: DiffusionSettings,
    plan: Plan | None,
) -> Tensor:
    """The predictions, in training those of a share of the samples by a second pass without
    gradient, as in the document, where `loss.consistency` compares them; in evaluation it would be
    the first again. The pass is over all samples, for to pick them out would wait for the device.
    """
    node = settings.loss.consistency
    if not (node.is_on and is_learning(modules)):
        return output
    with torch.no_grad():
        again = predict(modules, given["noisy"], given["t"], batch, settings, forward=1, plan=plan)
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
    prediction["deviation"] = space.deviation.expand(len(noisy))
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
    prediction = strategy.target(clean, noise, t)
    return {
        **given,
        **_named_sda(prediction, given["target"], given["weight"]),
        "prediction": prediction,
        "second": prediction,
        "clean_estimate": clean,
        "deviation": space.deviation.expand(len(clean)),
        **({"reconstruction": space.decode(clean)} if space.decodes else {}),
    }


def times(strategy: Strategy, batch: Tensors, deviation: Tensor | float = 1.0) -> Tensor:
    """t float32 [B]: drawn from the seeds in training; of a validation pair that of its log-SNR,
    or the middle of its time bin.

    Args:
        deviation: of the values in the space. The log-SNR of a pair is that of the image in its
            units: log(alpha^2 deviation^2 / sigma^2).
    """
    if LEVEL not in batch:
        progress = batch.get(f"{SCHEDULE}{PROGRESS}", 1.0)
        return strategy.draw_times(batch[SEED], progress)
    level = batch[LEVEL]
    table = torch.tensor(LEVELS, dtype=torch.float64, device=level.device)
    of_data = 2.0 * torch.as_tensor(deviation, dtype=torch.float64, device=level.device).log()
    by_log_snr = strategy.time_of(table[level.clamp(min=0)] - of_data)
    by_bin = (batch[BIN].double() + 0.5) / TIME_BINS
    return torch.where(level >= 0, by_log_snr, by_bin).float()


