"""A text that a user reads names a verb as it was typed: `settings.command.command` spells it."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from ray_jobs.verb import VERBS
from settings.rooms import ROOMS

ROOT = Path(__file__).resolve().parents[1]

SPELT = re.compile(rf"weighbridge (?:{'|'.join(VERBS)})\b|ray_jobs\.(?:{'|'.join(VERBS)})\b(?!:)")
MODULE = re.compile(r"ray_jobs\.\w+")

WORDS = ("weighbridge", "ray_jobs.")
"""A file with neither is not parsed."""

SPELLS = "settings/command.py"
"""The one file that does."""


def spelt_by_hand(root: Path) -> list[str]:
    """The texts of our packages that name a verb, but docstrings, and the names of modules alone
    (`"ray_jobs.sweep"`, what a process is started with).
    """
    wrong = []
    for path in (file for room in ROOMS for file in sorted((root / room).rglob("*.py"))):
        name, code = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if not any(word in code for word in WORDS):
            continue
        tree = ast.parse(code, name)
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            text = node.value
            if id(node) not in alone and SPELT.search(text) and not MODULE.fullmatch(text):
                wrong.append(f"{name}:{node.lineno}: {text.strip()}")
    return [line for line in wrong if not line.startswith(SPELLS)]


def test_no_text_spells_a_command_by_hand():
    wrong = spelt_by_hand(ROOT)
    assert not wrong, "use settings.command.command:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("settings/a.py", 'raise ValueError("name one: python -m ray_jobs.train SYSTEM --show")'),
        ("data/deep/a.py", 'def f(x):\n    return f"{x}: write it (ray_jobs.encode_latents {x})"'),
        ("ray_jobs/a.py", 'HELP = """Go on.\n\n  weighbridge sweep --resume DIR"""'),
        ("results/a.py", 'print("to read it: " "python -m ray_jobs." "analyze DIR")'),
    ],
)
def test_a_command_in_a_text_is_found(tmp_path, place, code):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(f"{code}\n")
    (line,) = spelt_by_hand(tmp_path)
    assert line.startswith(f"{place}:")


@pytest.mark.parametrize(
    "code",
    [
        '"""`python -m ray_jobs.train SYSTEM`: one training."""',
        'def f():\n    """What `weighbridge train` prints."""',
        'LINE = [sys.executable, "-m", "ray_jobs.sweep"]',
        "print(f\"{command('train')} SYSTEM --show\")",
        'SCRIPT = "weighbridge = ray_jobs.console:script"',
    ],
)
def test_what_is_no_text_for_a_user_passes(tmp_path, code):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.py").write_text(f"{code}\n")
    assert not spelt_by_hand(tmp_path)


def guides_of(verb: str) -> str:
    """The texts of the guides that speak of a verb."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = [file.read_text(encoding="utf-8") for file in files]
    return "\n".join(t for t in texts if f"ray_jobs.{verb}" in t or f"`{verb}`" in t)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_named_in_a_guide(verb):
    """`docs/training.md` has a table for those that nothing else has to say of."""
    parser = import_module(f"ray_jobs.{verb}").make_parser()
    options = [name for action in parser._actions for name in action.option_strings]
    text = guides_of(verb)
    missing = [
        name
        for name in options
        if name not in ("-h", "--help") and not re.search(rf"(?<![\w-]){name}(?![\w-])", text)
    ]
    assert not missing, f"{verb}: name {', '.join(missing)} in docs/training.md"
