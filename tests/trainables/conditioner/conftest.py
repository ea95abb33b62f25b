"""System `conditioner` in a size of seconds, its data prepared once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.conditioner.system import Conditioner
from trainables.contract.examined import SHORT
from trainables.loop import fit
from trainables.run import LocalRun


@dataclass
class TinyConditioner:
    """System `conditioner` in a size of seconds."""

    cache: Path
    tiny: dict = field(default_factory=lambda: {**Conditioner.small, **SHORT})
    system: Conditioner = field(default_factory=Conditioner)

    def settings(self, changes=None):
        return replace(self.system.Settings(), {**self.tiny, **(changes or {})})

    def prepared(self, changes=None):
        return self.system.prepare(self.settings(changes), self.cache)

    def fit(self, directory, changes=None, *, system=None, resume=False, stop=None):
        """(history of reports, tensors of the newest checkpoint)."""
        system, settings = system or self.system, self.settings(changes)
        run = LocalRun(directory, resume=resume, stop_step=stop)
        fit(system, settings, run, system.prepare(settings, self.cache))
        newest = checkpoint.available(directory / "checkpoints")[-1]
        return run.history, checkpoint.load(newest, system.name).tensors


@pytest.fixture(scope="package")
def conditioner_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("conditioner")


@pytest.fixture
def conditioner(conditioner_cache, one_thread):
    return TinyConditioner(conditioner_cache)
