"""The lock of a sweep directory: the process that writes there, and whether it is still alive."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from pathlib import Path

from settings.paths import SweepPaths

HEARTBEAT_SECONDS = 30.0
"""Interval at which a writer touches its lock."""

QUIET_SECONDS = 300.0
"""Time without a change of lock and log after which a writer on another machine counts as dead."""

_CLOCK_SLACK_SECONDS = 5.0


def is_held(directory: Path) -> bool:
    """Whether the sweep's lock is held by a live process.

    A process on this machine is looked up by its id; one that started after the lock was taken has
    merely got the same id. A process on another machine cannot be looked up, so it counts as alive
    while its files still change.
    """
    try:
        text = _text(SweepPaths(directory).lock)
    except OSError:  # unreadable: nobody to wait for
        return False
    return text is not None and _live_holder(directory, text) is not None


def _text(path: Path) -> str | None:
    """The content of the lock; None where there is none, for it may be released at any moment."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _live_holder(directory: Path, text: str) -> tuple[str, int, float] | None:
    """Host, process id and start time of the live holder of a lock with this content; None where
    it is not alive.
    """
    try:
        holder = json.loads(text)
        host, pid, since = str(holder["host"]), int(holder["pid"]), float(holder["since"])
    except (ValueError, TypeError, KeyError):
        return None  # half-written: nobody to wait for
    if host != socket.gethostname():
        alive = time.time() - _last_change(directory) < QUIET_SECONDS
    else:
        alive = _is_alive(pid, since)
    return (host, pid, since) if alive else None


def _last_change(directory: Path) -> float:
    times = [0.0]
    for path in (SweepPaths(directory).lock, SweepPaths(directory).log):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _is_alive(pid: int, since: float) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it exists and belongs to someone else
    except (OSError, OverflowError):
        return False
    import psutil

    try:
        return psutil.Process(pid).create_time() <= since + _CLOCK_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


class LockHeldError(RuntimeError):
    """The sweep is being written by another live process."""


def take_lock(directory: Path) -> tuple[str, str]:
    """Makes this process the sweep's only writer.

    Returns:
        The session, against which every write is checked, and the holder of a stale lock that was
        taken over ("" where there was none).

    Raises:
        LockHeldError: a live process holds it; the message names host, process and since when.
    """
    path = SweepPaths(directory).lock
    session = uuid.uuid4().hex
    stale = ""
    while not _link_new(path, session):
        if (text := _text(path)) is None:
            continue
        if holder := _live_holder(directory, text):
            host, pid, since = holder
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
            raise LockHeldError(
                f"{directory} is being written by process {pid} on {host} since {began}. "
                "Wait for it, or stop it first."
            )
        stale = _put_aside(path, session, text) or stale
    return session, stale


def _put_aside(path: Path, session: str, stale: str) -> str:
    """Removes a stale lock and returns its holder; "" where it was gone or no longer stale.

    Two processes may find the same stale lock. The slower one must not remove the faster one's
    new lock: what it has moved away is compared with the stale lock, and put back if it differs.
    """
    aside = path.with_name(f".lock.stale.{session}")
    holder = _holder_text(stale)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return ""
    if aside.read_text() != stale:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        holder = ""
    aside.unlink()
    return holder


def touch_lock(directory: Path) -> None:
    """Shows processes on other machines, which cannot look this one up, that it is alive."""
    with contextlib.suppress(OSError):
        os.utime(SweepPaths(directory).lock)


def release_lock(directory: Path, session: str) -> None:
    """Removes the lock, unless another process has taken it over."""
    path = SweepPaths(directory).lock
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text()).get("session") == session:
            path.unlink()


def _link_new(path: Path, session: str) -> bool:
    """Creates the lock atomically; False where there is one already."""
    mine = path.with_name(f".lock.{session}")
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.time(),
        "session": session,
    }
    mine.write_text(json.dumps(holder))
    try:
        os.link(mine, path)
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True


def _holder_text(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"
