"""A folder of a user's own that hides one of ours is named before anything of ours is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from settings.rooms import NEEDED, ROOMS

ROOT = Path(__file__).resolve().parents[2]
HELP = ("-m", "ray_jobs.train", "--help")

CAUGHT = """
try:
    import ray_jobs
except ImportError as error:
    print(error)
"""

FINDER = """
import importlib.util, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name in {rooms}:
            file = "{root}/" + name + "/__init__.py"
            return importlib.util.spec_from_file_location(name, file)

sys.meta_path.append(Finder)
"""
"""What `pip install -e` does: it comes after all folders of the import path."""


def run(*arguments, cwd, path=(), python=sys.executable):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    if not path:
        del environment["PYTHONPATH"]
    return subprocess.run(
        [str(python), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def starts(ran):
    return ran.returncode == 0 and ran.stdout.startswith("usage:") and not ran.stderr


def refusal(ran):
    """The one line on standard error of a verb that ends with status 2."""
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1, ran.stderr
    return ran.stderr


@pytest.fixture
def theirs(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def put(folder, name):
    """A package `name/`, a module `name.py`, or a folder `name//` without `__init__.py`."""
    place = folder / name
    if name.endswith(".py"):
        place.write_text("")
    else:
        place.mkdir()
        (place / ("rows.csv" if name.endswith("//") else "__init__.py")).write_text("")
    return place


def copy_of_ours(folder):
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, folder / room, ignore=ignored)


def new_venv(folder):
    """Its interpreter and its site-packages, which hold nothing."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    return folder / "bin" / "python", next(folder.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    python, packages = new_venv(tmp_path_factory.mktemp("installed"))
    copy_of_ours(packages)
    return python, packages


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
    python, packages = new_venv(tmp_path_factory.mktemp("editable"))
    (packages / "finder_of_a_test.py").write_text(FINDER.format(rooms=ROOMS, root=ROOT))
    (packages / "of_a_test.pth").write_text("import finder_of_a_test\n")
    return python


def test_the_list_is_complete():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(ROOMS) == folders
    assert len(ROOMS) == len(folders)
    assert set(ROOMS) - set(NEEDED) == {"ray_jobs", "benchmarks"}


@pytest.mark.parametrize("name", ["models", "settings", "data.py"])
@pytest.mark.parametrize(
    ("here", "named", "why", "way"),
    [
        (True, False, "it is the current folder", "Run from another folder"),
        (False, True, "PYTHONPATH names it", "Take it out of PYTHONPATH"),
        (
            True,
            True,
            "PYTHONPATH names it and it is the current folder",
            "Take it out of PYTHONPATH and run from another folder",
        ),
    ],
)
def test_what_hides_ours_is_named_with_the_way_out(theirs, elsewhere, name, here, named, why, way):
    place, room = put(theirs, name), name.removesuffix(".py")
    path = [theirs, ROOT] if named else [ROOT]
    said = refusal(run(*HELP, cwd=theirs if here else elsewhere, path=path))
    assert f"`import {room}` finds {place}, not ours in {ROOT}: {theirs} is searched" in said
    assert f"first, since {why}. {way}, or" in said
    assert f"({theirs}/my_project/{room}, imported as `my_project.{room}`)" in said
    assert said.endswith(f"from another folder with PYTHONPATH={ROOT}:{theirs}.\n")


def test_the_ways_out_lead_out(theirs, elsewhere):
    put(theirs, "models")
    assert starts(run(*HELP, cwd=elsewhere, path=[ROOT]))
    assert starts(run(*HELP, cwd=elsewhere, path=[ROOT, theirs]))
    (theirs / "my_project").mkdir()
    (theirs / "models").rename(theirs / "my_project" / "models")
    assert starts(run(*HELP, cwd=theirs, path=[theirs, ROOT]))


def test_all_that_hides_ours_is_named_at_once(theirs, elsewhere):
    models, data = put(theirs, "models"), put(theirs, "data.py")
    search = put(elsewhere, "search")
    said = refusal(run(*HELP, cwd=elsewhere, path=[theirs, ROOT]))
    assert f"`import models` finds {models} and `import data` finds {data}, not ours" in said
    assert f"`import search` finds {search}, not ours" in said


@pytest.mark.parametrize("name", ["models//", "data//", "benchmarks", "my_project", "model"])
def test_what_hides_nothing_is_let_be(theirs, name):
    """Python prefers a package anywhere on its path to a folder without `__init__.py`."""
    put(theirs, name)
    assert starts(run(*HELP, cwd=theirs, path=[theirs, ROOT]))


def test_a_link_to_ours_is_ours(theirs):
    (theirs / "models").symlink_to(ROOT / "models")
    assert starts(run(*HELP, cwd=theirs, path=[ROOT]))


def test_a_program_gets_an_import_error(theirs, elsewhere):
    program = theirs / "program.py"
    program.write_text(CAUGHT)
    place = put(theirs, "models")
    ran = run(program, cwd=elsewhere, path=[ROOT])
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"`import models` finds {place}, not ours in {ROOT}: ")
    assert "since it is the folder of the program. Move the program, or" in ran.stdout
    (theirs / "models" / "__init__.py").unlink()
    ran = run(program, cwd=elsewhere, path=[ROOT])
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "")


def test_a_program_that_puts_another_folder_first_gets_an_import_error(theirs, elsewhere):
    put(theirs, "models")
    code = f"import sys; sys.path.insert(0, {str(theirs)!r})\n{CAUGHT}"
    ran = run("-c", code, cwd=elsewhere, path=[ROOT])
    assert f"since sys.path names it before ours. Put {ROOT} before it, or" in ran.stdout


def test_the_check_imports_nothing_of_ours(elsewhere):
    code = "import ray_jobs, sys; print(*sys.modules)"
    ran = run("-c", code, cwd=elsewhere, path=[ROOT])
    assert (ran.returncode, ran.stderr) == (0, "")
    names = ran.stdout.split()
    assert {name for name in names if name.partition(".")[0] in ROOMS} == {"ray_jobs"}


def test_an_installation_starts_and_refuses_as_well(installed, theirs, elsewhere):
    python, packages = installed
    assert starts(run(*HELP, cwd=elsewhere, python=python))
    put(theirs, "data//")
    assert starts(run(*HELP, cwd=theirs, python=python))
    place = put(theirs, "models")
    said = refusal(run(*HELP, cwd=theirs, python=python))
    assert f"`import models` finds {place}, not ours in {packages}: " in said


def test_before_an_editable_installation_any_folder_comes_first(editable, theirs, elsewhere):
    assert starts(run(*HELP, cwd=elsewhere, python=editable))
    place = put(theirs, "data//")
    said = refusal(run(*HELP, cwd=theirs, python=editable))
    assert f"`import data` finds {place}, not ours in {ROOT}: " in said
    way = f"Without an `__init__.py` there, ours win with PYTHONPATH={ROOT}:{theirs}.\n"
    assert said.endswith(way)
    assert starts(run(*HELP, cwd=theirs, path=[ROOT, theirs], python=editable))


def test_the_working_directory_of_a_job_starts(installed, tmp_path):
    """Ray unpacks it below a folder that it reaches by a link."""
    package = tmp_path / "session_1" / "_ray_pkg_1"
    copy_of_ours(package)
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_1")
    linked = tmp_path / "session_latest" / "_ray_pkg_1"
    assert starts(run(*HELP, cwd=linked, path=[linked]))
    assert starts(run(*HELP, cwd=linked, path=[linked], python=installed[0]))
