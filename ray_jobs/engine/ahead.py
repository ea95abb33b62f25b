"""What is done while something else has to be waited for.

A cluster on this machine takes seconds to start, most of them spent waiting, and so does each of
its processes until it has imported torch. So the cluster starts beside the command's own
preparations, and its processes import what every trial needs before the first trial asks for it.
"""

from __future__ import annotations

import importlib
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ray_jobs.engine import cluster


class ClusterAhead:
    """A cluster that is being reached in a thread.

    Args:
        address: as for `cluster.connect`; only a cluster started here is warmed up.
        system: whose modules the processes import.
    """

    def __init__(
        self, address: str | None, project: Path, system: str, demand: cluster.Demand
    ) -> None:
        import ray  # noqa: F401 - not in the thread: both would import parts of it at once

        self.ours = cluster.target_of(address) == "local"
        self.system, self.demand = system, demand
        self._reached: Future = Future()
        threading.Thread(
            target=self._live, args=(address, project), name="cluster", daemon=True
        ).start()

    def _live(self, address: str | None, project: Path) -> None:
        """Ends with the process: Ray's own processes end with the thread that started them."""
        try:
            self._reached.set_result(self._reach(address, project))
        except BaseException as error:
            self._reached.set_exception(error)
        threading.Event().wait()

    def info(self) -> dict[str, Any]:
        """Ray's own context, once the cluster is there; raises what connecting raised."""
        return self._reached.result()

    def _reach(self, address: str | None, project: Path) -> dict[str, Any]:
        info = cluster.connect(address, project)
        if self.ours and self.demand.workers == 1:
            self._warm_up()
        return info

    def _warm_up(self) -> None:
        """One task for each trial that fits at once: the trials' actors are given its process."""
        import ray

        total = ray.cluster_resources().get("CPU", 0.0)
        if not 0 < self.demand.cpus <= total:
            return
        task = ray.remote(num_cpus=self.demand.cpus, max_retries=0)(import_for_trials)
        for _ in range(int(total / self.demand.cpus)):
            task.remote(self.system)


def import_for_trials(system: str) -> None:
    """What a trial imports before its first step; whatever fails here fails in the trial, where
    it is reported.
    """
    from trainables.system import load_system

    for name in _IMPORTED:
        importlib.import_module(name)
    load_system(system)


_IMPORTED = (
    "ray.tune",
    "ray.train.torch",
    "torch._dynamo",  # every optimizer imports it
    "tensorboardX",
    "ray_jobs.engine.trial",
    "trainables.loop",
)
