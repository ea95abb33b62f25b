"""The nodes of a segment, and whether it has lost one. A trial that ends with its node is
preempted and has not failed, unless it loses one node after another (`search.decider.LOSSES`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTICE_SECONDS = 2.0
"""How long a node may take to go after its trial has failed: the processes of a machine that shuts
down end one after another, and a rank that lost its peer fails before Ray misses the node.
"""

_ANSWER_SECONDS = 1.0
_INTERVAL_SECONDS = 0.2


@dataclass(frozen=True)
class Loss:
    """The node of a segment is gone, or is about to go.

    Attributes:
        reason: which node.
        announced: whether the node has said so before, as at a spot warning; then no trial is the
            cause.
        advice: what to look at where one trial loses node after node.
    """

    reason: str
    announced: bool = False
    advice: str = "The trial may be the cause: does it take all memory of its node?"


STORAGE = Loss(
    "its node has lost the sweep's directory",
    advice="Does that node still mount the storage of --dir?",
)
"""A process on the node could not read the sweep's lock for some seconds
(`trainables.run.UnreadableLockError`), while the driver can: no fault of the trial's.
"""


def note(folder: Path, segment: int, part: str = "trial") -> None:
    """Writes down on which node a process of a segment runs; each begins with this.

    Args:
        folder: of the trial.
        part: which process of the segment.
    """
    import ray

    file = folder / "nodes" / part
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{segment} {ray.get_runtime_context().get_node_id()}\n")


def noted(folder: Path, segment: int) -> set[str]:
    """The ids of the nodes of a segment's processes; none where it has not begun."""
    node_ids = set()
    for file in (folder / "nodes").glob("*"):
        words = file.read_text().split()
        if len(words) == 2 and words[0] == str(segment):
            node_ids.add(words[1])
    return node_ids


def lost(folder: Path, segment: int, patience_seconds: float = 0.0) -> Loss | None:
    """The node that a failed segment has lost; None where all its nodes are there."""
    where = noted(folder, segment)
    if not where:
        return None
    end = time.monotonic() + patience_seconds
    while not (loss := _lost_among(where)) and time.monotonic() < end:
        time.sleep(_INTERVAL_SECONDS)
    return loss


def _lost_among(where: set[str]) -> Loss | None:
    """The first loss among nodes. Ray counts a node as dead only after five health checks, three
    seconds apart, so the node's own agent is asked.
    """
    import ray
    from ray._private.state import state  # Ray has no public list of the nodes that drain

    # Announced losses first: a node that drains soon stops answering as well.
    for node in sorted(where & state.get_draining_nodes().keys()):
        return Loss(f"node {node[:12]} is being taken away", announced=True)
    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    for node in sorted(where):
        if node not in alive or not _answers(alive[node]):
            return Loss(f"node {node[:12]} is gone")
    return None


def _answers(node: Mapping[str, Any]) -> bool:
    address = (node["NodeManagerAddress"], node["NodeManagerPort"])
    try:
        with socket.create_connection(address, timeout=_ANSWER_SECONDS):
            return True
    except OSError:
        return False


def await_loss(folder: Path, segment: int) -> None:
    """Waits until the loss of a node shows, if ranks of the failed group run on other nodes.

    The trial's own process does so before it passes the failure on, for the driver must not wait
    so long: it then sees the loss at once.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    if noted(folder, segment) - {here}:
        lost(folder, segment, 5 * NOTICE_SECONDS)
