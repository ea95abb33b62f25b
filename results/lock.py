"""The lock of a sweep directory: which process writes there, and whether it is still alive.

Where the holder's process can be looked up, it alone decides. Elsewhere its heartbeat does, a
counter in the lock: who wants the lock watches it by a clock of its own, so that no two clocks are
compared. A holder that was stopped, as by the lid of a laptop, loses the lock to a process
elsewhere, and finds out before it writes (`trainables.run.owner_check`).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from results.holder import Holder
from results.store import SweepError
from settings.paths import SweepPaths

HEARTBEAT_SECONDS = 10.0
"""Interval at which the holder of a lock counts its heartbeat on."""

WATCH_SECONDS = 30.0
"""How long a heartbeat must stand still before its lock is taken over."""

WATCH_EARLIER_SECONDS = 90.0
"""The same for a lock of an earlier version, whose holder only touched it, every 30 s."""

LOOK_SECONDS = 1.0
"""Interval at which a watched lock is looked at."""

QUIET_SECONDS = 300.0
"""Age of the last change of lock and log from which a reader, who does not wait, counts a holder
as dead that cannot be looked up."""

_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class LockHeldError(RuntimeError):
    """The sweep is being written by another live process."""


def is_held(directory: Path) -> bool:
    """Whether the sweep's lock is held by a live process, as far as one look can tell.

    A holder that cannot be looked up counts as alive while its files change, by the clock of the
    file system that they are on: for some minutes after its end as well.
    """
    try:
        text = _text(SweepPaths(directory).lock)
    except OSError:  # unreadable: nobody to wait for
        return False
    holder = Holder.parse(text) if text is not None else None
    if holder is None:
        return False
    alive = holder.is_alive()
    return _changed_lately(directory) if alive is None else alive


def _text(path: Path) -> str | None:
    """The content of the lock; None where there is none, for it may be released at any moment."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _changed_lately(directory: Path) -> bool:
    return _clock_of(directory) - _last_change_ns(directory) / 1e9 < QUIET_SECONDS


def _last_change_ns(directory: Path) -> int:
    times = [0]
    for path in (SweepPaths(directory).lock, SweepPaths(directory).log):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return max(times)


def _clock_of(directory: Path) -> float:
    """The time by the file system of a directory, which a file server has from a clock of its own;
    this machine's time where nothing can be written there.
    """
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


class HeldLock:
    """The lock that this process holds, and the thread that writes its heartbeat.

    Attributes:
        session: against which every write is checked.
        stale: the dead holder that it was taken over from; "" where there was none.
    """

    def __init__(self, directory: Path, session: str, stale: str) -> None:
        self.session, self.stale = session, stale
        self._path = SweepPaths(directory).lock
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        pause = HEARTBEAT_SECONDS
        while not self._released.wait(pause):
            try:
                _count_on(self._path, self.session)
                pause = HEARTBEAT_SECONDS
            except OSError:  # a network file system that stumbles: soon again
                pause = HEARTBEAT_SECONDS / 10

    def release(self) -> None:
        """Removes the lock, unless another process has taken it over."""
        self._released.set()
        with contextlib.suppress(OSError):
            if _session_in(self._path) == self.session:
                self._path.unlink()


def _count_on(path: Path, session: str) -> None:
    """Counts the heartbeat of an own lock on. It is written into the file that was read, so that a
    lock that takes its place meanwhile stays as it is.
    """
    with path.open("r+b", buffering=0) as file:
        holder = Holder.parse(file.read())
        if holder is not None and holder.session == session:
            following = replace(holder, beat=(holder.beat or 0) + 1)
            os.pwrite(file.fileno(), following.to_text().encode(), 0)


def _session_in(path: Path) -> str:
    holder = Holder.parse(_text(path) or "")
    return holder.session if holder is not None else ""


def take_lock(directory: Path, tell: Callable[[str], None] = print) -> HeldLock:
    """Makes this process the sweep's only writer, and begins its heartbeat.

    Args:
        tell: told before it waits for the heartbeat of a holder that cannot be looked up.

    Raises:
        LockHeldError: a live process holds it; the message names host, process and since when.
        SweepError: the directory's file system has no hard links.
    """
    path = SweepPaths(directory).lock
    session = uuid.uuid4().hex
    stale = ""
    while not _link_new(path, session):
        if (text := _text(path)) is None:
            continue
        holder = Holder.parse(text)
        alive = holder is not None and holder.is_alive()
        if holder is not None and alive is None:
            alive = _beats(directory, text, holder, tell)
            if _session_in(path) != holder.session:
                continue  # given back, or taken over by another one
        if holder is not None and alive:
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
            raise LockHeldError(
                f"{directory} is being written by {holder} since {began}. "
                "Wait for it, or stop it first."
            )
        stale = _put_aside(path, session, text) or stale
    return HeldLock(directory, session, stale)


def _beats(directory: Path, text: str, holder: Holder, tell: Callable[[str], None]) -> bool:
    """Whether a lock changes while it is watched. Looks are counted rather than time, of which
    this process may sleep through some.
    """
    path, changed = SweepPaths(directory).lock, _last_change_ns(directory)
    seconds = WATCH_EARLIER_SECONDS if holder.beat is None else WATCH_SECONDS
    tell(
        f"{directory} is locked by {holder}, which cannot be looked up from here: waiting up to "
        f"{seconds:g} s for its heartbeat"
    )
    for _ in range(math.ceil(seconds / LOOK_SECONDS)):
        time.sleep(LOOK_SECONDS)
        if (_text(path), _last_change_ns(directory)) != (text, changed):
            return True
    return False


def _put_aside(path: Path, session: str, stale: str) -> str:
    """Removes a stale lock and returns its holder; "" where it was gone or no longer stale.

    Two processes may find the same stale lock, and a holder may wake up. The slower one must not
    remove a lock that is alive: what it has moved away is compared with the stale lock, and put
    back if it differs.
    """
    aside = path.with_name(f".lock.stale.{session}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return ""
    was_stale = aside.read_text(errors="replace") == stale
    if not was_stale:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()
    return str(Holder.parse(stale) or "an unknown process") if was_stale else ""


def _link_new(path: Path, session: str) -> bool:
    """Creates the lock atomically; False where there is one already."""
    mine = path.with_name(f".lock.{session}")
    mine.write_text(Holder.own(session).to_text())
    try:
        os.link(mine, path)
    except FileExistsError:
        # NFS may lose its answer and ask again, which then finds our own link (open(2)).
        return mine.stat().st_nlink > 1
    except OSError as error:
        if error.errno in _NO_HARD_LINKS:
            raise SweepError(
                f"{path.parent} is on a file system without hard links ({error.strerror}), and "
                "the lock of a sweep is one; many mounted buckets have none. Give --dir a "
                "directory on a disk or on NFS, and copy it to the bucket when the sweep is done."
            ) from error
        raise
    finally:
        mine.unlink()
    return True
