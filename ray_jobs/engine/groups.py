"""Worker groups of Ray Train that release all their resources at their end.

Ray Train reserves a group's workers in a placement group that the trial's actor does not own, so a
trial that a scheduler stops leaves it behind (ray#54305), and Ray's cleaner notices that only with
the API server. Each group is therefore marked and removed here: the mark is an unusual amount of
memory in its bundles, which `placement_group_table` shows without an API server.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK_BASE_BYTES = 1 << 20
_MARK_RANGE_BYTES = 1 << 26

LEFT_OUT = ("PlacementGroupCleanerCallback", "DatasetsCallback")
"""Callbacks of Ray Train 2.60 that start a process each: the cleaner, of 600 MB, which never ends
without an API server, and the manager of a Ray dataset, of which a trial has none.
"""


def mark_of(session: str, trial: int, segment: int) -> int:
    """The memory, in bytes, that each worker of a segment reserves, unlike any other group's."""
    digest = hashlib.sha256(f"{session}/{trial}/{segment}".encode()).digest()
    return MARK_BASE_BYTES + int.from_bytes(digest[:8], "big") % _MARK_RANGE_BYTES


def release(mark: int) -> int:
    """Removes every placement group with the mark, whose workers end with it. Returns their
    number.
    """
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import (
        PlacementGroup,
        placement_group_table,
        remove_placement_group,
    )

    removed = 0
    for key, group in placement_group_table().items():
        bundles = group["bundles"].values()
        if group["state"] == "REMOVED" or not bundles:
            continue
        if all(int(bundle.get("memory", 0)) == mark for bundle in bundles):
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))
            removed += 1
    return removed


@dataclass(frozen=True)
class Group:
    """Resources and names of a worker group that is to be started.

    Attributes:
        name: of the run, in Ray's own files.
        workers: number of workers, two or more.
        cpus, gpus: of each worker.
        mark: from `mark_of`.
        scratch: the folder that Ray Train writes its own files to.
    """

    name: str
    workers: int
    cpus: float
    gpus: float
    mark: int
    scratch: Path

    @property
    def resources(self) -> dict[str, float]:
        """Resources of each worker, by Ray's names."""
        gpus = {"GPU": self.gpus} if self.gpus else {}
        return {"CPU": self.cpus, "memory": self.mark, **gpus}


def local_trainer(loop: Callable[[dict], Any], config: dict) -> Any:
    """A TorchTrainer that runs `loop(config)` in this process."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    # "Running in local mode ... please file a report": it is what we mean.
    logging.getLogger("ray.train.v2.api.config").setLevel(logging.WARNING)
    return TorchTrainer(
        loop, train_loop_config=config, scaling_config=ScalingConfig(num_workers=0)
    )


def group_trainer(loop: Callable[[dict], Any], config: dict, group: Group) -> Any:
    """A TorchTrainer that runs `loop(config)` on every rank of a worker group."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class GroupTrainer(TorchTrainer):
        """A trainer without two processes that Ray 2.60 starts for each run (LEFT_OUT)."""

        def _create_default_callbacks(self) -> list:  # Ray has no public way
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [c for c in callbacks if type(c).__name__ not in LEFT_OUT]

    scaling = ScalingConfig(
        num_workers=group.workers, use_gpu=group.gpus > 0, resources_per_worker=group.resources
    )
    run = RunConfig(
        name=group.name,
        storage_path=str(group.scratch),
        # Whatever ends a group is the driver's to see: it hands out the next segment.
        failure_config=FailureConfig(
            max_failures=0,
            max_preemption_failures=0,  # type: ignore[call-arg]  # Ray Train's own, unlike Tune's
        ),
    )
    return GroupTrainer(loop, train_loop_config=config, scaling_config=scaling, run_config=run)


def fit_group(trainer: Any, mark: int, watch: Callable[[], None] | None = None) -> None:
    """Runs a worker group to its end, and releases its resources whatever ends it. The group's own
    error is raised.

    Args:
        watch: called again and again while the group runs, to pass its reports on; it may leave by
            SystemExit (Tune's way to stop a trial), which ends the group.
    """
    try:
        if watch is None:
            trainer.fit()
        else:
            _fit_watched(trainer, watch)
    finally:
        # Whatever Ray says of a clean-up, the error of the training itself is the one to raise.
        with contextlib.suppress(Exception):
            release_until_gone(mark)


def _fit_watched(trainer: Any, watch: Callable[[], None], interval_seconds: float = 0.2) -> None:
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised again by the thread that waits for this one
            errors.append(error)

    thread = threading.Thread(target=fit, name="worker-group", daemon=True)
    thread.start()
    while thread.is_alive():
        watch()
        thread.join(interval_seconds)
    watch()
    if errors:
        raise errors[0]


def release_until_gone(mark: int, attempts: int = 3) -> None:
    """Releases the groups of a mark, again and again, for some may have been in the making."""
    for attempt in range(attempts):
        if release(mark) == 0 and attempt > 0:
            return
        time.sleep(0.1)
