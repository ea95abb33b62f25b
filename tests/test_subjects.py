"""Which subject a file is about: of the wings of `data/` and `models/` it imports its own alone,
and what serves every system imports none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("losses", "metrics", "search_spaces", "trainables", "search", "results", "ray_jobs")

HDR = {"data.hdr", "models.hdr"}
FIELDS = {"data.fields", "models.fields"}
MRI = {"data.mri", "models.autoencoders"}
DIFFUSION = {"data.mri", "models.diffusion", "models.autoencoders"}
STYLE = {"data.style", "models.style_flow", "models.autoencoders"}
TEXT = {"data.text", "models.npt"}

WINGS_OF: Mapping[str, set[str]] = {
    "losses.hdr_patch": HDR,
    "losses.hdr_patch_terms": HDR,
    "losses.compression_terms": MRI,
    "losses.diffusion_terms": DIFFUSION,
    "losses.conditioner_terms": FIELDS,
    "metrics.hdr_patch": HDR,
    "metrics.hdr_measures": HDR,
    "metrics.codebook": MRI,
    "metrics.compression": MRI,
    "metrics.rate": MRI,
    "trainables.hdr_patch": HDR,
    "trainables.style_flow": STYLE,
    "trainables.npt": TEXT,
    "trainables.compression": MRI,
    "trainables.conditioner": FIELDS,
    "trainables.diffusion": DIFFUSION,
    "trainables.diffusion_rejection": DIFFUSION,
}
"""A file, or a folder, and the wings that are its subject; every other has none."""


def foreign(root: Path) -> Iterator[str]:
    """What is imported of a wing that is not the file's subject."""
    wings = {
        f"{room}.{folder.name}"
        for room in ("data", "models")
        for folder in (root / room).iterdir()
        if (folder / "__init__.py").exists()
    }
    for path in (path for room in ROOMS for path in sorted((root / room).rglob("*.py"))):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        own = {w for n, ws in WINGS_OF.items() if f"{module}.".startswith(f"{n}.") for w in ws}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                wing = ".".join(name.split(".")[:2])
                if wing in wings - own or name in ("data.*", "models.*"):
                    yield f"{path.relative_to(root)}:{node.lineno}: {name}"


def test_files_import_their_own_subject():
    assert not list(foreign(ROOT))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("losses/compression.py", "from models.hdr.cap import squash"),
        ("trainables/stepping/update.py", "def late():\n    import data.mri.store"),
        ("ray_jobs/sweep.py", "from models import fields"),
        ("metrics/conditioner.py", "from models import *"),
    ],
)
def test_a_foreign_subject_is_found(tmp_path, file, line):
    for room in (*ROOMS, "data/mri", "models/hdr", "models/fields"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "__init__.py").touch()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(f"{line}\n")
    (found,) = foreign(tmp_path)
    assert found.startswith(file)
