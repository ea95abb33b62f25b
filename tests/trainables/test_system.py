"""A system is found by its name, which is also what its checkpoints call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from settings.flat import replace
from settings.schema import SettingsError
from trainables.loop import fit
from trainables.run import LocalRun
from trainables.system import load_system, offers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user's own, `mine`."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_of_a_test.py").write_text(
        "from trainables.toy import Toy\n"
        "class Right(Toy):\n    name = 'mine_of_a_test:Right'\n"
        "class Copied(Toy):\n    pass\n"
        "class Nameless:\n    pass\n"
    )
    return "mine_of_a_test"


def test_a_system_of_ones_own(module):
    assert load_system(f"{module}:Right").name == f"{module}:Right"


@pytest.mark.parametrize(
    ("attribute", "own"), [("Copied", "'trainables.toy:Toy'"), ("Nameless", "None")]
)
def test_a_system_that_calls_itself_otherwise_is_refused(module, attribute, own):
    spelled = f"{module}:{attribute}"
    with pytest.raises(SettingsError, match=f"system '{spelled}' calls itself {own}") as error:
        load_system(spelled)
    assert f"set `name = '{spelled}'`" in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hdr_path", "no system 'hdr_path'. Nearest: hdr_patch. Systems: compression, condition"),
        ("compresion", "no system 'compresion'. Nearest: compression. Systems: "),
        ("far", "there is no system 'far'. Systems: compression, conditioner"),
        ("nowhere:Mine", "cannot be loaded"),
        ("trainables.toy:Tory", "cannot be loaded"),
    ],
)
def test_a_name_that_is_nothing_is_refused(name, says):
    with pytest.raises(SettingsError, match=says):
        load_system(name)


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A function that fills a folder behind ours on the import path."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    def filled(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return filled


PACKAGE = {"models/__init__.py": "Net = 1\n", "models/foo.py": "Net = 1\n"}
FOLDER = {"models/foo.py": "Net = 1\n"}
MODULE = {"data.py": "Rows = 1\n"}


@pytest.mark.parametrize(
    ("files", "code", "hidden", "error"),
    [
        (PACKAGE, "from models.foo import Net", "models", "No module named 'models.foo'"),
        (FOLDER, "from models.foo import Net", "models", "No module named 'models.foo'"),
        (FOLDER, "import models.foo", "models", "No module named 'models.foo'"),
        (PACKAGE, "from models import Net", "models", "cannot import name 'Net' from 'models'"),
        (FOLDER, "from models import foo", "models", "cannot import name 'foo' from 'models'"),
        (PACKAGE, "import models\nmodels.Net", "models", "module 'models' has no attribute 'Net'"),
        (MODULE, "from data import Rows", "data.py", "cannot import name 'Rows' from 'data'"),
        (
            {"benchmarks/foo.py": ""},
            "import benchmarks.foo",
            "benchmarks",
            "No module named 'benchmarks.foo'",
        ),
    ],
)
def test_where_ours_hides_theirs_the_error_says_so(theirs, files, code, hidden, error):
    folder = theirs({**files, "hides_of_a_test.py": f"{code}\n"})
    with pytest.raises(SettingsError) as raised:
        load_system("hides_of_a_test:Mine")
    said, room = str(raised.value), hidden.removesuffix(".py")
    assert said.startswith(f"system 'hides_of_a_test:Mine' cannot be loaded: {error}")
    assert f". Our `{room}` ({ROOT / room}) hides yours at {folder / hidden}. Move yours" in said
    assert f"({folder / 'my_project' / room}) and import it from there, as `my_project." in said


@pytest.mark.parametrize("system", ["models.foo:Net", "models:Net"])
def test_a_module_of_theirs_that_ours_hides_is_named(theirs, system):
    folder = theirs(PACKAGE)
    with pytest.raises(SettingsError, match=f"hides yours at {folder / 'models'}"):
        load_system(system)


def test_what_ours_hides_is_found_beside_their_module_too(theirs):
    code = "from package_of_a_test import deeper\n"
    folder = theirs(
        {
            "package_of_a_test/mine.py": code,
            "package_of_a_test/deeper.py": "from models.foo import Net\n",
            "package_of_a_test/models/foo.py": "",
        }
    )
    with pytest.raises(SettingsError, match=f"yours at {folder}/package_of_a_test/models"):
        load_system("package_of_a_test.mine:Mine")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import models.bar", "No module named 'models.bar'"),
        ("import nowhere_of_a_test", "No module named 'nowhere_of_a_test'"),
        ("import math\nmath.foo", "module 'math' has no attribute 'foo'"),
        ("from json import nothing", "cannot import name 'nothing' from 'json'"),
        ("first = 1\n1 +", "SyntaxError: invalid syntax"),
        ("{}['width']", "KeyError: 'width'"),
    ],
)
def test_what_else_ends_an_import_is_told_with_its_place(theirs, code, error):
    folder = theirs({"models/foo.py": "", "lacks_of_a_test.py": f"{code}\n"})
    with pytest.raises(SettingsError) as raised:
        load_system("lacks_of_a_test:Mine")
    said = str(raised.value)
    assert said.startswith(f"system 'lacks_of_a_test:Mine' cannot be loaded: {error}")
    assert "hides" not in said
    assert f"{folder}/lacks_of_a_test.py" in said or "lacks_of_a_test.py, line 2" in said


def test_a_module_that_is_not_found_is_looked_for_in_the_path():
    with pytest.raises(SettingsError, match=r"No module named 'nowhere_of_a_test'.*PYTHONPATH"):
        load_system("nowhere_of_a_test:Mine")


@pytest.mark.slow
def test_a_verb_says_it_in_one_line(tmp_path):
    (tmp_path / "mine.py").write_text("from models.foo import Net\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "foo.py").write_text("Net = 1\n")
    ran = subprocess.run(
        [sys.executable, "-m", "ray_jobs.train", "mine:System", "--show"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: system 'mine:System' cannot be loaded: No module named ")
    assert f"hides yours at {tmp_path / 'models'}. Move" in ran.stderr
    assert ran.stderr.count("\n") == 1


PLAIN = """
from trainables.toy import Toy, ToySettings

class Plain:
    name = "plain_of_a_test:Plain"
    Settings = ToySettings
    build, loaders = Toy.build, Toy.loaders
    phases, metrics = Toy.phases, Toy.metrics
"""


def test_a_class_that_derives_from_nothing_has_the_defaults(tmp_path, monkeypatch):
    """Whoever wrote a system before there was `SystemBase` need not change it."""
    (tmp_path / "plain_of_a_test.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    system = load_system("plain_of_a_test:Plain")
    assert system.refused == {} and system.prepare_reads == ()
    assert system.prepare(None, tmp_path) is None
    assert not offers(system, "generate")
    run = LocalRun(tmp_path / "run")
    fit(system, replace(system.Settings(), {"train.steps": 2, "train.report_every": 1}), run, None)
    assert len(run.history) == 2


@pytest.mark.parametrize(
    ("name", "given", "key"),
    [
        ("hdr_patch", {}, "data.seed"),
        ("hdr_patch", {"data.source": "folder", "data.root": "frames"}, ""),
        ("compression", {}, "data.seed"),
        ("compression", {"data.source": "folder", "data.root": "patients"}, ""),
        ("conditioner", {}, "data.seed"),
        (
            "conditioner",
            {"data.source": "folder", "data.images": "a", "data.targets": "b"},
            "data.split_seed",
        ),
        ("field_vae", {}, "data.seed"),
        ("field_vae", {"data.fields": "f.npy"}, "data.split_seed"),
        ("field_vae", {"data.fields": "f.npy", "data.train_indices": "i.npy"}, ""),
        ("trainables.toy:Toy", {}, ""),
    ],
)
def test_what_draws_a_unit_depends_on_where_the_data_comes_from(name, given, key):
    system = load_system(name)
    assert system.unit_key(replace(system.Settings(), given)) == key
