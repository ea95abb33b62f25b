"""What the driver of a sweep costs: segments of ten reports through real Ray actors that do
nothing, on more slots than this machine has CPUs.

Driver time is the CPU time of the driver's process, all its threads: the actors share this
machine's cores with it, which they would not in a cluster, so the wall clock says little.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import next_job
from benchmarks.measuring.rows import Row, main, row
from benchmarks.next_job import COLUMNS, RUNGS, three_keys
from ray_jobs.engine.trial import SweepContext
from search.jobs import Job
from search.objectives import Values
from search.simulator import simulate

SLOTS = int(os.environ.get("DRIVER_COST_SLOTS", "64"))
SEGMENTS = int(os.environ.get("DRIVER_COST_SEGMENTS", "1000"))
"""Of the first figure; ten times as many for the last."""

REPORTS = 10
START_SECONDS = 600.0
"""In which the processes of all slots are expected to have started."""

PEER = "a bare Tune function with as many trials and reports"


def measure() -> Iterator[Row]:
    """A first part of the segments is not counted: processes start, modules are imported."""
    few, many = _decision_ms(SEGMENTS)
    yield row(f"driver/decisions_{SEGMENTS}", few, "ms", "none", None)
    yield row(f"driver/decisions_{SEGMENTS * 10}", many, "ms", f"segment {SEGMENTS}", few)
    with _cluster() as folder:
        peer = _Meter(warm=SLOTS)
        _bare(folder, SEGMENTS + SLOTS, peer)
        ours = _Meter(warm=SLOTS)
        _sweep(folder, SEGMENTS * 10 + SLOTS, ours)
    few, many = ours.per_segment(0, SEGMENTS), ours.per_segment(SEGMENTS * 9, SEGMENTS * 10)
    yield row(f"driver/per_segment_{SEGMENTS}", few, "s", PEER, peer.per_segment(0, SEGMENTS))
    yield row(f"driver/wall_{SEGMENTS}", ours.wall(SEGMENTS), "s", PEER, peer.wall(SEGMENTS))
    name = f"driver/linear_{SEGMENTS * 10}"
    yield row(name, many, "s", f"the first {SEGMENTS} segments", few)
    grown = (ours.mib[SEGMENTS * 10 - 1] - ours.mib[SEGMENTS - 1]) / (SEGMENTS * 9) * 1024.0
    peer_grown = (peer.mib[SEGMENTS - 1] - peer.mib[0]) / (SEGMENTS - 1) * 1024.0
    yield row("driver/memory", grown, "KiB a segment", PEER, peer_grown)
    yield row("driver/resident", ours.mib[-1], "MiB", "none", None)
    yield from next_job.measure()


class _Meter:
    """The driver's process at the end of every segment, but the first `warm`."""

    def __init__(self, warm: int) -> None:
        import psutil

        self.process, self.warm = psutil.Process(), warm
        self.cpu: list[float] = []
        self.clock: list[float] = []
        self.mib: list[float] = []

    def ended(self) -> None:
        if self.warm > 0:
            self.warm -= 1
            return
        self.cpu.append(time.process_time())
        self.clock.append(time.perf_counter())
        self.mib.append(self.process.memory_info().rss / 2**20)

    def per_segment(self, begin: int, end: int) -> float:
        last = min(end, len(self.cpu)) - 1
        return (self.cpu[last] - self.cpu[begin]) / (last - begin)

    def wall(self, count: int) -> float:
        last = min(count, len(self.clock)) - 1
        return (self.clock[last] - self.clock[0]) / last


bare_meters: list[_Meter] = []


@contextmanager
def _cluster() -> Iterator[Path]:
    """Slots that are a number only: nothing runs in them."""
    from ray_jobs.engine.cluster import VARIABLES

    os.environ.update(VARIABLES, TUNE_MAX_PENDING_TRIALS_PG=str(SLOTS))
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    import ray

    with tempfile.TemporaryDirectory(prefix="wb-") as folder:
        ray.init(
            address="local",
            num_cpus=SLOTS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield Path(folder)
        finally:
            ray.shutdown()


def _bare(folder: Path, trials: int, meter: _Meter) -> None:
    """Ray alone: no searcher, no log, no decisions."""
    from ray import tune

    class Ends(tune.Callback):
        """Tune pickles it, so it holds nothing."""

        def on_trial_complete(
            self, iteration: int, trials: list, trial: object, **info: object
        ) -> None:
            import_module("benchmarks.driver_cost").bare_meters[-1].ended()

    bare_meters.append(meter)

    def idle(config: dict[str, Any]) -> None:
        _wait_for_all(folder / "bare-alive")
        for step in range(1, REPORTS + 1):
            tune.report({"step": step, "value": config["x"] / step})

    tune.Tuner(
        tune.with_resources(idle, {"CPU": 1}),
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(
            name="bare", storage_path=str(folder), verbose=0, callbacks=[Ends()]
        ),
    ).fit()


def _sweep(folder: Path, segments: int, meter: _Meter) -> None:
    """Our own driver with the default scheduler and sampler, log and mirror included."""
    from ray_jobs.engine import execute
    from ray_jobs.engine.driver import Driver, open_log
    from ray_jobs.engine.mirror_thread import MirrorThread
    from search.optuna.mirror import Mirror

    plan, directory = three_keys(trials=10 * segments), folder / "sweep"
    directory.mkdir()
    context = SweepContext(
        system="none",
        settings={},
        directory=str(directory),
        cache=str(folder),
        session="bench",
        objective=(COLUMNS[0], "min"),
        columns=plan.goal.columns,
        workers=1,
        cpus=1.0,
        gpus=0.0,
    )

    class Metered(Driver):
        def ended(self, ray_id: str, *, failed: bool) -> None:
            super().ended(ray_id, failed=failed)
            meter.ended()
            if len(meter.cpu) >= segments - SLOTS:
                self.stopping = "enough"

    mirror = MirrorThread(Mirror(directory / "journal.log", plan, "bench"), print, print)
    driver = Metered(
        plan=plan,
        context=context,
        log=open_log(directory, print),
        mirror=mirror,
        max_concurrent=SLOTS,
        preflight=lambda sampled: [],
    )
    execute.carry_out(driver, _idle)
    mirror.close(600.0)
    failed = [t for t in driver.state.trials.values() if t.status == "failed"]
    if failed:
        sys.exit(f"{len(failed)} segments failed: {failed[0].reason}")


def _idle(config: dict[str, Any], context: SweepContext) -> None:
    """A segment of ten reports up to its end, from the rung before where it goes on."""
    from ray import tune

    job = config["job"]
    _wait_for_all(Path(context.directory) / "alive")
    begin = max((rung for rung in RUNGS if rung < job["stop_step"]), default=0)
    begin = begin if job["resume"] else 0
    for index in range(1, REPORTS + 1):
        step = begin + (job["stop_step"] - begin) * index // REPORTS
        value = _observe(config, job["trial"], step)[COLUMNS[0]]
        tune.report(
            {
                "step": step,
                "seconds": 0.0,
                "segment_seconds": 0.0,
                "value": value,
                "values": {COLUMNS[0]: value},
            }
        )


def _wait_for_all(folder: Path) -> None:
    """Until every slot has its process. A trial that ends sooner would hand its own process on,
    and the one that was being started for the next trial would be thrown away: for ever, where
    starting one takes longer than a trial.
    """
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + START_SECONDS
    while len(os.listdir(folder)) < SLOTS and time.monotonic() < deadline:
        time.sleep(0.2)


class _EnoughError(Exception):
    """Ends a simulation."""


def _decision_ms(segments: int) -> tuple[float, float]:
    """CPU time of the decisions alone for a segment, without Ray, the log's file and the mirror:
    in the middle of the first `segments` and over as many at the end of ten times as many.
    """
    plan, ends = three_keys(trials=100 * segments), []

    def observe(job: Job, step: int) -> Values:
        if step == job.stop_step:
            ends.append(time.process_time())
            if len(ends) == 10 * segments:
                raise _EnoughError
        return _observe(job.sampled, job.trial, step)

    with suppress(_EnoughError):
        simulate(plan, observe, workers=SLOTS)
    early = ends[segments * 3 // 4] - ends[segments // 4]
    late = ends[-1] - ends[-segments - 1]
    return 1000.0 * early / (segments * 3 // 4 - segments // 4), 1000.0 * late / segments


def _observe(sampled: Mapping[str, Any], trial: int, step: int) -> Values:
    """Better near the middle and with more steps, and a little noise."""
    noise = random.Random(f"{trial} {step}").random()
    return {COLUMNS[0]: (sampled["x"] - 0.3) ** 2 + (sampled["y"] - 0.7) ** 2 + noise / step}


if __name__ == "__main__":
    # Actors import it by this name: what they need may not live in __main__.
    main(import_module("benchmarks.driver_cost").measure, __doc__)
