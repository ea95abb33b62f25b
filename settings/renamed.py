"""Systems that once had another name. Sweeps and checkpoints keep the name that they were made
under; whoever reads one asks here.
"""

from __future__ import annotations

from collections.abc import Mapping

RENAMED: Mapping[str, str] = {
    "trainables.field_vae:FieldVae": "field_vae",
    "benchmarks.toy:Toy": "trainables.toy:Toy",
    "benchmarks.toy:ToyGan": "trainables.toy:ToyGan",
}
"""Name that was -> name that is."""


def current_name(system: str) -> str:
    """The name by which a system is known today."""
    return RENAMED.get(system, system)
