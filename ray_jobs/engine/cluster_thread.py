"""Reaches the cluster in a thread, while the command makes its own preparations.

A cluster on this machine takes seconds to start, most of them spent waiting. (Its processes cannot
be warmed up: Ray 2.60 gives an actor a new process, also where idle ones have imported all that it
needs.)
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ray_jobs.engine import cluster


class ClusterThread:
    """A cluster to which a thread connects; arguments as for `cluster.connect`."""

    def __init__(self, address: str | None, project: Path) -> None:
        import ray  # noqa: F401 - not in the thread: both would import parts of it at once

        self._reached: Future = Future()
        threading.Thread(
            target=self._live, args=(address, project), name="cluster", daemon=True
        ).start()

    def info(self) -> dict[str, Any]:
        """Ray's context, once the cluster is connected; raises what connecting raised."""
        return self._reached.result()

    def _live(self, address: str | None, project: Path) -> None:
        """Runs until the process ends, for Ray's own processes end with the thread that started
        them.
        """
        # They inherit the mask: SIGHUP of a closed terminal must reach the driver alone, which
        # then stops the sweep.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self._reached.set_result(cluster.connect(address, project))
        except BaseException as error:  # SystemExit too: `info` would wait for ever without it
            self._reached.set_exception(error)
        threading.Event().wait()
