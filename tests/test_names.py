"""What serves every system names none: verbs, metrics, the search, the results and the loop ask a
system for its members. A docstring, or the example lines of a help text, may name one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from settings.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[1]

GENERAL = (
    *("ray_jobs", "metrics", "search", "results"),
    *("trainables/stepping", "trainables/checkpoints", "trainables/reporting"),
    *("trainables/contract", "trainables/api.py"),
    *("trainables/system.py", "trainables/parts.py", "trainables/loop.py", "trainables/run.py"),
)

FOLDERS = {"trainables", "losses", "metrics", "models", "data", "search_spaces"}
"""Where a system has modules of its own, by name."""


def files_of(root: Path) -> list[Path]:
    """The Python files of `GENERAL`."""
    places = (root / place for place in GENERAL)
    files = (file for place in places for file in (place, *place.rglob("*.py")))
    return sorted(file for file in files if file.is_file())


def owner(module: str) -> str | None:
    """The system that a module is a part of: that of its line in `SYSTEMS`, or one that is called
    like it or like the beginning of it (`metrics.hdr_patch`, `losses.hdr_patch_terms`,
    `trainables.compression.use`).
    """
    for name, where in SYSTEMS.items():
        if module == where.partition(":")[0]:
            return name
    folder, _, rest = module.partition(".")
    called = rest.partition(".")[0]
    if folder not in FOLDERS:
        return None
    return next((name for name in SYSTEMS if f"{called}_".startswith(f"{name}_")), None)


def named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every system that code names, or has a module of. A text that stands alone
    is a docstring.
    """
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in alone:
                modules = [SYSTEMS.get(node.value, node.value).partition(":")[0]]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [str(node.module)] if owner(str(node.module)) else modules
        yield from ((node.lineno, name) for name in map(owner, modules) if name)


def violations(root: Path) -> list[str]:
    """Where a file names a system that it is no part of; one without such a word is not parsed."""
    wrong = []
    for path in files_of(root):
        text = path.read_text(encoding="utf-8")
        if not any(name in text for name in SYSTEMS):
            continue
        own = owner(".".join(path.relative_to(root).with_suffix("").parts))
        tree = ast.parse(text, str(path))
        where = path.relative_to(root).as_posix()
        wrong += [f"{where}:{line}: {name}" for line, name in named(tree) if name != own]
    return wrong


def test_nothing_general_names_a_system():
    assert len(files_of(ROOT)) > 120
    assert not violations(ROOT)


@pytest.mark.parametrize(
    ("place", "code", "name"),
    [
        ("ray_jobs/verb.py", "if system == 'compression': pass", "compression"),
        ("ray_jobs/deep/verb.py", "KEYS = {'hdr_patch': 1}", "hdr_patch"),
        ("search/a.py", "def f():\n    from trainables.compression.use import x", "compression"),
        ("search/a.py", "import trainables.hdr_patch", "hdr_patch"),
        ("search/a.py", "from trainables import conditioner", "conditioner"),
        ("results/a.py", "from trainables.conditioner.field_vae import FieldVae", "field_vae"),
        ("trainables/loop.py", "load('trainables.compression.system:Any')", "compression"),
        ("trainables/reporting/a.py", "from losses.hdr_patch_terms import ghost", "hdr_patch"),
        ("metrics/a.py", "from metrics.conditioner import METRICS", "conditioner"),
        ("metrics/conditioner.py", "from metrics.field_vae import METRICS", "field_vae"),
    ],
)
def test_a_name_in_code_is_found(tmp_path, place, code, name):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(f'"""Text."""\n{code}\n')
    (found,) = violations(tmp_path)
    assert found.startswith(f"{place}:") and found.endswith(f": {name}")


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("ray_jobs/verb.py", 'HELP = "  python -m ray_jobs.verb compression --size 8"'),
        ("ray_jobs/verb.py", 'ANY = 1\n"""compression"""'),
        ("ray_jobs/verb.py", "write(table, compression='zstd')\nimport results.compression"),
        ("metrics/compression.py", "from metrics.compression_of_rates import a"),
        ("metrics/hdr_patch.py", "NAME = 'hdr_patch'"),
        ("losses/a.py", "NAME = 'hdr_patch'"),
    ],
)
def test_what_may_be_said_passes(tmp_path, place, code):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(f"{code}\n")
    assert not violations(tmp_path)


VAGUE = re.compile(r"^\s*(found|own|kept) = ", re.MULTILINE)
"""Names that say nothing of what they hold."""


def test_locals_are_named_by_what_they_hold():
    folders = (ROOT / folder for folder in ("losses", "metrics", "trainables"))
    files = (file for folder in folders for file in folder.rglob("*.py"))
    vague = [
        f"{file.relative_to(ROOT)}: {match[0].strip()}"
        for file in files
        for match in VAGUE.finditer(file.read_text(encoding="utf-8"))
    ]
    assert len(vague) <= 5, f"a noun of the domain says more: {vague}"
