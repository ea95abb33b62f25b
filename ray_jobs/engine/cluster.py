"""The cluster of a sweep: connecting to it, and checks before the first trial starts."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings.schema import SettingsError

VARIABLES = {
    # The trial writes its own reports; Tune's loggers halve the rate.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours stops cleanly and prints the resume line
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's own state is scratch
    # A stopped trial may take this long before its process is replaced.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
    # Each trial of a reused process runs in a thread of its own; glibc gives each thread a heap
    # that it does not give back (benchmarks.actor_memory: 7.8 % more over 25 trials without).
    "MALLOC_ARENA_MAX": "2",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    # Long enough for a node to start, or for many packages to be installed.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A process for each worker group, for whoever asks `ray.train.get_preemption_info`. Nobody
    # does: nodes.py asks the cluster itself once a segment has failed.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@dataclass(frozen=True)
class Demand:
    """Resources of one trial: `workers` times (cpus, gpus)."""

    workers: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} x ({self.cpus:g} CPU{gpus})"


def target_of(address: str | None) -> str:
    """The address of the cluster to connect to, or "local" to start one on this machine."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def connect(address: str | None, project: Path) -> dict[str, Any]:
    """Joins the cluster at `address`, or that of the submitted job which this process is part of,
    or starts one on this machine.

    Returns ray's own context (address, dashboard). A cluster started here ends with this process.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return dict(ray.get_runtime_context().get())
    target = target_of(address)
    options: dict[str, Any] = {
        "address": target,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    path = os.pathsep.join(filter(None, [str(project), os.environ.get("PYTHONPATH", "")]))
    if target == "local":
        # Its processes inherit ours; a runtime environment would cost seconds.
        os.environ["PYTHONPATH"] = path
        options["include_dashboard"] = False
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # a submitted job brings its own directory
        options["runtime_env"] = {"env_vars": VARIABLES}
    else:
        options["runtime_env"] = {"env_vars": {**VARIABLES, "PYTHONPATH": path}}
    context: Any = ray.init(**options)
    return dict(context.address_info)


def check_fit(demand: Demand, *, may_grow: bool) -> int:
    """The number of trials that the cluster has room for at once.

    Raises:
        SettingsError: there is no room for a single one; the message has the numbers and the way
            out.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = sum(workers_on(node, demand) for node in nodes)
    if slots >= demand.workers:
        return slots // demand.workers
    if may_grow:
        return 1
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    raise SettingsError(
        f"a trial needs {demand}, and this cluster has {total['CPU']:g} CPU and {total['GPU']:g} "
        f"GPU on {len(nodes)} node(s), room for {slots} of its {demand.workers} worker(s): it "
        "would wait for ever. Lower --workers, --cpus or --gpus; for a cluster that grows add "
        "--autoscaling."
    )


def workers_on(node: Mapping[str, float], demand: Demand) -> int:
    """The number of workers that a node has room for, by its "CPU" and "GPU"."""
    rooms = [int(node.get("CPU", 0.0) / demand.cpus)] if demand.cpus else []
    if demand.gpus:
        rooms.append(int(node.get("GPU", 0.0) / demand.gpus))
    return min(rooms) if rooms else demand.workers


def check_shared_directory(directory: Path) -> None:
    """Checks that every node of the cluster sees the sweep directory.

    Raises:
        SettingsError: a node does not see a file that this process has written there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    probe = directory / f".probe-{uuid.uuid4().hex}"
    probe.write_text(probe.name)

    @ray.remote(num_cpus=0)
    def sees(path: str) -> bool:
        return os.path.exists(path)

    try:
        for node in nodes:
            where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            if not ray.get(sees.options(scheduling_strategy=where).remote(str(probe))):
                raise SettingsError(
                    f"node {node['NodeManagerAddress']} does not see {directory}: reports and "
                    "checkpoints of its trials would be lost. Put --dir on storage that all nodes "
                    "mount."
                )
    finally:
        probe.unlink(missing_ok=True)
