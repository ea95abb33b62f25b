"""Runs a sweep whose request is legal: lock, cluster, Tune's loop, and how many trials failed."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.engine import cluster, nodes
from ray_jobs.engine.cluster_thread import ClusterThread
from ray_jobs.engine.driver import Driver, open_log
from ray_jobs.engine.looks import look_at_the_winner
from ray_jobs.engine.mirror_thread import MirrorThread
from ray_jobs.engine.preflight import Preflight
from ray_jobs.engine.retention_thread import RetentionThread
from ray_jobs.engine.trial import SweepContext, prepare_once, run_segment
from ray_jobs.sweeping.planning import SweepSetup
from ray_jobs.verb import tell_data
from results.lock import take_lock
from search.failing import limits_of
from search.log import SweepState
from search.options import RUNGS, Retention
from search.optuna.mirror import Mirror
from search.plan import JOURNAL, POPULATIONS
from search_spaces.space import leading
from settings.paths import SweepPaths
from settings.warning import warn
from trainables.reporting.measure import check_has_test, check_trainable
from trainables.run import owner_check

SYNC_SECONDS = 1.0
"""A crash of the machine loses the reports of this time at most."""

WAITING_FOR_NODES = 8
"""Trials that may wait for nodes of a cluster that grows, beyond what fits already."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how a sweep runs, none of which changes its decisions.

    Attributes:
        directory: of the sweep, absolute.
        write: writes `sweep.json` once the sweep may start; called under the lock.
        max_concurrent: number of segments at a time; None for as many as fit.
        time_budget_seconds: time after which the sweep stops as by Ctrl-C; None for no limit.
        may_grow: whether the cluster starts nodes on demand.
    """

    directory: Path
    write: Callable[[], None]
    cache: Path
    project: Path
    address: str | None = None
    max_concurrent: int | None = None
    time_budget_seconds: float | None = None
    may_grow: bool = False


def run(setup: SweepSetup, execution: Execution, watch: Callable[[Driver], Any]) -> Driver:
    """Runs the sweep until it is done or stopped; the driver's `state` says how every trial ended.

    Nothing of the sweep is on disk before every check that can refuse it has passed.

    Args:
        watch: makes an object with `tick()` and `close()` that shows the progress.
    """
    directory = execution.directory
    directory.mkdir(parents=True, exist_ok=True)
    lock = take_lock(directory, _tell)
    if lock.stale:
        warn(f"took over the lock of {lock.stale}, which no longer runs")
    try:
        options = setup.options
        demand = cluster.Demand(workers=options.workers, cpus=options.cpus, gpus=options.gpus)
        ahead = ClusterThread(execution.address, execution.project)
        import ray.tune  # noqa: F401 - seconds, while the cluster starts

        system, settings = setup.configured.system, setup.configured.settings
        prepared = prepare_once(system, settings, execution.cache)
        slots = _check_cluster(ahead.info(), demand, execution)
        loaders = system.loaders(settings, prepared)
        check_trainable(loaders)
        if options.test:
            check_has_test(options.system, loaders, "--test")
        tell_data(loaders)
        execution.write()
        driver, mirror = _make_driver(setup, execution, lock.session, prepared)
        driver.max_concurrent = execution.max_concurrent or slots
        rule = Retention.parse(options.keep_checkpoints)
        retention = RetentionThread(rule, driver, warn)
        try:
            with _stop_on_signals(driver):
                _run_tune(driver, execution, watch, retention)
                if not driver.stopping:
                    driver.decider.record("finished")
                    retention.close()
                    look_at_the_winner(driver, setup.options.test)
        finally:
            mirror.close()
        return driver
    finally:
        lock.release()


def _check_cluster(info: dict[str, Any], demand: cluster.Demand, execution: Execution) -> int:
    """The number of trials that may run at once on the connected cluster."""
    if demand.workers > 1 and info.get("gcs_address"):
        # With a second cluster on this host a group would turn to that one (ray#65447).
        os.environ.setdefault("RAY_ADDRESS", info["gcs_address"])
    slots = cluster.check_fit(demand, may_grow=execution.may_grow)
    cluster.check_shared_directory(execution.directory)
    return max(slots, WAITING_FOR_NODES) if execution.may_grow else slots


def _make_driver(
    setup: SweepSetup, execution: Execution, session: str, prepared: Any
) -> tuple[Driver, MirrorThread]:
    directory = execution.directory
    log = open_log(directory, warn)
    options, first = setup.options, leading(setup.plan.points)
    context = SweepContext(
        system=options.system,
        settings=dict(setup.document["settings"]),
        directory=str(directory),
        cache=str(execution.cache),
        session=session,
        objective=(setup.plan.metric, setup.plan.mode),
        columns=setup.plan.goal.columns,
        derived=tuple(setup.document["derived"]),
        workers=options.workers,
        cpus=options.cpus,
        gpus=options.gpus,
        lends_checkpoints=setup.plan.scheduler in POPULATIONS,
        rungs=setup.plan.rungs,
        document=dict(first.sampled) if first else {},
        keeps_rungs=options.keep_checkpoints == RUNGS,
    )
    name = "resumed" if log.path.stat().st_size else "started"
    log.append(
        name,
        session=session,
        host=os.uname().nodename,
        pid=os.getpid(),
        limits=limits_of(setup.plan),
    )
    events = log.read()
    optuna_mirror = Mirror(
        SweepPaths(directory).journal if options.storage == JOURNAL else options.storage,
        setup.plan,
        directory.name,
        events,
        identity=f"{directory.name} {setup.document['created']}",
    )
    mirror = MirrorThread(optuna_mirror, _tell, warn)
    driver = Driver(
        plan=setup.plan,
        context=context,
        log=log,
        events=events,
        mirror=mirror,
        max_concurrent=1,
        preflight=Preflight(setup.configured, prepared),
        still_owner=owner_check(SweepPaths(directory).lock, session),
        lost_node=lambda job, seconds: nodes.lost(
            context.paths.trial(job.trial).root, job.segment, seconds
        ),
    )
    return driver, mirror


def _run_tune(
    driver: Driver,
    execution: Execution,
    watch: Callable[[Driver], Any],
    retention: RetentionThread,
) -> None:
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(driver.max_concurrent)
    progress = watch(driver)
    deadline = _deadline(execution.time_budget_seconds)
    synced = 0.0

    def tick() -> None:
        nonlocal synced
        progress.tick()
        now = time.monotonic()
        if now - synced > SYNC_SECONDS:
            synced = now
            driver.log.sync()
            retention.look()
        if deadline is not None and now > deadline and not driver.stopping:
            driver.stopping = f"time budget of {execution.time_budget_seconds:g} s"
        if driver.stopping:
            driver.interrupt()

    try:
        driver.tick = tick
        carry_out(driver)
    finally:
        progress.close()
        driver.interrupt()
        driver.close()


def carry_out(
    driver: Driver, run: Callable[[dict[str, Any], SweepContext], None] = run_segment
) -> None:
    """Runs Tune's loop until the driver has no job left or is stopped.

    Args:
        run: trains a segment, of its configuration and the sweep's context.
    """
    from ray import tune

    from ray_jobs.engine.carriers import (
        DriverHandle,
        JobSearcher,
        StopCarrier,
        SweepStopper,
        Ticker,
    )

    context, handle = driver.context, DriverHandle(driver)

    def segment(config: dict[str, Any]) -> None:
        run(config, context)

    tuner = tune.Tuner(
        tune.with_resources(segment, _resources(context)),
        tune_config=tune.TuneConfig(
            search_alg=JobSearcher(handle),
            scheduler=StopCarrier(handle),
            num_samples=-1,
            reuse_actors=context.workers == 1,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(context.root),
            stop=SweepStopper(handle),
            callbacks=[Ticker(handle)],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    # A failed trial has its error.txt, and Tune's own state is scratch: it would print the stack
    # of each failed trial, and of each state that it could not write.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        tuner.fit()
    except Exception:  # at its end Tune reads its own scratch, and a full disk may have cut it
        if not driver.stopping:
            raise
    finally:
        handle.close()


def _resources(context: SweepContext) -> Any:
    """What Tune reserves: all that a trial of one worker needs; next to nothing for a worker
    group, which reserves its own. The process that drives a group must not take a CPU that its
    workers need, and Ray takes no empty reservation.
    """
    from ray.tune import PlacementGroupFactory

    if context.workers > 1:
        return PlacementGroupFactory([{"memory": 1 << 20}])
    return PlacementGroupFactory([{"CPU": context.cpus, "GPU": context.gpus}])


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


@contextmanager
def _stop_on_signals(driver: Driver) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP (a terminal that is closed) stop the sweep cleanly; a second
    Ctrl-C or SIGTERM ends it at once. A SIGHUP that is ignored (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if not driver.stopping:
            driver.stopping = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        elif number != signal.SIGHUP:  # which comes from the kernel and from the shell
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # The shell's may still come, while the verb says how to go on.
            is_over = number == signal.SIGHUP and driver.stopping == "SIGHUP"
            signal.signal(number, signal.SIG_IGN if is_over else handler)


def _tell(line: str) -> None:
    print(line, flush=True)


def failures(state: SweepState) -> tuple[int, int]:
    """(number of trials that failed for good, number of trials that ran)."""
    failed = sum(trial.status == "failed" for trial in state.trials.values())
    return failed, len(state.trials)
