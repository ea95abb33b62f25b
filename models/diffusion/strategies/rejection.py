"""Diffusion rejection sampling (DiffRS, arXiv 2405.17880, algorithm 1): on the way from noise to
image, states that look less real than others at their time are noised again.

With log L_t = log(q_t / p_t), how much denser real images are at x_t than generated ones, and U
uniform in (0, 1], a state at t that was reached from t' is accepted where

    log L_t >= log L_t' + log M_t + log U            (the increment)

and one that was noised back to t, or begins there, where

    log L_t >= log N_t + log U                       (the ratio itself)

log M_t and log N_t are quantiles of the increments and of the ratios over a few trajectories
without rejection (the authors' code also raises both to 0 or more, which is not done here: where
all ratios are below 0 nearly all would be rejected). What is rejected goes back `back_steps`
steps, to the first time as new noise, and is judged there. With quantiles of 1 that no ratio
exceeds, and steps back to the noise, the product of the acceptances is proportional to L_0 and
what comes out has the law of real images.

All that is random about a sample comes from its own seed and from how often it was judged, so that
it does not depend on its batch.

Shapes: B samples, A of them still on the way; seeds int64 [B]; x [B, C, *S]; N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.strategies.interface import Strategy
from models.diffusion.strategies.sampling import denoising_step, velocity_of
from models.diffusion.strategies.settings import SamplingSettings
from models.draws import draw_normal, draw_uniform
from models.integration import SOLVERS, integrate
from settings.schema import Settings, SettingsError, setting

Judge = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`judge(x [A, C, *S], t [A], rows int64 [A])` -> (what the network predicts, log L_t [A]) of the
samples at these rows of the batch, both from one evaluation.
"""

_EVENT = 0x2545F4914F6CDD1D
"""Odd, so that the seeds of a sample's events differ."""


@dataclass(frozen=True, kw_only=True)
class RejectionSettings(Settings):
    """Of rejection sampling."""

    percentile: float = setting(
        0.75, "quantile of the warm-up's log-ratios that is the threshold", low=0.0, high=1.0
    )
    back_steps: int = setting(
        1, "steps that a rejected state goes back; as many as there are begin anew", low=1
    )
    back: str = setting(
        "clean",
        "what is noised again: the clean estimate, as the document has it, or the state itself, "
        "as the paper has it",
        choices=("clean", "state"),
    )
    low: float = setting(
        0.0, "states at times below are not judged: near 0 every artefact shows", low=0.0, high=1.0
    )
    cap: int = setting(
        100, "rejections of a sample, from which on all is accepted, and counted", low=0
    )
    warm_up: int = setting(10, "trajectories that the thresholds are of", low=1, high=100_000)
    seed: int = setting(0, "of these trajectories", low=0)


@dataclass(frozen=True)
class Thresholds:
    """log N_t and log M_t at each time of the way, float64 [N + 1]; no increment leads to the
    first.
    """

    ratio: Tensor
    increment: Tensor


@dataclass(frozen=True)
class Outcome:
    """What rejection sampling has made.

    Attributes:
        x: float32 [B, C, *S].
        evaluations: of the network, int64 [B]; of both predictions where it is guided.
        rejections: int64 [B].
        is_capped: bool [B], whether something was accepted for the cap alone.
    """

    x: Tensor
    evaluations: Tensor
    rejections: Tensor
    is_capped: Tensor


def check_sampling(sampling: SamplingSettings, kind: str) -> None:
    """Raises SettingsError for ways of sampling that are no steps of their own.

    Args:
        kind: of the strategy.
    """
    if kind == "rflow" and sampling.rflow.solver not in SOLVERS:
        raise SettingsError(
            f"rejection goes back single steps, and sampling.rflow.solver={sampling.rflow.solver} "
            f"takes them all at once. Set it to one of {', '.join(SOLVERS)}."
        )
    if sampling.restart.enabled or (kind == "ddpm" and sampling.ddpm.clip):
        named = "restart.enabled" if sampling.restart.enabled else "ddpm.clip"
        raise SettingsError(
            f"rejection is without sampling.{named}, which changes states on the way by other "
            f"rules. Set sampling.{named}=false."
        )


@torch.no_grad()
def warm_up(
    strategy: Strategy,
    judge: Judge,
    seeds: Tensor,
    shape: Sequence[int],
    sampling: SamplingSettings,
    percentile: float,
) -> Thresholds:
    """The thresholds, from a trajectory without rejection for each seed."""
    check_sampling(sampling, strategy.kind)
    times = strategy.sampling_times(sampling)
    steps = _Steps(strategy, judge, sampling)
    x, rows, found = draw_normal(seeds, "noise", shape).double(), torch.arange(len(seeds)), []
    rows = rows.to(seeds.device)
    for place, t in enumerate(times.tolist()):
        here = x.new_full((len(x),), t)
        prediction, ratio = judge(x.float(), here.float(), rows)
        found.append(ratio.double())
        if place + 1 < len(times):
            there = x.new_full((len(x),), float(times[place + 1]))
            x = steps(
                x,
                rows,
                here,
                there,
                prediction,
                _of_event(seeds, torch.full_like(seeds, place + 1)),
            )
    ratios = torch.stack(found)
    increments = torch.cat([torch.zeros_like(ratios[:1]), ratios.diff(dim=0)])
    return Thresholds(*(part.quantile(percentile, dim=1) for part in (ratios, increments)))


@torch.no_grad()
def rejection_sample(
    strategy: Strategy,
    judge: Judge,
    thresholds: Thresholds,
    seeds: Tensor,
    shape: Sequence[int],
    sampling: SamplingSettings,
    settings: RejectionSettings,
) -> Outcome:
    """One image of shape [C, *S] for each seed. Where nothing is rejected it is that of
    `sampling.sample` (with noise in the steps, of other noise).
    """
    check_sampling(sampling, strategy.kind)
    way = _Way(strategy, judge, thresholds, seeds, shape, sampling, settings)
    while len(rows := way.unfinished()):
        way.judge_and_move(rows)
    return Outcome(way.x.float(), way.evaluations, way.rejections, way.is_capped)


def _of_event(seeds: Tensor, event: Tensor) -> Tensor:
    """A seed for each event of a sample."""
    return seeds + event * _EVENT


class _Steps:
    """One step of the sampler, each sample from its own time to its own."""

    def __init__(self, strategy: Strategy, judge: Judge, sampling: SamplingSettings) -> None:
        self.strategy, self.judge, self.sampling = strategy, judge, sampling

    @property
    def further_evaluations(self) -> int:
        """Beside the one that has judged the state."""
        if self.strategy.kind == "ddpm":
            return 0
        return SOLVERS[self.sampling.rflow.solver].evaluations - 1

    def __call__(
        self,
        x: Tensor,
        rows: Tensor,
        here: Tensor,
        there: Tensor,
        prediction: Tensor,
        seeds: Tensor,
    ) -> Tensor:
        """
        Args:
            prediction: at x and here, which is not made again.
            seeds: of new noise.
        """
        if self.strategy.kind == "ddpm":
            return self._denoised(x, here, there, prediction, seeds)
        known = [prediction]

        def predict(state: Tensor, t: Tensor) -> Tensor:
            made = known.pop() if known else self.judge(state.float(), t.float(), rows)[0]
            return made.to(state.dtype)

        grid = torch.stack([here, there])
        return integrate(velocity_of(self.strategy, predict), x, grid, self.sampling.rflow.solver)

    def _denoised(
        self, x: Tensor, here: Tensor, there: Tensor, prediction: Tensor, seeds: Tensor
    ) -> Tensor:
        chosen = self.sampling.ddpm
        eta = 1.0 if chosen.solver == "ancestral" else chosen.eta
        at, to = self.strategy.coefficients(here), self.strategy.coefficients(there)
        made = prediction.to(x.dtype)
        fresh = draw_normal(seeds, "step", x.shape[1:]).to(x.dtype) if eta > 0.0 else None
        return denoising_step(at, to, at.clean(x, made), at.noise(x, made), eta, fresh)


class _Way:
    """Where every sample is, and what happened to it."""

    def __init__(
        self,
        strategy: Strategy,
        judge: Judge,
        thresholds: Thresholds,
        seeds: Tensor,
        shape: Sequence[int],
        sampling: SamplingSettings,
        settings: RejectionSettings,
    ) -> None:
        self.strategy, self.judge, self.settings = strategy, judge, settings
        self.steps = _Steps(strategy, judge, sampling)
        self.seeds, self.shape = seeds, tuple(shape)
        self.times = strategy.sampling_times(sampling).to(seeds.device)
        self.ratio, self.increment = (
            part.to(seeds.device) for part in (thresholds.ratio, thresholds.increment)
        )
        self.x = draw_normal(seeds, "noise", shape).double()
        self.place = torch.zeros_like(seeds)
        self.events = torch.zeros_like(seeds)
        self.evaluations = torch.zeros_like(seeds)
        self.rejections = torch.zeros_like(seeds)
        self.is_capped = torch.zeros_like(seeds, dtype=torch.bool)
        self.is_done = torch.zeros_like(self.is_capped)
        # log L at the time before, NaN where the ratio itself is compared
        self.before = torch.full(seeds.shape, torch.nan, dtype=torch.float64, device=seeds.device)

    @property
    def _last(self) -> int:
        return len(self.times) - 1

    def unfinished(self) -> Tensor:
        """The rows of those that are still on the way."""
        if self.settings.low > 0.0:  # the image itself is not judged
            self.is_done |= self.place == self._last
        return (~self.is_done).nonzero()[:, 0]

    def judge_and_move(self, rows: Tensor) -> None:
        """Judges the states of these rows and moves each a step on or back."""
        t = self.times[self.place[rows]]
        prediction, ratio = self.judge(self.x[rows].float(), t.float(), rows)
        self.evaluations[rows] += 1
        self.events[rows] += 1
        seeds = _of_event(self.seeds[rows], self.events[rows])
        is_accepted = self._accepts(rows, t, ratio.double(), seeds)
        self._on(rows, t, prediction, is_accepted, seeds)
        self._back(rows, t, prediction, ~is_accepted, seeds)

    def _accepts(self, rows: Tensor, t: Tensor, ratio: Tensor, seeds: Tensor) -> Tensor:
        place, before = self.place[rows], self.before[rows]
        bound = torch.where(before.isnan(), self.ratio[place], self.increment[place] + before)
        # uniform in (0, 1]
        chance = (1.0 - draw_uniform(seeds, "rejection.accept").double()).log()
        is_judged = t >= self.settings.low
        rejects = is_judged & (ratio < bound + chance)
        at_cap = self.rejections[rows] >= self.settings.cap
        self.is_capped[rows] |= rejects & at_cap
        is_accepted = ~rejects | at_cap
        self.before[rows] = torch.where(is_accepted & is_judged, ratio, torch.nan)
        return is_accepted

    def _on(
        self, rows: Tensor, t: Tensor, prediction: Tensor, chosen: Tensor, seeds: Tensor
    ) -> None:
        self.is_done[rows] |= chosen & (self.place[rows] == self._last)
        chosen = chosen & ~self.is_done[rows]
        on = rows[chosen]
        if not len(on):
            return
        there = self.times[self.place[on] + 1]
        self.x[on] = self.steps(
            self.x[on], on, t[chosen], there, prediction[chosen], seeds[chosen]
        )
        self.evaluations[on] += self.steps.further_evaluations
        self.place[on] += 1

    def _back(
        self, rows: Tensor, t: Tensor, prediction: Tensor, chosen: Tensor, seeds: Tensor
    ) -> None:
        back = rows[chosen]
        if not len(back):
            return
        self.rejections[back] += 1
        place = (self.place[back] - self.settings.back_steps).clamp_min(0)
        here, later = t[chosen], self.times[place]
        noise = draw_normal(seeds[chosen], "rejection.back", self.shape).double()
        x = self.x[back]
        if self.settings.back == "state":
            noised = self.strategy.renoised(x, noise, here, later)
        else:
            clean = self.strategy.clean_estimate(x, prediction[chosen].double(), here)
            noised = self.strategy.noised(clean, noise, later)
        begins = (place == 0).view(-1, *[1] * (x.ndim - 1))
        self.x[back] = torch.where(begins, noise, noised)
        self.place[back] = place
