"""The append-only files of a sweep: its log of events, and the reports of one trial.

They hold one JSON object a line. A line counts once its newline is on disk: what a crash leaves
after the last newline is dropped, with a message. Values that are not finite are written as null,
so that any JSON reader can read them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from settings.atomic_file import atomic_file

RESERVED = ("time", "event")
_BLOCK_BYTES = 1 << 16

Appender = TypeVar("Appender", bound="_Appender")


class SweepError(ValueError):
    """A sweep directory that cannot be used; the message names the file and the way out."""


def to_line(row: Mapping[str, Any]) -> bytes:
    """One JSON line with its newline. Scalars of numpy and torch become plain numbers."""
    try:
        text = _encode(row)
    except (TypeError, ValueError):  # a value that is not finite, or not plain
        text = _encode(plain(row))
    return text.encode() + b"\n"


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def plain(value: object) -> Any:
    """The value in JSON's own types; numbers that are not finite become None."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (bool, int, str)):
        return plain(value.item())
    return value


def complete_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The lines that end in a newline, and the incomplete line after the last newline (or
    nothing).
    """
    *lines, torn = data.split(b"\n")
    return [line for line in lines if line.strip()], torn


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log that may still be growing. The file is not changed; an incomplete last
    line is left out.

    Raises:
        SweepError: a complete line is no event; nothing is guessed, for all decisions follow from
            the log.
    """
    lines, _ = complete_lines(path.read_bytes())
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            raise SweepError(
                f"{path}, line {number}: not an event (a JSON object with 'event'): "
                f"{line[:80]!r}. The log is damaged before its end; restore it from a copy."
            )
        events.append(event)
    return events


class _Appender:
    """A file to which only this process appends, by one `write` a line, so that a reader sees at
    most the last line incomplete.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def open(self) -> str:
        """Opens the file for appending and cuts off an incomplete last line, which is returned; ""
        where there was none.

        `append` opens the file by itself; call this first to know what a crash has cost.
        """
        return "" if self._descriptor is not None else self._open()[1]

    def _open(self) -> tuple[int, str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(self.path, flags, 0o644)
        torn = _cut_torn_line(self._descriptor).decode(errors="replace")
        return self._descriptor, torn

    def _write(self, row: Mapping[str, Any]) -> None:
        descriptor = self._open()[0] if self._descriptor is None else self._descriptor
        line = to_line(row)
        written = os.write(descriptor, line)
        if written != len(line):
            # A full disk: take the half line back, or the next line would be glued to it.
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(
                errno.ENOSPC,
                "no room for one more line; free some space and resume",
                str(self.path),
            )

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self: Appender) -> Appender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _cut_torn_line(descriptor: int) -> bytes:
    """Truncates a file to just after its last newline, and returns what was cut off."""
    size = end = os.fstat(descriptor).st_size
    torn = b""
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        torn = os.pread(descriptor, end - begin, begin) + torn
        newline = torn.rfind(b"\n")
        if newline >= 0:
            torn = torn[newline + 1 :]
            break
        end = begin
    if torn:
        os.ftruncate(descriptor, size - len(torn))
    return torn


class EventLog(_Appender):
    """`log.jsonl`: the sweep's decisions, each on disk before the sweep acts on it.

    Args:
        clock: gives the time in seconds since the epoch.
    """

    def __init__(
        self, path: str | os.PathLike[str], clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(path)
        self._clock = clock
        self._waiting = False

    def append(self, event: str, **fields: object) -> None:
        """Writes one event and waits until it and all before it are on disk (`fsync`)."""
        self.write(event, **fields)
        self.sync()

    def write(self, event: str, **fields: object) -> None:
        """Writes one event that nothing acts on before the next `append` or `sync`.

        A crash of the process loses no event; a crash of the machine may lose the last ones, but
        never one without all that follow it.
        """
        clash = [name for name in RESERVED if name in fields]
        if clash:
            raise ValueError(
                f"an event's own {clash} are set by the log; name the field otherwise"
            )
        self._write({"time": self._clock(), "event": event, **fields})
        self._waiting = True

    def sync(self) -> None:
        """Waits until every event is on disk."""
        if self._waiting and self._descriptor is not None:
            os.fsync(self._descriptor)
        self._waiting = False

    def read(self) -> list[dict[str, Any]]:
        """All events so far; none where the file does not exist yet."""
        return read_events(self.path) if self.path.exists() else []


class ReportWriter(_Appender):
    """`reports/<trial>.jsonl`: every report as it came, written by the trial itself.

    There is no `fsync` for each report: a crash of the process loses no report, a crash of the
    machine may lose the last ones, which the resumed trial computes again from its checkpoint.
    """

    def append(self, report: Mapping[str, Any]) -> None:
        """Writes one report: `step`, `segment`, `seconds` and the metrics by column name."""
        self._write(report)

    def truncate_after(self, step: int, own: Mapping[str, Any] | None = None) -> int:
        """Removes the reports of later steps, before a trial resumes from `step`, and returns
        their number. The file is replaced atomically.

        Args:
            own: the report of `step` as its checkpoint has it, written again where it is missing:
                a crash of the machine may keep the checkpoint and lose the line.
        """
        self.close()
        if not self.path.exists() and own is None:
            return 0
        data = self.path.read_bytes() if self.path.exists() else b""
        lines, torn = complete_lines(data)
        remaining = [line for line in lines if _step(line) <= step]
        lost = own is not None and (not remaining or _step(remaining[-1]) < step)
        if lost or len(remaining) < len(lines) or torn:
            whole = b"".join(line + b"\n" for line in remaining)
            with atomic_file(self.path) as scratch:
                scratch.write_bytes(whole + (to_line(own) if lost and own else b""))
        return len(lines) - len(remaining)


def _step(line: bytes) -> float:
    """The step of a report; infinite for an unreadable line, which is removed like later ones."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf
