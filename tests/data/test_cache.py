"""Folders of the cache: made once, whole or not at all, whoever is killed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from data import cache as cache_module
from data.cache import (
    KEPT,
    UNUSED_SECONDS,
    CacheError,
    cached_by,
    cached_folder,
    remove_abandoned,
    remove_folder,
    shaping,
)
from data.clean_cache import clean

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
    others = fcntl.LOCK_EX | fcntl.LOCK_NB
    assert calls == [fcntl.LOCK_EX, others, fcntl.LOCK_EX, fcntl.LOCK_SH], "the last is its use"
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


# What is removed

USES = """
import sys
from pathlib import Path
from data.cache import cached_by

for number in sys.argv[2:]:
    cached_by(Path(sys.argv[1]), "kind", [int(number)], None)
print("uses", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def using(tmp_path):
    """Starts a process that uses folders of tmp_path and then waits."""
    started = []

    def use(*numbers):
        command = [sys.executable, "-c", USES, str(tmp_path), *map(str, numbers)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
        started.append(process)
        assert process.stdout.readline() == "uses\n"
        return process

    yield use
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def let_go():
    """Lets go of all folders that this process uses, as its end would."""

    def all_of_them():
        for descriptor in cache_module._used.values():
            os.close(descriptor)
        cache_module._used.clear()

    yield all_of_them
    all_of_them()


def make(folder, number, kind="kind", days_ago=0.0):
    """A folder of the cache that was last used some days ago."""
    path, _ = cached_by(folder, kind, [number], made(number))
    used = time.time() - days_ago * UNUSED_SECONDS
    os.utime(path / "index.json", (used, used))
    return path


def test_the_folders_that_were_used_last_are_kept_and_the_others_removed(tmp_path, let_go):
    old = [make(tmp_path, number) for number in range(KEPT + 3)]
    let_go()
    for number in range(KEPT + 3):
        make(tmp_path, number, days_ago=40 - number)
    let_go()
    cached_by(tmp_path, "kind", [1], made(99))  # used again, and as it was
    assert (old[1] / "file").read_text() == "1"
    fresh = make(tmp_path, 99)
    assert [path for path in old if not path.exists()] == [old[0], old[2], old[3], old[4]]
    assert fresh.exists()
    assert hidden(tmp_path) == []


def test_what_was_used_lately_is_kept_however_much_it_is(tmp_path, let_go):
    """Somebody on another machine may be at it, whose lock is not known here."""
    lately = [make(tmp_path, number, days_ago=0.9) for number in range(2 * KEPT)]
    let_go()
    make(tmp_path, 99)
    assert all(path.exists() for path in lately)


def test_nothing_of_another_kind_or_of_anybody_else_is_touched(tmp_path, let_go):
    for number in range(KEPT):
        make(tmp_path, number)
    others = [
        make(tmp_path, 1, kind="other", days_ago=90.0),
        make(tmp_path, 1, kind="kind-phantom", days_ago=90.0),
        tmp_path / "kind-notes",
        tmp_path / "kind-0123456789abcdef",  # no index: not one of ours
        tmp_path / "kind-0123456789abcdef0",
    ]
    for path in others[2:]:
        path.mkdir()
        os.utime(path, (1.0, 1.0))
    cached_folder(tmp_path / "mine", made(1))
    os.utime(tmp_path / "mine" / "index.json", (1.0, 1.0))
    let_go()
    make(tmp_path, 99)
    assert all(path.exists() for path in [*others, tmp_path / "mine"])


def test_a_folder_that_another_process_uses_is_kept_until_its_end(tmp_path, using, let_go):
    paths = [make(tmp_path, number) for number in range(2)]
    let_go()
    process = using(0)
    for number in range(10, 10 + KEPT):
        make(tmp_path, number)
    for path in paths:
        os.utime(path / "index.json", (1.0, 1.0))
    make(tmp_path, 98)
    assert paths[0].exists()
    assert not paths[1].exists()
    process.communicate("")
    make(tmp_path, 99)
    assert not paths[0].exists()


def test_a_process_uses_the_folders_that_it_asked_for_last(tmp_path, using, let_go):
    """One that makes data for each of its trials does not keep all of it."""
    paths = [make(tmp_path, number) for number in range(KEPT + 2)]
    let_go()
    using(*range(KEPT + 2), 1)
    assert [remove_folder(path) for path in paths] == [True, False, True] + [False] * (KEPT - 1)


def test_who_asks_for_a_folder_that_is_being_removed_makes_it_anew(tmp_path, monkeypatch, let_go):
    """It has opened the index, and waits for the lock of who removes it."""
    import fcntl

    folder = make(tmp_path, 0)
    let_go()
    lock = fcntl.flock

    def removed_first(descriptor, operation):
        if operation == fcntl.LOCK_SH and not removed:
            removed.append(remove_folder(folder))
        lock(descriptor, operation)

    removed = []
    monkeypatch.setattr("fcntl.flock", removed_first)
    again, _ = cached_by(tmp_path, "kind", [0], made(7))
    assert removed == [True]
    assert again == folder
    assert (folder / "file").read_text() == "7"


def test_what_was_removed_and_made_anew_meanwhile_is_not_removed_again(
    tmp_path, monkeypatch, let_go
):
    import fcntl

    folder = make(tmp_path, 0)
    let_go()
    lock = fcntl.flock

    def another_first(descriptor, operation):
        if operation == fcntl.LOCK_EX | fcntl.LOCK_NB and not others:
            others.append("in the midst")
            others[0] = remove_folder(folder), make(tmp_path, 0)
        lock(descriptor, operation)

    others = []
    monkeypatch.setattr("fcntl.flock", another_first)
    assert not remove_folder(folder)
    assert others == [(True, folder)]
    assert (folder / "file").read_text() == "0"


# make clean-cache


def test_all_is_removed_but_what_is_used_and_what_is_not_ours(tmp_path, using, let_go):
    paths = [make(tmp_path, number) for number in range(3)]
    network = tmp_path / "conditioner-vae-0123456789abcdef"
    latents = cached_folder(network / "latents" / "abc", made(1))
    assert latents == 1
    (network / "vae").mkdir()
    (network / "vae" / "lock").touch()
    ours, theirs = (tmp_path / "completion" / f"{name}.json" for name in ("0" * 16, "index"))
    theirs.parent.mkdir()
    ours.touch()
    theirs.touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.json").write_text("{}")
    (tmp_path / "kind-0123456789abcdef").write_text("a file")
    let_go()
    using(1)
    told = clean(tmp_path)
    assert told.startswith(f"3 folders removed from {tmp_path} (0.0 MB). In use, and left there:")
    assert told.endswith(f" {paths[1].name}.")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([paths[1].name, "notes", "kind-0123456789abcdef", "completion"])
    assert theirs.exists()
    assert not ours.exists()


def test_a_network_that_is_trained_is_left(tmp_path):
    import fcntl

    network = tmp_path / "conditioner-vae-0123456789abcdef"
    (network / "vae").mkdir(parents=True)
    with (network / "vae" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "In use" in clean(tmp_path)
        assert (network / "vae" / "lock").exists()
    clean(tmp_path)
    assert not network.exists()


def test_make_clean_cache_empties_the_cache_of_the_environment(tmp_path, let_go):
    make(tmp_path, 0)
    let_go()
    environment = {name: value for name, value in os.environ.items() if name[:4] != "MAKE"}
    ran = subprocess.run(
        ["make", "clean-cache", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env={**environment, "WEIGHBRIDGE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"1 folders removed from {tmp_path} (0.0 MB).\n"
    assert list(tmp_path.iterdir()) == []
    assert clean(tmp_path / "none") == f"0 folders removed from {tmp_path / 'none'} (0.0 MB)."
