"""How many reports a second reach the disk: 60 trials x 500 reports into our store, against Tune
with its loggers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring.commands import scratch
from benchmarks.measuring.rows import Row, main, row
from results.store import ReportWriter
from settings.paths import SweepPaths

TRIALS, REPORTS = 60, 500
PEER_TRIALS = 12


def measure() -> Iterator[Row]:
    """The peer runs fewer trials of the same length; its rate does not depend on their number."""
    with scratch() as folder:
        ours = _ours(folder / "ours")
        peer = _tune(folder / "tune")
    name = "reports/per_second"
    yield row(name, ours, "1/s", "Tune with its own loggers", peer, higher_is_better=True)


def _report(step: int) -> dict[str, float]:
    return {
        "step": step,
        "seconds": 0.1 * step,
        **{f"val.metric_{i}": step / (i + 1) for i in range(8)},
    }


def _ours(folder: Path) -> float:
    began = time.perf_counter()
    for trial in range(TRIALS):
        with ReportWriter(SweepPaths(folder).reports_of(trial)) as writer:
            for step in range(REPORTS):
                writer.append(_report(step))
    return TRIALS * REPORTS / (time.perf_counter() - began)


def _tune(folder: Path) -> float:
    import ray
    from ray import tune

    def trial(config: dict[str, Any]) -> None:
        for step in range(REPORTS):
            tune.report(_report(step))

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # a banner on stdout, where the rows go
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=40,
    )
    tuner = tune.Tuner(
        trial,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=PEER_TRIALS, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    )
    began = time.perf_counter()
    tuner.fit()
    seconds = time.perf_counter() - began
    ray.shutdown()
    return PEER_TRIALS * REPORTS / seconds


if __name__ == "__main__":
    main(measure, __doc__)
