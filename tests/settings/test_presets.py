"""Every preset is legal for its system, sets something, and says what it is."""

from __future__ import annotations

import pytest

from settings.files import PRESETS, list_presets, preset_file
from settings.resolve import resolve
from settings.systems import SYSTEMS
from trainables.system import load_system

ALL = [(system, name) for system in SYSTEMS for name in list_presets(system)]

NEEDS = {("hdr_patch", "paper"): ["data.source=folder", "data.root=frames"]}
"""What a preset for a user's own data needs beside it."""


@pytest.mark.parametrize(("system", "name"), ALL)
def test_a_preset_is_legal_and_says_what_it_is(system, name):
    resolved = resolve(
        load_system(system).Settings, system, preset=name, overrides=NEEDS.get((system, name), [])
    )
    assert resolved.keys_from("preset"), "a preset that sets nothing is the default: remove it"
    assert preset_file(system, name).about, "a preset says in `about:` what it is"


def test_every_folder_of_presets_belongs_to_a_system():
    assert {path.name for path in PRESETS.iterdir() if path.is_dir()} <= set(SYSTEMS)
