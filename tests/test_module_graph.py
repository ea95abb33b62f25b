"""No module needs one that needs it: imports in functions and under `TYPE_CHECKING` count."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of all packages below a folder but the tests."""
    files = [
        path
        for package in sorted(root.iterdir())
        if (package / "__init__.py").exists()
        for path in sorted(package.rglob("*.py"))
    ]
    names = (path.relative_to(root).with_suffix("").parts for path in files)
    dotted = (".".join(parts).removesuffix(".__init__") for parts in names)
    return dict(zip(dotted, files, strict=True))


def imported(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """The modules of ours that a file imports, wherever in it."""
    needed = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            needed |= {name if name in modules else str(node.module) for name in names}
    return needed & set(modules)


def cycle_of(root: Path) -> list[str]:
    """A circle of modules, each imported by the next; empty where there is none."""
    modules = modules_of(root)
    graph = {name: imported(path, modules) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_the_module_graph_has_no_cycle():
    assert len(modules_of(ROOT)) > 200
    assert not cycle_of(ROOT)


def test_a_cycle_hidden_in_a_function_or_for_types_alone_is_found(tmp_path):
    for package in ("one", "other"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "one" / "a.py").write_text("def late():\n    from other import b\n")
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from one.a import late\n"
    (tmp_path / "other" / "b.py").write_text(hidden)
    assert set(cycle_of(tmp_path)) == {"one.a", "other.b"}
    (tmp_path / "other" / "b.py").write_text("import json\n")
    assert not cycle_of(tmp_path)
