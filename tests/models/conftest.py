"""What the tests of one model share: of hdr_patch a batch with holes and heads by setting, of the
conditioner small networks and their images.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from models.fields.network import ConditionerModel, ModelSettings
from models.hdr.head import HeadSettings, LogDomainHead
from settings.flat import replace


@pytest.fixture
def make_batch() -> Callable[..., dict[str, Tensor]]:
    """`make_batch(samples, side)`: log-normal radiance, about 1e-4 to 1e4, with a hole."""

    def make(samples: int = 3, side: int = 32) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        target = (2.0 * torch.randn(samples, 3, side, side, generator=generator)).exp()
        hole = torch.zeros(samples, 1, side, side)
        hole[:, :, side // 4 : side // 2, side // 3 : 2 * side // 3] = 1.0
        return {
            "warped": target * (1.0 - hole),
            "hole": hole,
            "target": target,
            "occlusion": torch.zeros(samples, 1, side, side),
            "motion": torch.zeros(samples, 2, side, side),
        }

    return make


@pytest.fixture
def head_with() -> Callable[..., LogDomainHead]:
    """`head_with({"cap.mode": "learnable"})`: a head with some settings changed."""

    def make(changes: dict[str, object] | None = None) -> LogDomainHead:
        return LogDomainHead(replace(HeadSettings(), changes or {}))

    return make


# The conditioner


def make_net(
    seed: int = 0, main_size: int = 12, hier_shape: tuple[int, int] = (3, 4), **changes: object
) -> ConditionerModel:
    torch.manual_seed(seed)
    settings = replace(ModelSettings(filters=(8, 16, 24)), changes)
    return ConditionerModel(settings, main_size, hier_shape)


def images(samples: int = 3, side: int = 33, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(samples, channels, side, side, generator=torch.Generator().manual_seed(seed))


def same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


@pytest.fixture(scope="session")
def net() -> SimpleNamespace:
    """The conditioner's network, its images, and a comparison of what it returns."""
    return SimpleNamespace(make=make_net, images=images, same=same)
