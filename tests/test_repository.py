"""Rules of the repository that no tool knows: who imports whom, full folders, long files."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from settings.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[1]

LOWEST = {"settings"}
PARTS = LOWEST | {"models", "losses", "metrics", "data", "search_spaces"}
STEPS = {"trainables.optimizing", "trainables.stepping"}
LOOP = STEPS | {"trainables.checkpoints", "trainables.reporting"}
ABOVE = LOOP | {"trainables", "trainables.loop"}
SYSTEM = ABOVE | {"trainables.api", "trainables.nested"}
BASE = SYSTEM | {"trainables.diffusion", "trainables.diffusion.settings"}
SWEEP = {"ray_jobs.sweeping", "ray_jobs.engine", "ray_jobs.training"}
_MODULES = [spelled.partition(":")[0] for spelled in SYSTEMS.values()]
OF_SYSTEMS = {".".join(module.split(".")[:2]) for module in _MODULES} | {"trainables.toy"}

MAY_IMPORT: Mapping[str, set[str]] = {
    "settings": set(),
    # Wings of a subject do not know each other; what they share lies beside them.
    "data": LOWEST,
    **{f"data.{wing}": {"data"} for wing in ("fields", "hdr", "mri", "style", "text")},
    "models": LOWEST,
    **{f"models.{w}": {"models"} for w in ("autoencoders", "fields", "hdr", "npt", "style_flow")},
    **{f"models.diffusion{wing}": {"models"} for wing in ("", ".score_aug", ".strategies")},
    "losses": LOWEST | {"models", "losses.balancers"},  # feature networks and encodings
    "losses.balancers": {"losses"},
    **{f"losses.{w}": {"losses", "losses.balancers", "models"} for w in ("npt", "style")},
    "metrics": LOWEST | {"models"},
    "metrics.style": {"metrics", "models"},
    "search_spaces": LOWEST,
    # What a system is (system.py) and where a trial runs (run.py) know nobody; optimizing
    # <- stepping <- checkpoints <- reporting <- loop.py; then the systems, which do not know each
    # other, and the contract, which knows none of them.
    "trainables": PARTS,
    "trainables.optimizing": {"trainables"},
    "trainables.stepping": {"trainables", "trainables.optimizing"},
    "trainables.configured": {"trainables", "trainables.stepping"},
    "trainables.checkpoints": STEPS | {"trainables", "trainables.configured"},
    "trainables.reporting": STEPS | {"trainables", "trainables.checkpoints"},
    "trainables.loop": LOOP | {"trainables"},
    "trainables.api": STEPS | {"trainables"},
    **{f"trainables.{wing}": ABOVE for wing in ("contract", "nested")},
    **dict.fromkeys(OF_SYSTEMS | {"trainables.diffusion.settings"}, SYSTEM),
    "trainables.diffusion": BASE | {f"trainables.diffusion.{n}" for n in ("inspecting", "latent")},
    **{f"trainables.diffusion{name}": BASE for name in (".inspecting", "_rejection")},
    "trainables.diffusion.latent": SYSTEM | {"trainables.diffusion.settings"},
    "trainables.npt": SYSTEM,
    # Who proposes and who stops do not know each other.
    "search": PARTS | {"search.optuna", "search.samplers", "search.schedulers"},
    "search.optuna": {"search"},
    **{f"search.{wing}": {"search", "search.optuna"} for wing in ("samplers", "schedulers")},
    # the Pareto front
    "results": PARTS | {"search"},
    # sweeping <- engine <- training <- the verbs
    "ray_jobs": PARTS
    | {"trainables", "search", "search.optuna", "results", "ray_jobs.verb"}
    | SWEEP,
    "ray_jobs.verb": set(),
    "ray_jobs.sweeping": {"ray_jobs.verb"},
    "ray_jobs.engine": {"ray_jobs.verb", "ray_jobs.sweeping"},
    "ray_jobs.training": {"ray_jobs.verb", "ray_jobs.sweeping", "ray_jobs.engine"},
    "benchmarks": PARTS
    | {"trainables", "search", "search.optuna", "results", "ray_jobs"}
    | {"benchmarks.measuring", "benchmarks.regret", "benchmarks.claiming", "benchmarks.rivals"},
    "benchmarks.measuring": set(),
    **{f"benchmarks.{w}": {"benchmarks.measuring"} for w in ("claiming", "regret", "rivals")},
}
"""Who may import whom, beside itself.

A room (a folder of the first level) has the other rooms that all in it may import, and those of
its own wings (the folders in it) that the files beside them may import. A wing, or a file with a
line of its own, has what it may import of its own room; the name of the room is there the files
that have no line.
"""

ROOMS = tuple(name for name in MAY_IMPORT if "." not in name)

MAY_IMPORT_RAY = ("ray_jobs/", "trainables/run.py", "benchmarks/")

RUNS_WITHOUT_RAY = ("ray_jobs.analyze",)
"""Verbs of ray_jobs/ that must work where Ray is not installed."""

MAX_LINES = 400
LONG_FILES: dict[str, str] = {}
"""Files above MAX_LINES, each with its reason."""

MAX_FILES = 24
MAX_FILES_OF: Mapping[str, int] = {"data": 14, "models": 14, "trainables": 14}
"""Room -> how many modules may lie side by side in it and in each of its wings; elsewhere, in the
tests as well, it is MAX_FILES.
"""


def python_files(*folders: str, root: Path = ROOT) -> list[Path]:
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


@functools.cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every import with its line, those inside functions too: `a.b` for `import a.b` and for
    `from a import b`, whatever b is.
    """
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            found += ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
    return tuple(found)


@functools.cache
def owners_of_packages() -> Mapping[str, list[str]]:
    """Package -> the distributions that install it; reads every file list, so once."""
    return importlib.metadata.packages_distributions()


def top(module: str) -> str:
    return module.split(".")[0]


def relative(path: Path, root: Path = ROOT) -> str:
    return path.relative_to(root).as_posix()


def line_of(module: str) -> str:
    """The longest name in MAY_IMPORT that a module lies under; empty where it is not ours."""
    names = module.split(".")
    prefixes = (".".join(names[:count]) for count in range(len(names), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MAY_IMPORT), "")


def is_allowed(importer: str, imported: str) -> bool:
    """Whether what lies under one line of MAY_IMPORT may import what lies under another."""
    if top(importer) != top(imported):
        return top(imported) in MAY_IMPORT[top(importer)]
    return imported == importer or imported in MAY_IMPORT[importer]


def wrong_imports(root: Path) -> list[str]:
    wrong = []
    for path in python_files(*ROOMS, root=root):
        name = relative(path, root)
        importer = line_of(name.removesuffix(".py").replace("/", "."))
        for module, line in imports(path):
            imported = line_of(module)
            if imported and not is_allowed(importer, imported):
                wrong.append(f"{name}:{line}: {importer} must not import {imported}")
    return list(dict.fromkeys(wrong))


def wings(root: Path, rooms: Iterable[str]) -> set[str]:
    """Every folder with modules that lies in a room, by its dotted name."""
    folders = {path.parent for path in python_files(*rooms, root=root)}
    names = {".".join(folder.relative_to(root).parts) for folder in folders}
    return names - set(rooms)


def full_folders(root: Path, *rooms: str) -> dict[str, int]:
    """Folder -> its modules, where they are more than may lie side by side."""
    files = [path for path in python_files(*rooms, root=root) if path.name != "__init__.py"]
    counts = Counter(relative(path.parent, root) for path in files)
    return {
        folder: count
        for folder, count in counts.items()
        if count > MAX_FILES_OF.get(folder.split("/")[0], MAX_FILES)
    }


def plant(root: Path, files: Mapping[str, str]) -> None:
    """Writes files of a repository that a rule is tried on: path -> text."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_imports_go_one_way():
    wrong = wrong_imports(ROOT)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "file, line",
    [
        ("settings/flat.py", "import data.files"),
        ("data/cache.py", "from data.hdr import crops"),
        ("data/hdr/crops.py", "from data.mri.files import read"),
        ("models/fields/network.py", "from models import hdr"),
        ("trainables/system.py", "import trainables.stepping.update"),
        ("trainables/stepping/update.py", "from trainables.checkpoints import restore"),
        ("trainables/checkpoints/begin.py", "from trainables.reporting import watch"),
        ("trainables/reporting/watch.py", "from trainables.loop import fit"),
        ("trainables/loop.py", "from trainables import toy"),
        ("trainables/contract/terms.py", "import trainables.toy"),
        ("trainables/compression/use.py", "from trainables.conditioner.system import Conditioner"),
        ("search/samplers/gp.py", "from search.schedulers.pb2 import Pb2"),
        ("search/schedulers/pb2.py", "import search.samplers.gp"),
        ("ray_jobs/sweeping/options.py", "from ray_jobs.engine import cluster"),
        ("ray_jobs/engine/driver.py", "from ray_jobs.training.run import train"),
        ("ray_jobs/training/run.py", "from ray_jobs.progress import Progress"),
        ("benchmarks/measuring/rows.py", "from benchmarks.regret.bench import Bench"),
    ],
)
def test_an_import_that_goes_up_or_across_is_found(tmp_path, file, line):
    allowed = {"data/mri/files.py": "import data.files\n"}
    plant(tmp_path, {**allowed, file: f"def late():\n    {line}\n"})
    (message,) = wrong_imports(tmp_path)
    assert message.startswith(f"{file}:2: ")


def test_every_wing_has_its_line_and_every_line_its_code():
    assert not wings(ROOT, ROOMS) - set(MAY_IMPORT), "add to MAY_IMPORT whom it may import"
    named = set(MAY_IMPORT).union(*MAY_IMPORT.values())
    places = {name: ROOT / name.replace(".", "/") for name in named}
    gone = {n for n, at in places.items() if not (at.is_dir() or at.with_suffix(".py").exists())}
    assert not gone, "take out of MAY_IMPORT"
    assert named == set(MAY_IMPORT), "whoever is imported has a line"


def test_a_wing_without_a_line_is_found(tmp_path):
    plant(tmp_path, {"data/ct/files.py": "", "data/files.py": "", "search/plan.py": ""})
    assert wings(tmp_path, ("data", "search")) == {"data.ct"}


def test_no_folder_is_full():
    full = full_folders(ROOT, *ROOMS, "tests")
    assert not full, f"cut into wings: {full}"


def test_a_full_folder_is_found(tmp_path):
    allowed = {"data/mri": 14, "trainables": 14, "search": 24, "tests/search": 24}
    for folder, count in allowed.items():
        names = ["__init__", *map(str, range(count))]
        plant(tmp_path, {f"{folder}/{name}.py": "" for name in names})
    assert not full_folders(tmp_path, "data", "trainables", "search", "tests")
    plant(tmp_path, {f"{folder}/more.py": "" for folder in allowed})
    full = full_folders(tmp_path, "data", "trainables", "search", "tests")
    assert full == {folder: count + 1 for folder, count in allowed.items()}


def test_nothing_imports_the_tests():
    wrong = [
        f"{relative(path)}:{line}"
        for path in python_files(*ROOMS)
        for module, line in imports(path)
        if top(module) in ("tests", "conftest", "pytest", "hypothesis")
    ]
    assert not wrong, wrong


def test_ray_is_imported_where_it_may_be():
    wrong = [
        f"{relative(path)}:{line}: imports {module}"
        for path in python_files(*ROOMS)
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
        for path in python_files(*(set(ROOMS) - {"ray_jobs", "benchmarks"}))
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


@pytest.mark.parametrize("folder", sorted(ROOMS))
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
    assert folders - skipped == set(ROOMS)


def test_files_are_short():
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(*ROOMS, "tests")
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
        skipped = ("sweeps", "runs", "build")
        names[:] = [n for n in names if n == ".ci" or not (n[0] == "." or n in skipped)]
        for path in (Path(folder, name) for name in files if name.endswith(TEXT)):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if MACHINE_PATH.search(line):
                    wrong.append(f"{relative(path)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_no_file_opens_pickles_or_weights_that_run_code():
    """`torch.load` always with `weights_only=True`; nothing is unpickled but what the line itself
    has just made (whether `prepare` returns something picklable).
    """
    wrong, reads = [], re.compile(r"\b(load|loads|read_pickle)\b")
    for path in python_files(*ROOMS):
        code = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(code if reads.search(code) else "")):
            function = node.func if isinstance(node, ast.Call) else None
            if not (isinstance(function, ast.Attribute) and reads.fullmatch(function.attr)):
                continue
            called = ast.unparse(function)
            if ast.unparse(node).startswith("pickle.loads(pickle.dumps("):
                continue
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
