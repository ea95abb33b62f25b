"""The divergence of a velocity, the trace of dv/dx, estimated by one product a sample.

Not the change of v along the axes of its image, which the document calls so (002-M19): the trace
says how fast the flow dilates volumes of its state space.

Shapes: B samples; the state x [B, ...].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.draws import draw_integers
from models.integration import Velocity, twice_differentiable


def probes(seed: Tensor, shape: Sequence[int], number: int = 0) -> Tensor:
    """Float32 [B, *shape] of -1 and 1, by the seeds of the samples; `number` tells several
    estimates of one sample apart.
    """
    return 2.0 * draw_integers(seed, f"flow.divergence.{number}", 2, shape).float() - 1.0


def hutchinson(velocity: Velocity, x: Tensor, t: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """(v [B, ...], divergence [B]): xi^T (dv/dx) xi, whose mean over xi is the trace (Hutchinson
    1990; of a flow FFJORD, arXiv 1810.01367). Of each sample by itself: the velocity of one must
    not depend on another.

    Where gradients are on, both are in their graph; under `torch.no_grad()` the product is
    computed all the same, and both come without one.

    Args:
        probe: xi, of `probes`.
    """
    is_training = torch.is_grad_enabled()
    with torch.enable_grad(), twice_differentiable():
        place = x if is_training and x.requires_grad else x.detach().requires_grad_()
        v = velocity(place, t)
        xi = probe.to(v.dtype)
        (product,) = torch.autograd.grad(v, place, xi, create_graph=is_training)
    estimate = (product * probe.to(product.dtype)).flatten(1).sum(dim=1)
    return (v, estimate) if is_training else (v.detach(), estimate.detach())
