"""Every system in a size of seconds, with its shared preparation made once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tiny import SHORT, TINY
from settings.flat import replace
from settings.systems import SYSTEMS
from trainables.system import load_system

OWN = ("trainables.toy:Toy", "trainables.toy:ToyGan")
"""Systems that are spelled as a user's own."""

AUDIT: dict[str, dict[str, Any]] = {
    "hdr_patch": {
        # With the mask on, valid pixels never change, so loss.context has no gradient; and a small
        # residual is inside the safe range. The pre-flight says the first (tests/losses).
        "hdr.mask": False,
        "hdr.prefill": "push_pull",
        "loss.range.safe_range": 0.0,
    },
    # Every sample has a second view.
    "conditioner": {"augment.outer_probability": 1.0, "augment.inner_probability": 1.0},
}
"""Settings under which every term of a system has something to do, where its defaults are not."""


@dataclass
class Case:
    """A system under test."""

    name: str
    cache: Path = field(repr=False)

    @cached_property
    def system(self) -> Any:
        return load_system(self.name)

    @cached_property
    def settings(self) -> Any:
        return replace(self.system.Settings(), {**SHORT, **TINY[self.name]})

    @cached_property
    def prepared(self) -> Any:
        return self.system.prepare(self.settings, self.cache)

    def modules(self, settings: Any, seed: int = 0) -> dict[str, Any]:
        """The modules a little off their start, where a residual or a score may be exactly 0; for
        each seed a state of their own, as the models have that a sweep compares.
        """
        prepared = self.prepared  # made on first use, with random numbers of its own
        torch.manual_seed(seed)
        built: dict[str, Any] = self.system.build(settings, prepared).modules
        with torch.no_grad():
            for module in built.values():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.02 * torch.randn_like(parameter))
        return built

    @property
    def audit(self) -> dict[str, Any]:
        return AUDIT.get(self.name, {})


@pytest.fixture(scope="package", params=[*SYSTEMS, *OWN])
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """Every test of this folder."""
