"""One writer at a time, also where two take over the same stale lock."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from results import lock

DEAD = {"host": "another-host", "pid": 1, "since": 0.0, "session": "dead"}


@pytest.fixture
def stale(tmp_path):
    (tmp_path / "lock").write_text(json.dumps(DEAD))
    return tmp_path


def session_in(directory):
    return json.loads((directory / "lock").read_text())["session"]


def test_a_live_writer_is_named_and_refused(tmp_path):
    lock.take_lock(tmp_path)
    with pytest.raises(lock.LockHeldError, match=r"being written by process \d+ on .* since"):
        lock.take_lock(tmp_path)


def test_a_stale_lock_is_taken_over_and_its_holder_named(stale, monkeypatch):
    monkeypatch.setattr(lock, "QUIET_SECONDS", -1.0)
    session, holder = lock.take_lock(stale)
    assert holder == "process 1 on another-host"
    assert session_in(stale) == session
    assert [path.name for path in stale.iterdir()] == ["lock"]


def test_the_slower_of_two_takeovers_leaves_the_fresh_lock(stale, monkeypatch):
    """Both find the stale lock; the other one finishes between our look and our rename."""
    monkeypatch.setattr(lock, "QUIET_SECONDS", -1.0)
    rename = lock.Path.rename
    winner = []

    def after_the_other(path, target):
        if path.name == "lock" and not winner:
            winner.append("")  # the takeover below renames as well
            winner[0] = lock.take_lock(stale)[0]
        return rename(path, target)

    monkeypatch.setattr(lock.Path, "rename", after_the_other)
    with pytest.raises(lock.LockHeldError):
        lock.take_lock(stale)
    assert session_in(stale) == winner[0]
    assert [path.name for path in stale.iterdir()] == ["lock"]


def test_a_touch_keeps_a_remote_writer_alive(stale):
    import os

    long_ago = (1.0, 1.0)
    os.utime(stale / "lock", long_ago)
    assert not lock.is_held(stale)
    lock.touch_lock(stale)
    assert lock.is_held(stale)


HOLDS_AND_GIVES_BACK = """
import sys
from pathlib import Path
from results import lock
while True:
    try:
        session, _ = lock.take_lock(Path(sys.argv[1]))
    except lock.LockHeldError:
        continue
    lock.release_lock(Path(sys.argv[1]), session)
"""


def test_a_lock_that_comes_and_goes_is_taken_or_refused(tmp_path):
    """Another process gives it back between any two of our looks at it."""
    other = subprocess.Popen([sys.executable, "-c", HOLDS_AND_GIVES_BACK, str(tmp_path)])
    try:
        taken = refused = 0
        deadline = time.monotonic() + 60.0
        while min(taken, refused) < 100 and time.monotonic() < deadline:
            assert other.poll() is None
            try:
                session, _ = lock.take_lock(tmp_path)
            except lock.LockHeldError:
                refused += 1
                continue
            assert session_in(tmp_path) == session
            lock.release_lock(tmp_path, session)
            taken += 1
    finally:
        other.kill()
        other.wait()
    assert min(taken, refused) > 0


def test_a_fresh_lock_is_not_put_aside_for_a_stale_one(tmp_path):
    """That was seen before it: whoever took the lock meanwhile keeps it."""
    session, _ = lock.take_lock(tmp_path)
    lock._put_aside(tmp_path / "lock", "of another", '{"session": "of a writer that is gone"}')
    assert session_in(tmp_path) == session
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_only_the_own_lock_is_given_back(tmp_path):
    session, _ = lock.take_lock(tmp_path)
    lock.release_lock(tmp_path, "somebody else")
    assert session_in(tmp_path) == session
    lock.release_lock(tmp_path, session)
    assert not (tmp_path / "lock").exists()
