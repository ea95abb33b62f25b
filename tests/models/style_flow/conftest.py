"""What the tests of the style flow share: a tiny network with nothing at 0, latents, styles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.style_flow.network import VelocityUnet
from models.style_flow.settings import ModelSettings
from settings.flat import replace

TINY = ModelSettings(base=4, embedding=8, norm_groups=2, head_width=4)


def make_network(shaken: bool = True, styles: int = 3, **changes: Any) -> VelocityUnet:
    torch.manual_seed(0)
    network = VelocityUnet(replace(TINY, changes), 2, styles)
    if shaken:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def make_latents(samples: int = 3, side: int = 8, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 2, side, side, generator=generator)


@pytest.fixture(scope="session")
def make() -> Callable[..., VelocityUnet]:
    """`make(shaken=False, null="mean")`: a tiny network of 2 channels and 3 styles."""
    return make_network


@pytest.fixture(scope="session")
def latents() -> Callable[..., Tensor]:
    """`latents(3)` [3, 2, 8, 8]"""
    return make_latents
