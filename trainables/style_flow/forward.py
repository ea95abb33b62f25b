"""The forward of style_flow: a latent, noised up to t0, and where the flow takes it.

Shapes: B samples; latents [B, C, H, W].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.style_flow.conditioning import NULL_STYLE, drop_style
from models.style_flow.divergence import hutchinson, probes
from models.style_flow.elastic import bent
from models.style_flow.flow import Start, start_of, transport
from models.style_flow.network import VelocityUnet
from trainables.api import Modules, Tensors
from trainables.stepping.inputs import SCHEDULE, SEED, UPDATE_SEED
from trainables.style_flow.settings import StyleFlowSettings

T0 = "t0"
"""Settings key of the schedule of `flow.t0_low`."""


def stylise(modules: Modules, batch: Tensors, settings: StyleFlowSettings) -> dict[str, Tensor]:
    """The prediction of `losses.style.terms`. Velocity and divergence, at the start, are made
    in training where a term that is on reads them, in validation always: which terms it measures
    is decided elsewhere (an evaluation measures all).
    """
    network: Any = modules["network"]
    is_training = network.training
    source = batch["latent"].float()
    if is_training:
        start, style = _training_start(source, batch, settings), _told(batch, settings)
    else:
        start, style = _validation_start(source, batch, settings), batch["target"]

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, style)

    end = transport(velocity, start, settings.flow)
    prediction = {"x1": end.x, "x0": start.noise, "last_t": end.t}
    if is_training:
        prediction["dropped"] = style == NULL_STYLE
    loss, t = settings.loss, start.t0.to(source.dtype)
    if not is_training or (loss.divergence.is_on and loss.divergence.form == "trace"):
        probe = probes(batch[SEED], source.shape[1:])
        v, trace = hutchinson(velocity, start.x, t, probe)
        prediction |= {"velocity": v, "divergence": trace}
    elif any(term.is_on for term in (loss.velocity, loss.divergence, loss.trajectory)):
        prediction["velocity"] = velocity(start.x, t)
    return prediction


def _training_start(source: Tensor, batch: Tensors, settings: StyleFlowSettings) -> Start:
    """By the samples' seeds, of the source bent, above the bound that the schedule has reached."""
    factor = batch.get(f"{SCHEDULE}{T0}")
    low = None if factor is None else settings.flow.t0_low * factor
    moved = bent(source, batch[SEED], settings.flow.bend)
    return start_of(moved, batch[SEED], settings.flow, low)


def _validation_start(source: Tensor, batch: Tensors, settings: StyleFlowSettings) -> Start:
    """At `validation.t0`, with the noise of the samples' seeds."""
    drawn = start_of(source, batch[SEED], settings.flow)
    t0 = torch.full_like(drawn.t0, settings.validation.t0)
    if settings.flow.start == "source":
        return Start(source, t0, drawn.noise)
    return Start(torch.lerp(drawn.noise, source, settings.validation.t0), t0, drawn.noise)


def judged_at(settings: StyleFlowSettings) -> float:
    """t0 of a generation that is not told one: that of validation, below 1."""
    return min(settings.validation.t0, 0.999)


def _told(batch: Tensors, settings: StyleFlowSettings) -> Tensor:
    """The target styles as the network is told them; a batch outside of a training has no seed of
    an update.
    """
    node, seed = settings.label_drop, batch[SEED]
    if node.per == "update":
        seed = batch.get(UPDATE_SEED, seed).to(seed.device)
    return drop_style(batch["target"], seed, node.share)


def of(modules: Modules) -> VelocityUnet:
    """The network itself."""
    network: Any = modules["network"]
    return network
