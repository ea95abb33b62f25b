"""Whether a process may still write to its sweep."""

from __future__ import annotations

import errno
import json
import os
import threading

import pytest

from trainables import run
from trainables.run import LocalRun, SupersededError, owner_check


class Stumbling:
    """A lock on a network file system that loses it for some looks. A stand-in: no file system
    here loses a file on request.
    """

    def __init__(self, path, times):
        self.path, self.times = path, times

    def read_bytes(self):
        self.times -= 1
        if self.times >= 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self.path))
        return self.path.read_bytes()

    def __str__(self):
        return str(self.path)


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RETRY_SECONDS", (0.01, 0.01, 0.05, 0.05))
    path = tmp_path / "lock"
    path.write_text(json.dumps({"session": "mine"}))
    return path


def test_the_own_lock_and_that_of_another(lock, monkeypatch):
    """It is read once: neither answer waits."""
    monkeypatch.setattr(run, "RETRY_SECONDS", (3600.0,))
    assert owner_check(lock, "mine")()
    assert not owner_check(lock, "another's")()


@pytest.mark.parametrize("session", ["mine", "another's"])
@pytest.mark.parametrize("times", [1, 4])
def test_a_stale_file_handle_is_looked_at_again(lock, session, times):
    assert owner_check(Stumbling(lock, times), session)() == (session == "mine")


def test_a_file_system_that_stays_away_is_named(lock, tmp_path):
    """It is no takeover: neither is it called one, nor does the trial keep its error to itself."""
    trial = LocalRun(tmp_path, still_owner=owner_check(Stumbling(lock, 99), "mine"))
    with pytest.raises(OSError, match=r"could not be read for .* Stale file handle.*--resume"):
        trial.report({"step": 1.0}, lambda: None)
    assert trial.history == []


def test_a_lock_that_is_put_back_is_the_own_one(lock, monkeypatch):
    """Another process compares it with a stale one."""
    monkeypatch.setattr(run, "RETRY_SECONDS", (0.05,) * 600)
    aside = lock.with_name("aside")
    lock.rename(aside)
    threading.Timer(0.2, aside.rename, [lock]).start()
    assert owner_check(lock, "mine")()


def test_a_lock_that_is_gone_is_said_to_be(lock):
    lock.unlink()
    with pytest.raises(SupersededError, match="is gone: somebody has removed it"):
        owner_check(lock, "mine")()


def test_half_a_lock_is_no_others(lock):
    lock.write_text("{")
    threading.Timer(0.02, lock.write_text, ['{"session": "mine"}']).start()
    assert owner_check(lock, "mine")()
    lock.write_text("{")
    with pytest.raises(OSError, match="could not be read"):
        owner_check(lock, "mine")()
