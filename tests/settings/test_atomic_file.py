"""Whole or not at all: after an error, after `kill -9`, beside other writers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from settings.atomic_file import atomic_file

KILLED = """
import os, signal, sys
from pathlib import Path
from settings.atomic_file import atomic_file
with atomic_file(Path(sys.argv[1])) as scratch:
    scratch.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_takes_the_place_of_what_was_there_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.json"
    for text in ("first", "second"):
        with atomic_file(path, on_disk=True) as scratch:
            scratch.write_text(text)
            assert scratch.parent == path.parent
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as scratch:
        scratch.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert all(other.name.startswith(".") for other in tmp_path.iterdir() if other != path)


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
