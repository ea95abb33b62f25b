"""Style transfer by a trained flow: the content is taken back to t0, by noise or by an inversion
in its own style, and generated from there in another.

Shapes: B samples; the state x [B, C, H, W]; style, seed int64 [B].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from models.draws import draw_normal
from models.integration import Velocity, guided, integrate, time_grid
from models.style_flow.conditioning import NULL_STYLE
from models.style_flow.settings import GuidanceSettings, LangevinSettings, SamplingSettings

StyledVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""v(x, t, style), as `VelocityUnet` computes it."""


def invert(
    network: StyledVelocity, content: Tensor, style: Tensor, settings: SamplingSettings
) -> Tensor:
    """The state at t0 that the flow of the content's own style leads to the content from; with
    no guidance, whose velocity no training has seen.
    """
    times = time_grid(settings.inversion_steps, 1.0, settings.first)
    return integrate(_of(network, style), content, times, settings.solver)


def generate(
    network: StyledVelocity, x: Tensor, style: Tensor, seed: Tensor, settings: SamplingSettings
) -> Tensor:
    """From the state at t0 to the latent at t = 1 in that style, guided and with the noise that
    the settings ask for. A sample's noise is drawn by its seed, whatever the others are.
    """
    velocity = guided_velocity(network, style, settings.guidance, settings.first)
    times = time_grid(settings.steps, settings.first)
    langevin = settings.langevin
    if not langevin.sigma:
        return integrate(velocity, x, times, settings.solver)
    for number, (t, following) in enumerate(itertools.pairwise(times.tolist())):
        x = integrate(velocity, x, times[number : number + 2], settings.solver)
        x = x + _langevin(x, seed, number, t, following - t, langevin)
    return x


def transfer(
    network: StyledVelocity,
    content: Tensor,
    source: Tensor,
    target: Tensor,
    seed: Tensor,
    settings: SamplingSettings,
) -> Tensor:
    """The content in the target style: taken back to t0, then generated.

    Args:
        source: in which the content is inverted, with `begin=inverted`.
    """
    start = beginning(network, content, source, seed, settings)
    return generate(network, start, target, seed, settings)


def beginning(
    network: StyledVelocity,
    content: Tensor,
    source: Tensor,
    seed: Tensor,
    settings: SamplingSettings,
) -> Tensor:
    """The state at t0, with the noise of a training where it is noised (`flow.start_of`)."""
    if settings.begin == "inverted":
        return invert(network, content, source, settings)
    noise = draw_normal(seed, "flow.noise", content.shape[1:]).to(content)
    return torch.lerp(noise, content, settings.first)


def inversion_error(
    network: StyledVelocity, content: Tensor, style: Tensor, settings: SamplingSettings
) -> Tensor:
    """Root mean square [B] of content - generated(inverted(content)), both in its own style,
    without guidance and noise: what a result differs by, of which no style is the reason
    (002-M21).
    """
    start = invert(network, content, style, settings)
    times = time_grid(settings.steps, settings.first)
    again = integrate(_of(network, style), start, times, settings.solver)
    return (again - content).flatten(1).square().mean(dim=1).sqrt()


def guidance_weight(settings: GuidanceSettings, t: Tensor, t0: float = 0.0) -> Tensor:
    """w at t: `start` at t0, `end` at t = 1."""
    return settings.start + (settings.end - settings.start) * (t - t0) / (1.0 - t0)


def guided_velocity(
    network: StyledVelocity, style: Tensor, settings: GuidanceSettings, t0: float = 0.0
) -> Velocity:
    """v_u + w(t) (v_c - v_u), v_u of no style; that of the style alone where w is 1 throughout."""
    conditional = _of(network, style)
    if not settings.is_on:
        return conditional
    unconditional = _of(network, torch.full_like(style, NULL_STYLE))

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        v_u, v_c = unconditional(x, t), conditional(x, t)
        combine = guided(
            lambda *_: v_c, lambda *_: v_u, lambda time: guidance_weight(settings, time, t0)
        )
        return rescaled(combine(x, t), v_c.to(x.dtype), settings.rescale)

    return velocity


def rescaled(guided_v: Tensor, conditional: Tensor, share: float) -> Tensor:
    """(1 - share) v + share v std(v_c) / std(v), the deviations of each sample over all its values
    (Lin et al. 2023, arXiv 2305.08891, equations 15 and 16).
    """
    if not share:
        return guided_v
    axes = tuple(range(1, guided_v.ndim))
    wanted = conditional.std(dim=axes, keepdim=True)
    found = guided_v.std(dim=axes, keepdim=True)
    ratio = wanted / found.clamp_min(torch.finfo(found.dtype).tiny)
    return guided_v * (1.0 - share + share * torch.where(found > 0.0, ratio, 1.0))


def _langevin(
    x: Tensor, seed: Tensor, number: int, t: float, dt: float, settings: LangevinSettings
) -> Tensor:
    """sigma sqrt(dt) xi of a step that begins at t >= `since`, 0 before; xi by the seeds."""
    if t < settings.since:
        return torch.zeros_like(x)
    xi = draw_normal(seed, f"flow.langevin.{number}", x.shape[1:]).to(x.dtype)
    return settings.sigma * dt**0.5 * xi


def _of(network: StyledVelocity, style: Tensor) -> Velocity:
    return lambda x, t: network(x, t, style)
