"""Images of noise, by a strategy and a network's prediction.

Noise belongs to a sample: it is a function of the sample's seed, so that an image does not depend
on the others of its batch. The state is float64 and the network is given float32: a hundred equal
steps of a constant velocity are rounded the same way each time, and end 6e-6 off in float32, 3e-7
in float64 (`python -m benchmarks.rivals.flow_solvers`).

Shapes: B samples; seeds int64 [B]; x [B, C, *S]; t [B].
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.diffusion.strategies.guidance import guided_prediction
from models.diffusion.strategies.interface import Coefficients, Predict, Strategy, mixed
from models.diffusion.strategies.library import library_trajectory, monai_trajectory
from models.diffusion.strategies.settings import (
    LIBRARY,
    MONAI,
    RestartSettings,
    SamplingSettings,
)
from models.draws import draw_normal
from models.integration import Velocity, time_grid, trajectory


@dataclass(frozen=True)
class State:
    """Where sampling is.

    Attributes:
        t: the time that has been reached, 0 at the end.
        x: float32 [B, C, *S].
        evaluations: of networks until now, over all samples; with guidance two a sample and stage.
        clipped: values of clean estimates that were moved into the range until now, int64 [].
    """

    t: float
    x: Tensor
    evaluations: int
    clipped: Tensor


def sample(
    strategy: Strategy,
    predict: Predict,
    seeds: Tensor,
    shape: Sequence[int],
    settings: SamplingSettings,
    *,
    unconditional: Predict | None = None,
    clean_range: tuple[float, float] | None = None,
    noise: Tensor | None = None,
) -> State:
    """One image of shape [C, *S] for each seed, on the seeds' device; else as `sample_path`."""
    path = sample_path(
        strategy,
        predict,
        seeds,
        shape,
        settings,
        unconditional=unconditional,
        clean_range=clean_range,
        noise=noise,
    )
    return last(path)


def last(path: Iterator[State]) -> State:
    """The state at the end of a path."""
    return collections.deque(path, maxlen=1)[0]


@torch.no_grad()
def sample_path(
    strategy: Strategy,
    predict: Predict,
    seeds: Tensor,
    shape: Sequence[int],
    settings: SamplingSettings,
    *,
    unconditional: Predict | None = None,
    clean_range: tuple[float, float] | None = None,
    noise: Tensor | None = None,
) -> Iterator[State]:
    """From the noise to the image: the state at the start, after each step and after each restart.

    Args:
        predict: of the network in evaluation, under the condition that is asked for.
        unconditional: the same network's without the condition, for guidance.
        clean_range: what the values of a clean image lie between, where that is known;
            `sampling.ddpm.clip` needs it.
        noise: to begin with [B, C, *S], instead of that of the seeds.

    Raises:
        ValueError: guidance without `unconditional`, clipping without a range, a restart from
            above the first step.
        SettingsError: a solver whose package is not installed.
    """
    conditional = _Counted(predict)
    without = None if unconditional is None else _Counted(unconditional)
    counted = [conditional] if without is None else [conditional, without]
    both = guided_prediction(conditional, without, settings.guidance)
    clip = _Clip(_range_of(strategy, settings, clean_range))
    draws = _Draws(seeds, shape)
    times = strategy.sampling_times(settings)

    def state(t: float, x: Tensor) -> State:
        return State(t, x.float(), sum(c.samples for c in counted), clip.moved)

    x, t = (draws.take("noise") if noise is None else noise).double(), float(times[0])
    yield state(t, x)
    for leg in _legs(times, settings.restart):
        if (later := float(leg[0])) > t:
            here, there = (x.new_full((len(x),), place) for place in (t, later))
            x = strategy.renoised(x, draws.take("restart"), here, there)
            yield state(later, x)
        if strategy.kind == "ddpm":
            steps = _denoised(strategy, both, x, leg, settings, clip, draws)
        else:
            steps = _flown(strategy, both, x, leg, settings)
        for t, x in zip(leg[1:].tolist(), steps, strict=True):
            yield state(t, x)


def velocity_of(strategy: Strategy, predict: Predict) -> Velocity:
    """dx/dt of the flow, as `models.integration.integrate` takes it."""
    return lambda x, t: strategy.derivative(x, predict(x, t), t)


def denoising_step(
    here: Coefficients,
    there: Coefficients,
    clean: Tensor,
    noise: Tensor,
    eta: float,
    fresh: Tensor | None = None,
) -> Tensor:
    """x at an earlier time from estimates of image and noise (arXiv 2010.02502, equation 12):

        alpha' clean + sqrt(sigma'^2 - d^2) noise + d fresh,
        d^2 = eta^2 (sigma' / sigma)^2 (sigma^2 - (alpha / alpha')^2 sigma'^2)

    With eta = 1 it is the posterior of the ancestral sampler with its smaller variance.

    Args:
        fresh: new noise; read where d is above 0.
    """
    kept = (here.alpha / there.alpha).square() * there.sigma.square()
    variance = (there.sigma / here.sigma).square() * (here.sigma.square() - kept)
    variance = eta**2 * variance.clamp_min(0.0)
    rest = (there.sigma.square() - variance).clamp_min(0.0).sqrt()
    parts = [(there.alpha, clean), (rest, noise)]
    return mixed(*parts) if fresh is None else mixed(*parts, (variance.sqrt(), fresh))


def _flown(
    strategy: Strategy, predict: Predict, x: Tensor, times: Tensor, settings: SamplingSettings
) -> Iterator[Tensor]:
    """x after each step along the flow."""
    velocity, chosen = velocity_of(strategy, predict), settings.rflow
    if chosen.solver == LIBRARY:
        path = library_trajectory(velocity, x, times, chosen.torchdiffeq)
    elif chosen.solver == MONAI:
        path = monai_trajectory(velocity, x, settings.steps, strategy.ratio)
    else:
        path = trajectory(velocity, x, times, chosen.solver)
    return (x for _, x in itertools.islice(path, 1, None))


def _denoised(
    strategy: Strategy,
    predict: Predict,
    x: Tensor,
    times: Tensor,
    settings: SamplingSettings,
    clip: _Clip,
    draws: _Draws,
) -> Iterator[Tensor]:
    """x after each step of denoising. Times stay on the host, which need not wait for a GPU."""
    eta = 1.0 if settings.ddpm.solver == "ancestral" else settings.ddpm.eta
    places = times.to(x.device, non_blocking=True)
    coefficients = strategy.coefficients(places)
    for index, following in enumerate(times[1:].tolist()):
        here, there = coefficients.at(index), coefficients.at(index + 1)
        prediction = predict(x, places[index].expand(len(x)))
        clean, noise = here.clean(x, prediction), here.noise(x, prediction)
        if clip.bounds:
            clean = clip(clean)
            noise = mixed((1.0 / here.sigma, x), (-here.alpha / here.sigma, clean))
        fresh = draws.take("step") if eta > 0.0 and following > 0.0 else None
        x = denoising_step(here, there, clean, noise, eta, fresh)
        yield x


def _legs(times: Tensor, restart: RestartSettings) -> list[Tensor]:
    """Parts of the way, each falling; noise is added between them where the next begins higher."""
    if not restart.enabled:
        return [times]
    if restart.high > float(times[0]):
        raise ValueError(
            f"sampling.restart.high is at most the first t, {float(times[0]):.4g}, not "
            f"{restart.high:g}. Lower it."
        )
    again = time_grid(restart.steps, restart.high, restart.low)
    to_low = torch.cat([times[times > restart.low], again[-1:]])
    to_end = torch.cat([again, times[times < restart.low]])
    return [to_low, *[again] * (restart.rounds - 1), to_end]


def _range_of(
    strategy: Strategy, settings: SamplingSettings, clean_range: tuple[float, float] | None
) -> tuple[float, float] | None:
    """What clean estimates are kept in; None where they are left as they are."""
    if strategy.kind != "ddpm" or not settings.ddpm.clip:
        return None
    if clean_range is None:
        raise ValueError(
            "sampling.ddpm.clip=true keeps clean estimates in the range of the data, which is "
            "not known here (latents have none). Set it to false, or give clean_range."
        )
    return clean_range


class _Counted:
    """A network's prediction of float32, and how many samples it was asked about."""

    def __init__(self, predict: Predict) -> None:
        self.predict, self.samples = predict, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.samples += len(x)
        return self.predict(x.float(), t.float()).to(x.dtype)


class _Draws:
    """Noise by the samples' seeds, another with every call."""

    def __init__(self, seeds: Tensor, shape: Sequence[int]) -> None:
        self.seeds, self.shape, self.counts = seeds, shape, collections.Counter[str]()

    def take(self, what: str) -> Tensor:
        number = self.counts[what]
        self.counts[what] += 1
        stream = f"{what} {number}" if what != "noise" else what
        return draw_normal(self.seeds, stream, self.shape)


@dataclass
class _Clip:
    """Moves clean estimates into a range and counts the values that were outside."""

    bounds: tuple[float, float] | None
    moved: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def __call__(self, clean: Tensor) -> Tensor:
        if self.bounds is None:
            return clean
        kept = clean.clamp(*self.bounds)
        self.moved = self.moved.to(clean.device) + (kept != clean).sum()
        return kept
