"""What the tests of the diffusion's networks share: small ones of every kind, and their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.build import build_network
from models.diffusion.interface import DiffusionNetwork
from models.diffusion.settings import HditSettings, ModelSettings, UnetSettings
from settings.flat import replace

TINY = ModelSettings(
    unet=UnetSettings(widths=(8, 16), head_width=8, norm_groups=4, attention=1),
    hdit=HditSettings(level_depths=(1, 1, 1), patch_size=2),
)
SIDES = {2: (8, 16), 3: (8, 16, 8)}


def make_network(
    kind: str, dims: int, channels: int = 1, condition: int = 1, seed: int = 0, **changes: Any
) -> DiffusionNetwork:
    torch.manual_seed(seed)
    settings = replace(TINY, {"kind": kind, "spatial_dims": dims, **changes})
    return build_network(settings, SIDES[dims], channels, condition_channels=condition)


def shaken(network: nn.Module, scale: float = 0.05) -> nn.Module:
    """The network with noise on all its weights, so that nothing of it is 0 any more."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return network


def make_inputs(network: DiffusionNetwork, samples: int = 2) -> dict[str, Tensor | None]:
    """x, time, an embedding that is added and, where one is attended to, a context."""
    generator = torch.Generator().manual_seed(1)
    sides = SIDES[network.dimensions]

    def noise(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=generator)

    channels = network.context_channels
    return {
        "x": noise(network.in_channels, *sides),
        "time": torch.rand(samples, generator=generator),
        "embedding": noise(network.embedding_width),
        "context": noise(channels, *sides) if channels else None,
    }


@pytest.fixture(scope="session")
def make() -> Callable[..., DiffusionNetwork]:
    """`make("dit", 3, **{"dit.drop_path": 0.5})`: a tiny network of 8 x 16 (x 8) images."""
    return make_network


@pytest.fixture(scope="session")
def shake() -> Callable[..., Any]:
    return shaken


@pytest.fixture(scope="session")
def inputs() -> Callable[..., dict[str, Tensor | None]]:
    return make_inputs
