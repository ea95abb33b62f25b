"""What the tests of the hdr_patch model share: a batch with holes, and heads by setting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.hdr_head import HeadSettings, LogDomainHead
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
