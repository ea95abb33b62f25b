"""The process that a sweep's lock names, and whether it is still alive."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PROC = Path("/proc")

_CLOCK_SLACK_SECONDS = 5.0


@dataclass(frozen=True)
class Holder:
    """What a lock says of the process that holds it.

    Attributes:
        host, pid: where it runs, and its id in its own namespace.
        since: when it took the lock, by the wall clock of its host in seconds since the epoch; for
            people to read, and for locks of earlier versions.
        session: a random id of this taking.
        boot: the random id that its kernel gave itself at its start; "" where there is none.
        namespace: the one that its id is from, such as `pid:[4026531836]`.
        start: when the process began, in clock ticks since the boot.
        beat: its heartbeat, a counter; None in a lock of an earlier version, which lacks `boot`,
            `namespace` and `start` as well.
    """

    host: str
    pid: int
    since: float
    session: str
    boot: str = ""
    namespace: str = ""
    start: int = 0
    beat: int | None = None

    @classmethod
    def own(cls, session: str) -> Holder:
        """This process."""
        boot, namespace = _place()
        start = _state_and_start("self")[1] if boot else 0
        host, pid = socket.gethostname(), os.getpid()
        return cls(host, pid, time.time(), session, boot, namespace, start, beat=0)

    @classmethod
    def parse(cls, text: str | bytes) -> Holder | None:
        """The holder by the content of a lock; None where that is half-written."""
        try:
            node = json.loads(text)
            return cls(
                host=str(node["host"]),
                pid=int(node["pid"]),
                since=float(node["since"]),
                session=str(node.get("session", "")),
                boot=str(node.get("boot", "")),
                namespace=str(node.get("namespace", "")),
                start=int(node.get("start", 0)),
                beat=int(node["beat"]) if "beat" in node else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def to_text(self) -> str:
        """The content of its lock, equally long at every beat: it is overwritten while others
        read it.
        """
        return json.dumps({**asdict(self), "beat": f"{self.beat or 0:010d}"})

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_alive(self) -> bool | None:
        """Whether its process lives; None where it cannot be looked up from here.

        It can where kernel and namespace are this process's own, whatever the wall clock says. It
        cannot on other machines, from another container, after a restart of the machine, and where
        there is no /proc (macOS) or it is that of another namespace.
        """
        if self.beat is None:
            return self._is_alive_by_name()
        if not self.boot or (self.boot, self.namespace) != _place():
            return None
        if not _exists(self.pid):
            return False
        try:
            state, start = _state_and_start(self.pid)
        except OSError:  # the process of another user may be hidden (hidepid)
            return None
        return start == self.start and state not in "ZX"  # dead, but its parent has not asked yet

    def _is_alive_by_name(self) -> bool | None:
        """The rule of earlier versions: on the host of this name the process is looked up by its
        id; one that began after the lock was taken has merely got the same id.
        """
        if self.host != socket.gethostname():
            return None
        if not _exists(self.pid):
            return False
        import psutil

        try:
            return psutil.Process(self.pid).create_time() <= self.since + _CLOCK_SLACK_SECONDS
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True


def _place() -> tuple[str, str]:
    """The ids of kernel and process namespace of this process; empty where /proc lacks them or
    belongs to another namespace, as after `unshare --pid` alone.
    """
    try:
        if os.readlink(PROC / "self") != str(os.getpid()):
            return "", ""
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink(PROC / "self/ns/pid")
    except OSError:
        return "", ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it belongs to someone else
    except (OSError, OverflowError):
        return False
    return True


def _state_and_start(pid: int | str) -> tuple[str, int]:
    """State letter, and start in clock ticks since the boot: fields 3 and 22 of proc(5)'s stat.
    The second field, a name, may have spaces and parentheses.
    """
    fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])
