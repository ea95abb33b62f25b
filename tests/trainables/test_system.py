"""A system is found by its name, which is also what its checkpoints call it."""

from __future__ import annotations

import pytest

from settings.schema import SettingsError
from trainables.system import load_system


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
        ("hdr_path", "there is no system 'hdr_path'. Systems: compression, conditioner"),
        ("nowhere:Mine", "cannot be loaded"),
        ("trainables.toy:Tory", "cannot be loaded"),
    ],
)
def test_a_name_that_is_nothing_is_refused(name, says):
    with pytest.raises(SettingsError, match=says):
        load_system(name)
