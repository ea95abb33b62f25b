"""Every system by name: the one line that makes a new one known.

Nothing is imported until a system is loaded
(`trainables.system.load_system`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SYSTEMS: Mapping[str, str] = {
    "hdr_patch": "trainables.hdr_patch.system:HdrPatch",
    "conditioner": "trainables.conditioner.system:Conditioner",
    "compression": "trainables.compression.system:Compression",
    "diffusion": "trainables.diffusion.system:Diffusion",
    "style_flow": "trainables.style_flow.system:StyleFlow",
    "npt": "trainables.npt.system:Npt",
    "field_vae": "trainables.conditioner.field_vae:FieldVae",
    "style_vae": "trainables.style_flow.style_vae:StyleVae",
}
"""Name -> "module:attribute". The system's search spaces are `search_spaces.<name>:SPACES`, its
presets `settings/presets/<name>/`.
"""

RENAMED: Mapping[str, str] = {
    "trainables.npt.system:Npt": "npt",
    "trainables.field_vae:FieldVae": "field_vae",
    "benchmarks.toy:Toy": "trainables.toy:Toy",
    "benchmarks.toy:ToyGan": "trainables.toy:ToyGan",
}
"""Name that was -> name that is: sweeps and checkpoints keep the one that they were made under."""

BEFORE: Mapping[str, Mapping[str, Any]] = {
    "hdr_patch": {"data.split": "time", "model.motion_in_holes": True},
    "conditioner": {"model.trunk_width": 0, "model.head_width": 0, "model.reach": 0.0},
    "compression": {"data.fit": "stretch", "data.below_zero": "each"},
}
"""System -> settings that it has got since, with the values that say what was done before them,
where these are not the defaults: stored settings without such a key keep what they were made by.
"""


def current_name(system: str) -> str:
    """The name by which a system is known today; whoever reads a stored name asks here."""
    return RENAMED.get(system, system)


def as_stored(system: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a training or sweep that were stored, with those that its system has got
    since; whoever reads stored settings asks here.
    """
    return {**BEFORE.get(current_name(system), {}), **settings}
