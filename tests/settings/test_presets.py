"""Presets lie in a folder of their system; the contract looks at each (`tests/contract`)."""

from __future__ import annotations

from settings.files import PRESETS
from settings.systems import SYSTEMS


def test_every_folder_of_presets_belongs_to_a_system():
    assert {path.name for path in PRESETS.iterdir() if path.is_dir()} == set(SYSTEMS)
