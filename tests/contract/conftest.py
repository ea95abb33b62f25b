"""Every system in a size of seconds, with its shared preparation made once."""

from __future__ import annotations

import pytest

from trainables.contract.examined import Examined
from trainables.system import load_system


@pytest.fixture(scope="package")
def case(described, shared_cache):
    return Examined(load_system(described.NAME), shared_cache)


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """Every test of this folder."""
