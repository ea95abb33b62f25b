"""Folders of the cache: made once, whole or not at all, whoever is killed meanwhile."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.cache import CacheError, cached_by, cached_folder, remove_abandoned, shaping

CONVERTS = """
import sys
from pathlib import Path
from data.cache import cached_folder

def make(scratch):
    (scratch / "half").write_text("half")
    print("began", flush=True)
    return sys.stdin.readline()

cached_folder(Path(sys.argv[1]), make)
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def converting(tmp_path):
    """A process in the middle of making tmp_path/cache/other."""
    command = [sys.executable, "-c", CONVERTS, str(tmp_path / "cache" / "other")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "began\n"
        yield process
        process.kill()


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def made(number):
    return lambda scratch: (scratch / "file").write_text(str(number))


def test_a_living_writer_keeps_its_scratch_and_finishes(converting, tmp_path):
    cache = tmp_path / "cache"
    before = hidden(cache)
    assert len(before) == 2
    assert cached_folder(cache / "mine", made(1)) == 1
    assert hidden(cache) == before
    converting.communicate("done")
    assert converting.returncode == 0
    assert hidden(cache) == []
    assert cached_folder(cache / "other", made(2)) == "done"
    assert (cache / "other" / "half").is_file()


def test_what_a_killed_writer_left_is_removed_by_the_next_one(converting, tmp_path):
    cache = tmp_path / "cache"
    converting.kill()
    converting.wait()
    assert len(hidden(cache)) == 2
    assert cached_folder(cache / "mine", made(1)) == 1
    assert hidden(cache) == []
    assert not (cache / "other").exists()


def test_of_two_writers_of_one_folder_the_first_wins(tmp_path):
    def slow(scratch):
        assert cached_folder(tmp_path / "a", lambda _: "first") == "first"
        return "second"

    assert cached_folder(tmp_path / "a", slow) == "first"
    assert hidden(tmp_path) == []


def test_a_writer_taken_for_dead_before_its_lock_begins_anew(tmp_path, monkeypatch):
    """Its file is there and not locked yet, just when another process looks."""
    import fcntl

    lock, calls = fcntl.flock, []

    def late(descriptor, operation):
        calls.append(operation)
        if len(calls) == 1:
            remove_abandoned(tmp_path)
        lock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", late)
    assert cached_folder(tmp_path / "a", made(1)) == 1
    assert len(calls) == 3, "a lock, the other's, and a lock anew"
    assert hidden(tmp_path) == []


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached_folder(tmp_path / "cache" / "a", lambda _: 1 / 0)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("torn", ["", '{"counts": {"pat'])
def test_a_torn_index_is_named_with_the_way_out(tmp_path, torn):
    cached_folder(tmp_path / "a", made(1))
    (tmp_path / "a" / "index.json").write_text(torn)
    with pytest.raises(CacheError, match=rf"{tmp_path}/a/index\.json is damaged .* Delete the"):
        cached_folder(tmp_path / "a", made(2))


def test_a_folder_is_named_by_all_that_shapes_it(tmp_path):
    """The name of format 1 and these settings and files is the one that it has always had."""

    @dataclass(frozen=True)
    class Node:
        size: int = 16
        validation: int = 3

    key = 1, shaping(Node(), {"validation"}), [("a.npy", 3, 5)]
    for number in (7, 8):  # the second finds what the first has made
        folder, index = cached_by(tmp_path, "kind", key, made(number))
        assert (folder, index) == (tmp_path / "kind-e557a1879b5d5102", 1)
    assert (folder / "file").read_text() == "7"
