"""One writer at a time: who holds the lock, seen from here and from elsewhere; who takes it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from results import holder, lock
from results.holder import Holder
from results.store import SweepError
from trainables.run import owner_check

EARLIER = {"host": "another-host", "pid": 1, "since": 0.0, "session": "dead"}
"""A lock as versions without a heartbeat have written it."""


@pytest.fixture
def quick(monkeypatch):
    """Beats and looks that a test can wait for."""
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.2)
    monkeypatch.setattr(lock, "WATCH_EARLIER_SECONDS", 0.3)


@pytest.fixture
def patient(quick, monkeypatch):
    """A watch that no test gets to the end of."""
    monkeypatch.setattr(lock, "WATCH_SECONDS", 3600.0)
    monkeypatch.setattr(lock, "WATCH_EARLIER_SECONDS", 3600.0)


@pytest.fixture
def stale(tmp_path, quick):
    (tmp_path / "lock").write_text(json.dumps(EARLIER))
    return tmp_path


def refuses_to_wait(message):
    raise AssertionError(f"it would wait: {message}")


def session_in(directory):
    return json.loads((directory / "lock").read_text())["session"]


def until(condition):
    """Pure Python, which leaves other threads as little of the interpreter as any work does."""
    end = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end, "never came"


def beat_in(directory):
    return Holder.parse((directory / "lock").read_text()).beat


def write_remote(directory):
    """A lock whose holder cannot be looked up: this process under another kernel."""
    remote = replace(Holder.own("remote"), boot="of another kernel")
    (directory / "lock").write_text(remote.to_text())
    return remote


def test_a_live_writer_is_named_and_refused(tmp_path):
    lock.take_lock(tmp_path)
    with pytest.raises(lock.LockHeldError, match=r"being written by process \d+ on .* since"):
        lock.take_lock(tmp_path, refuses_to_wait)


class TestWatch:
    """Of a holder that cannot be looked up."""

    def test_it_is_waited_for_and_the_user_told(self, tmp_path, quick):
        remote, told = write_remote(tmp_path), []
        taken = lock.take_lock(tmp_path, told.append)
        assert (taken.stale, session_in(tmp_path)) == (str(remote), taken.session)
        assert told == [
            f"{tmp_path} is locked by {remote}, which cannot be looked up from here: waiting up "
            "to 0.2 s for its heartbeat"
        ]

    def test_without_proc(self, tmp_path, patient, monkeypatch):
        """As on macOS: nobody is looked up."""
        monkeypatch.setattr(holder, "PROC", tmp_path / "none")
        taken, told = lock.take_lock(tmp_path), []
        assert Holder.parse((tmp_path / "lock").read_text()).is_alive() is None
        with pytest.raises(lock.LockHeldError):
            lock.take_lock(tmp_path, told.append)
        assert len(told) == 1
        taken.release()

    def test_a_lock_that_is_given_back_meanwhile_is_taken(self, tmp_path, patient):
        write_remote(tmp_path)
        taken = lock.take_lock(tmp_path, lambda message: (tmp_path / "lock").unlink())
        assert (taken.stale, session_in(tmp_path)) == ("", taken.session)


class TestHeartbeat:
    def test_it_goes_on_whatever_the_holder_does(self, tmp_path, quick):
        """From the taking of the lock on, while it prepares as well."""
        threads = set(threading.enumerate())
        taken = lock.take_lock(tmp_path)
        before = (tmp_path / "lock").read_text()
        until(lambda: beat_in(tmp_path) >= 12)
        after = (tmp_path / "lock").read_text()
        assert len(after) == len(before), "a reader may come in between"
        assert replace(Holder.parse(after), beat=0) == Holder.parse(before)
        taken.release()
        until(lambda: set(threading.enumerate()) <= threads)
        assert not list(tmp_path.iterdir())

    def test_it_survives_an_error_of_the_file_system(self, tmp_path, quick):
        """The lock is away for a moment, as while another process compares it."""
        taken = lock.take_lock(tmp_path)
        (tmp_path / "lock").rename(tmp_path / "aside")
        time.sleep(0.1)
        (tmp_path / "aside").rename(tmp_path / "lock")
        seen = beat_in(tmp_path)
        until(lambda: beat_in(tmp_path) > seen)
        taken.release()


def test_a_stale_lock_of_an_earlier_version_is_taken_over_and_its_holder_named(stale):
    told = []
    taken = lock.take_lock(stale, told.append)
    assert taken.stale == "process 1 on another-host"
    assert session_in(stale) == taken.session
    assert "up to 0.3 s" in told[0], "it was touched less often"
    assert [path.name for path in stale.iterdir()] == ["lock"]


def test_a_touched_lock_of_an_earlier_version_is_not(stale, patient):
    """Its holder touches it, which is all the heartbeat that it has."""
    os.utime(stale / "lock", (1.0, 1.0))
    touch = threading.Timer(0.2, os.utime, [stale / "lock"])
    with pytest.raises(lock.LockHeldError):
        lock.take_lock(stale, lambda message: touch.start())


def test_the_process_of_an_earlier_version_is_looked_up_on_its_host(stale):
    """By number and wall clock, which is all that its lock has."""
    here = {**EARLIER, "host": Holder.own("").host, "pid": os.getpid(), "since": time.time()}
    (stale / "lock").write_text(json.dumps(here))
    with pytest.raises(lock.LockHeldError):
        lock.take_lock(stale, refuses_to_wait)
    (stale / "lock").write_text(json.dumps({**here, "since": 1.0}))
    assert lock.take_lock(stale, refuses_to_wait).stale


@pytest.mark.slow
def test_the_slower_of_two_takeovers_leaves_the_fresh_lock(stale, monkeypatch):
    """Both find the stale lock; the other one finishes between our look and our rename."""
    rename = lock.Path.rename
    winner = []

    def after_the_other(path, target):
        if path.name == "lock" and not winner:
            winner.append("")  # the takeover below renames as well
            winner[0] = lock.take_lock(stale).session
        return rename(path, target)

    monkeypatch.setattr(lock.Path, "rename", after_the_other)
    with pytest.raises(lock.LockHeldError):
        lock.take_lock(stale)
    assert session_in(stale) == winner[0]
    assert [path.name for path in stale.iterdir()] == ["lock"]


HOLDS_AND_GIVES_BACK = """
import sys
from pathlib import Path
from results import lock
while True:
    try:
        held = lock.take_lock(Path(sys.argv[1]))
    except lock.LockHeldError:
        continue
    held.release()
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
                held = lock.take_lock(tmp_path)
            except lock.LockHeldError:
                refused += 1
                continue
            assert session_in(tmp_path) == held.session
            held.release()
            taken += 1
    finally:
        other.kill()
        other.wait()
    assert min(taken, refused) > 0


def test_a_fresh_lock_is_not_put_aside_for_a_stale_one(tmp_path):
    """That was seen before it: whoever took the lock meanwhile keeps it."""
    session = lock.take_lock(tmp_path).session
    lock._put_aside(tmp_path / "lock", "of another", '{"session": "of a writer that is gone"}')
    assert session_in(tmp_path) == session
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_only_the_own_lock_is_given_back(tmp_path):
    first = lock.take_lock(tmp_path)
    first.release()
    assert not (tmp_path / "lock").exists()
    second = lock.take_lock(tmp_path)
    first.release()
    assert session_in(tmp_path) == second.session
    assert not owner_check(tmp_path / "lock", first.session)()


def test_a_link_whose_answer_was_lost_is_ours(tmp_path, monkeypatch):
    """Emulated: NFS makes the link, loses the reply, asks again and hears that it exists."""
    link = os.link

    def answers_late(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", answers_late)
        taken = lock.take_lock(tmp_path, refuses_to_wait)
    assert session_in(tmp_path) == taken.session
    with pytest.raises(lock.LockHeldError):
        lock.take_lock(tmp_path, refuses_to_wait)
    taken.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links(tmp_path, monkeypatch, number):
    """Emulated: no such file system can be mounted here."""

    def link(source, target):
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(SweepError, match=rf"{tmp_path} .* without hard links .*Give --dir"):
        lock.take_lock(tmp_path)
    assert not list(tmp_path.iterdir())


class TestReader:
    """Who reads does not wait, and knows no more than how long ago the files have changed."""

    @pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
    def test_its_own_clock_does_not_matter(self, tmp_path, monkeypatch, ahead):
        """The reader's clock is emulated; that of the file system is this machine's."""
        write_remote(tmp_path)
        old = time.time() - 2 * lock.QUIET_SECONDS
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + ahead)
        assert lock.is_held(tmp_path)
        os.utime(tmp_path / "lock", (old, old))
        assert not lock.is_held(tmp_path)
        (tmp_path / "log.jsonl").touch()
        assert lock.is_held(tmp_path), "a holder that writes lives"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "log.jsonl"]

    def test_in_a_directory_of_someone_else_it_does(self, tmp_path, monkeypatch):
        """Emulated: tests often run as root, who may write everywhere."""

        def refuse(**options):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(options["dir"]))

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        write_remote(tmp_path)
        assert lock.is_held(tmp_path)
        old = time.time() - 2 * lock.QUIET_SECONDS
        os.utime(tmp_path / "lock", (old, old))
        assert not lock.is_held(tmp_path)
