"""A thread that deletes the checkpoints that `--keep-checkpoints` keeps no longer: gigabytes on
shared storage take seconds, and must not hold up Tune's loop.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ray_jobs.engine.driver import Driver
from search.options import ALL, Retention
from search.retention import Kept, kept_of
from trainables.run import SupersededError

PATIENCE_SECONDS = 300.0
"""How long the end of a sweep waits for what is still to be deleted."""


class RetentionThread:
    """Deletes checkpoints as the driver's log allows it.

    What goes follows from the plan and the log, and is on disk in the log before anything is
    deleted. So when the process is killed, the next resume deletes the rest.

    Args:
        rule: what `--keep-checkpoints` says.
        driver: of the sweep.
        warn: told what could not be deleted.
    """

    def __init__(self, rule: Retention, driver: Driver, warn: Callable[[str], None]) -> None:
        self._rule, self._driver, self._warn = rule, driver, warn
        self._seen: tuple[int, bool] | None = None
        self._ordered: dict[int, tuple[int, Kept]] = {}
        self._orders: queue.SimpleQueue[tuple[int, Kept] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Hands over what the trials need no longer, and returns at once. Called in the driver's
        thread when its log is on disk.
        """
        state = self._driver.state
        now = (len(state.changes), state.finished)
        if self._rule.kind == ALL or now == self._seen:
            return
        self._seen = now
        for number, kept in kept_of(self._rule, self._driver.plan, state).items():
            order = (state.trials[number].segment, kept)
            if self._ordered.get(number) != order:
                self._ordered[number] = order
                self._orders.put((number, kept))
        if self._thread is None and not self._orders.empty():
            self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
            self._thread.start()

    def close(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Looks once more, and waits until all is deleted, at most for `patience_seconds`."""
        self.look()
        self._orders.put(None)
        if self._thread is None:
            return
        self._thread.join(patience_seconds)
        if self._thread.is_alive():
            self._warn(
                f"--keep-checkpoints {self._rule}: the checkpoints of {self._orders.qsize()} "
                f"trials are not deleted yet, for it takes more than {patience_seconds:g} s. A "
                "resume deletes them, and trains nothing again."
            )

    def _run(self) -> None:
        from trainables.checkpoints.removal import trim

        rule, paths = f"--keep-checkpoints {self._rule}", self._driver.context.paths
        has_told = False
        while (order := self._orders.get()) is not None:
            number, kept = order
            try:
                if not self._driver.still_owner():
                    raise SupersededError("another process has taken this sweep over")
                trim(paths.trial(number).checkpoints, kept, rule)
            except SupersededError as error:
                self._warn(f"{rule}: this process deletes no checkpoint any more ({error}).")
                return
            except OSError as error:
                if not has_told:
                    self._warn(
                        f"{rule}: a checkpoint could not be deleted ({error}). A resume deletes "
                        "it."
                    )
                has_told = True
