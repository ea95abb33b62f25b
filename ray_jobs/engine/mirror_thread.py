"""A thread for the Optuna mirror, which must not hold up Tune's loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

PATIENCE_SECONDS = 60.0
"""How long the end of a sweep waits for what is still to be written; a database may be gone."""


GATHER_SECONDS = 0.5
"""Events of this time are handed on together: a short trial is written once, not at each of its
events.
"""


class MirrorThread:
    """Follows a sweep in a thread of its own, in the order of the events.

    A mirror waits for a disk or a database several times an event, and no decision depends on it.
    When the process is killed it lacks the last events; the next resume makes it anew.

    Args:
        follow: takes the next events.
        tell: told how much was given up at the end.
    """

    def __init__(self, follow: Callable[..., None], tell: Callable[[str], None]) -> None:
        self._follow, self._tell = follow, tell
        self._closing = threading.Event()
        self._events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def follow(self, event: Mapping[str, Any]) -> None:
        """Hands an event over, and returns at once."""
        self._events.put(event)

    def close(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until all events are written, at most for `patience_seconds`."""
        self._closing.set()
        self._events.put(None)
        self._thread.join(patience_seconds)
        if self._thread.is_alive():
            self._tell(
                f"Optuna's mirror lacks the last {self._events.qsize()} events: its storage takes "
                f"more than {patience_seconds:g} s. The log has them; a resume writes them there."
            )

    def _run(self) -> None:
        while (first := self._events.get()) is not None:
            self._closing.wait(GATHER_SECONDS)
            events: list[Mapping[str, Any] | None] = [first]
            while not self._events.empty():
                events.append(self._events.get())
            self._follow(*(event for event in events if event is not None))
            if events[-1] is None:
                return
