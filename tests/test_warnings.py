"""Every warning goes through `settings.warning.warn`: no other place of the product makes one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "settings", "losses", "models", "data", "metrics", "search_spaces", "trainables", "search",
    "results", "ray_jobs",
)  # fmt: skip
THE_PLACE = "settings/warning.py"

ON_STDERR = {
    "data/parallel.py": "the progress of a preparation, on a terminal",
    "ray_jobs/__init__.py": "an error",
    "ray_jobs/analyze.py": "errors",
    "ray_jobs/console.py": "an error",
    "ray_jobs/encode_latents.py": "the counts of the data, beside --json",
    "ray_jobs/evaluate.py": "the counts of the data, beside --json",
    "ray_jobs/verb.py": "errors, and that stderr lasts",
    "trainables/nested/training.py": "the progress of a training before the first",
    THE_PLACE: "warnings",
}
"""Who writes to stderr, and what: nothing of it but in one place is a warning."""


def files(word: str) -> Iterator[tuple[str, ast.Module]]:
    """Those with a word, in capitals or not."""
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        code = path.read_text()
        if word in code.lower():
            yield path.relative_to(ROOT).as_posix(), ast.parse(code)


def own_form(tree: ast.AST) -> Iterator[str]:
    """What makes a warning in a form of its own: Python's `warnings.warn`, a logger's, or a text
    that begins with the word.
    """
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and text.lower().startswith(("warning:", "warn:", "[warn")):
            yield f"line {node.lineno}: {text!r}"
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr.startswith("warn"):
            owner = ast.unparse(called.value)
            is_logged = "log" in owner.lower() and called.attr in ("warning", "warn")
            if owner == "warnings" or is_logged:
                yield f"line {node.lineno}: {ast.unparse(called)}"
        if isinstance(node, ast.ImportFrom) and node.module == "warnings":
            yield f"line {node.lineno}: from warnings import"


def writes_to_stderr(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("stderr", "__stderr__")
        and ast.unparse(node.value) == "sys"
        for node in ast.walk(tree)
    )


def test_no_warning_has_a_form_of_its_own():
    trees = files("warn")
    found = {name: list(own_form(tree)) for name, tree in trees if name != THE_PLACE}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_what_writes_to_stderr_is_known():
    assert {name for name, tree in files("stderr") if writes_to_stderr(tree)} == set(ON_STDERR)


@pytest.mark.parametrize(
    "text",
    [
        "warnings.warn('x', stacklevel=2)",
        "from warnings import warn",
        "logging.getLogger(__name__).warning('x')",
        "print(f'warning: {x}')",
        "sys.stdout.write('Warning: x')",
    ],
)
def test_such_a_form_is_found(text):
    assert list(own_form(ast.parse(text)))
