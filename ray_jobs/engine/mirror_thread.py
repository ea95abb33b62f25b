"""A thread for the Optuna mirror, which must hold up neither the start of a sweep nor Tune's loop.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

PATIENCE_SECONDS = 60.0
"""How long the end of a sweep waits for what is still to be written; a database may be gone."""

TELL_SECONDS = 2.0
"""A wait longer than this is told: somebody has pressed Ctrl-C and looks on."""

GATHER_SECONDS = 0.5
"""Events of this time are handed on together: a short trial is written once, not at each of its
events.
"""


class Written(Protocol):
    """What the thread writes, such as `search.optuna.mirror.Mirror`."""

    def open(self) -> None: ...

    def follow(self, *events: Mapping[str, Any]) -> None: ...

    def leave(self) -> None: ...


class MirrorThread:
    """Opens a mirror and follows a sweep in a thread of its own, in the order of the events; those
    that come while it is being opened wait.

    A mirror waits for a disk or a database several times an event, and to open it on a sweep that
    goes on is to write all its trials: 6 s for 2,000. No decision depends on it. When the process
    is killed it lacks the last events; the next resume makes it anew.

    Args:
        mirror: not yet open.
        tell: told that the end waits.
        warn: told how much was given up at the end.
    """

    def __init__(
        self, mirror: Written, tell: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self._mirror, self._tell, self._warn = mirror, tell, warn
        self._closing, self._opened = threading.Event(), False
        self._events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def follow(self, event: Mapping[str, Any]) -> None:
        """Hands an event over, and returns at once."""
        self._events.put(event)

    def close(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until all events are written, at most for `patience_seconds`; then, or when a
        Ctrl-C ends the wait, nothing more is written.
        """
        self._closing.set()
        self._events.put(None)
        try:
            self._thread.join(min(TELL_SECONDS, patience_seconds))
            if self._thread.is_alive() and patience_seconds > TELL_SECONDS:
                self._tell(
                    f"waiting for Optuna's mirror, {patience_seconds:g} s at most. Ctrl-C leaves "
                    "it; the log has everything, and a resume writes it there."
                )
                self._thread.join(patience_seconds - TELL_SECONDS)
        finally:
            if self._thread.is_alive():
                self._mirror.leave()
        if self._thread.is_alive():
            lacks = f"lacks the last {self._events.qsize()} events" if self._opened else "is old"
            self._warn(
                f"Optuna's mirror {lacks}: its storage takes more than {patience_seconds:g} s. "
                "The log has all events; a resume writes them there."
            )

    def _run(self) -> None:
        self._mirror.open()
        self._opened = True
        while (first := self._events.get()) is not None:
            self._closing.wait(GATHER_SECONDS)
            events: list[Mapping[str, Any] | None] = [first]
            while not self._events.empty():
                events.append(self._events.get())
            self._mirror.follow(*(event for event in events if event is not None))
            if events[-1] is None:
                return
