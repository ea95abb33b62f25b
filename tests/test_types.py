"""Arguments have types: behind `Any` an editor finds no definition, and mypy no mistake."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from settings.rooms import ROOMS

ROOT = Path(__file__).resolve().parents[1]

MOST = 90
"""Arguments of the product that may be `Any`; of those called `settings` fewer than SETTINGS."""

SETTINGS = 8

ANY = ("Any", "typing.Any")
UNIONS = ("Optional", "Union", "typing.Optional", "typing.Union")

RULE = (
    "An argument has the type of what is read of it: `object` where that is nothing, a Protocol "
    "beside its readers where the class itself lies above them (`HdrTree` of "
    "losses/hdr_patch_terms.py). `Any` is for what a library without types hands over."
)


def any_arguments(root: Path) -> Iterator[tuple[str, str]]:
    """(place, name) of every argument in the rooms below a folder whose type is `Any`, or a
    union with it.
    """
    for path in (path for room in ROOMS for path in sorted((root / room).rglob("*.py"))):
        code = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(code if "Any" in code else "")):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            of = node.args
            rest = [argument for argument in (of.vararg, of.kwarg) if argument is not None]
            for argument in (*of.posonlyargs, *of.args, *of.kwonlyargs, *rest):
                if argument.annotation and _may_be_any(argument.annotation):
                    place = f"{path.relative_to(root)}:{argument.lineno}"
                    yield f"{place}: {node.name}({argument.arg})", argument.arg


def _may_be_any(annotation: ast.expr) -> bool:
    """Whether it is `Any`, quoted or not, or a union with it."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):
        return _may_be_any(annotation.left) or _may_be_any(annotation.right)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in UNIONS:
        parts = annotation.slice
        return any(map(_may_be_any, parts.elts if isinstance(parts, ast.Tuple) else [parts]))
    return ast.unparse(annotation) in ANY


def too_many(root: Path, most: int, settings: int) -> str:
    """What to say where more arguments are `Any` than may be; "" where it is well."""
    arguments = list(any_arguments(root))
    of_settings = [place for place, name in arguments if name == "settings"]
    if len(arguments) <= most and len(of_settings) < settings:
        return ""
    over = of_settings if len(arguments) <= most else [place for place, _ in arguments]
    return "\n".join(
        (
            f"{len(arguments)} arguments are `Any`, at most {most} may be; of them "
            f"{len(of_settings)} are called `settings`, fewer than {settings} may be. {RULE}",
            *over,
        )
    )


def test_few_arguments_are_any():
    problem = too_many(ROOT, MOST, SETTINGS)
    assert not problem, problem


PLANTED = '''
import typing
from typing import Any


def term(prediction: dict[str, Any], batch, settings: Any) -> Any:
    def inner(value: typing.Any, *, settings: object) -> None: ...


class Model:
    async def of(self, at: Any = None, /, *rest: Any, **options: Any | None) -> None: ...
'''


def test_arguments_that_are_any_are_counted(tmp_path):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "terms.py").write_text(PLANTED)
    places = sorted(place for place, _ in any_arguments(tmp_path))
    assert places == [
        "losses/terms.py:11: of(at)",
        "losses/terms.py:11: of(options)",
        "losses/terms.py:11: of(rest)",
        "losses/terms.py:6: term(settings)",
        "losses/terms.py:7: inner(value)",
    ]
    assert not too_many(tmp_path, 5, 2)
    assert too_many(tmp_path, 4, 2).startswith("5 arguments are `Any`, at most 4")
    message, *named = too_many(tmp_path, 5, 1).splitlines()
    assert "1 are called `settings`, fewer than 1 may be" in message
    assert named == ["losses/terms.py:6: term(settings)"]
