"""`python -m ray_jobs.simulate DIR`: what other schedulers and budgets would have made of the
trials of a sweep, before GPUs are spent on them.
"""

from __future__ import annotations

import math
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ray_jobs.verb import OK, finish, parser, run_verb
from search.options import SCHEDULERS, SearchOptions
from search.plan import POPULATIONS
from settings.option import options_of, positive, positive_number
from settings.paths import SweepPaths
from settings.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from results.directory import Sweep
    from search.curves import Curve, Outcome, Workload
    from search.log import Event, TrialRecord

COMPARED = ("brackets", "asha", "none")
"""The schedulers that are compared unless others are named."""

ORDERS = 20
"""The order of the trials is chance; the standard error over several says how much it matters."""

_DESCRIPTION = """\
The curves are those that the sweep has logged, the clock is simulated. The configurations are the
sweep's own, so a sampler is not compared; its rungs and documented points hold as well.

  {command} sweeps/first
  {command} sweeps/first --scheduler pasha --budget 5 --workers-at-once 8

A trial that a scheduler had stopped has no curve to its end and is left out: a sweep with
--scheduler none shows the most."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_run, make_parser().parse_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("simulate", _DESCRIPTION)
    add = made.add_argument
    add("directory", metavar="DIR", help="the sweep's directory")
    add(
        "--scheduler",
        choices=SCHEDULERS,
        action="append",
        help=f"again for several (default: {', '.join(COMPARED)})",
    )
    add(
        "--budget",
        type=positive_number,
        action="append",
        metavar="X",
        help="trainings of full length; again for several (default: all trials)",
    )
    add(
        "--workers-at-once",
        type=positive,
        metavar="N",
        help="slots (default: as many as the sweep had)",
    )
    rungs = options_of(SearchOptions)
    passes = "one in N passes a rung, N from 2 on (default the sweep's)"
    eta = {**rungs["eta"].argument, "help": passes}
    add("--eta", **eta)
    add("--grace", **rungs["grace"].argument)
    add(
        "--orders",
        type=positive,
        default=ORDERS,
        metavar="N",
        help="orders in which the trials come, the logged one first (default %(default)s)",
    )
    return made


def _run(arguments: Namespace) -> int:
    return compare(
        arguments.directory,
        arguments.scheduler or COMPARED,
        arguments.budget or (None,),
        workers=arguments.workers_at_once,
        eta=arguments.eta,
        grace=arguments.grace,
        orders=arguments.orders,
    )


def compare(
    directory: str | Path,
    schedulers: Sequence[str] = COMPARED,
    budgets: Sequence[float | None] = (None,),
    *,
    workers: int | None = None,
    eta: int | None = None,
    grace: int | None = None,
    orders: int = ORDERS,
) -> int:
    """Prints what was left out, and a row for each scheduler and budget.

    Raises:
        SettingsError: a population, asked for or logged; no trial has reports up to its end.
        SweepError: the directory cannot be read.
    """
    from results.directory import read_sweep
    from results.leaderboard import plain_table

    sweep = read_sweep(directory)
    logged = sweep.options
    _check_replayable(sweep, schedulers)
    workload, slots = read_workload(sweep)
    workers = workers or slots
    same = {} if eta or grace else logged  # its rungs, and the shares of its brackets
    options = {
        "eta": eta or logged.get("eta") or 3,
        "grace": grace or same.get("grace") or 0,
        "rung_steps": tuple(same.get("rung_steps") or ()),
        "pausing": logged.get("workers", 1) == 1,
    }
    print(_preamble(sweep, workload, workers, orders))
    rungs = workload.plan("brackets", **options).rungs
    if agreements := [f"{step}: {workload.agreement(step):.2f}" for step in rungs]:
        print(
            f"ranks at each rung against those at step {workload.steps} (Spearman; 1 says all, 0 "
            f"nothing): {', '.join(agreements)}"
        )
    rows = []
    for budget in budgets:
        for scheduler in schedulers:
            shares = tuple(same.get("shares") or ()) if scheduler == same.get("scheduler") else ()
            plan = workload.plan(scheduler, budget, shares=shares, **options)
            outcomes = [
                workload.outcome(workload.run(plan, workers, order)) for order in range(orders)
            ]
            rows.append([scheduler, "all" if budget is None else f"{budget:g}", *_cells(outcomes)])
    head = ["scheduler", "budget", "trials", "to the end", "trainings", "hours"]
    print(plain_table([*head, f"regret of {sweep.objective.metric}"], rows))
    return OK


def _check_replayable(sweep: Sweep, schedulers: Sequence[str]) -> None:
    """Refuses populations: a member's curve is that of several settings, and of the weights that
    it took over.
    """
    from settings.schema import SettingsError

    logged = sweep.options.get("scheduler")
    if logged in POPULATIONS:
        raise SettingsError(
            f"{sweep.path} was run by {logged}, whose trials take over each other's weights and "
            "change their settings on the way: their curves are not those of one configuration "
            "each. Simulate a sweep of another scheduler (--scheduler none shows the most)."
        )
    for name in schedulers:
        if name in POPULATIONS:
            others = ", ".join(other for other in SCHEDULERS if other not in POPULATIONS)
            raise SettingsError(
                f"--scheduler {name} cannot be simulated: no logged curve says how a trial goes "
                f"on from another one's weights. Name one of {others}."
            )


def _preamble(sweep: Sweep, workload: Workload, workers: int, orders: int) -> str:
    lines = [
        f"{counted(len(workload.curves), 'trial')} of {sweep.path}, {workload.steps} steps each, "
        f"{workers} at once; mean and standard error over {orders} orders of the trials"
    ]
    if workload.left_out:
        lines.append(
            f"left out: {counted(workload.left_out, 'trial')} (stopped, failed or waiting at a "
            "rung), for nobody knows what would have followed. What is left is better than new "
            "trials would be."
        )
    if len(sweep.objectives) > 1:
        lines.append(f"regret is that of the first objective, {sweep.objective.metric}")
    return "\n".join(lines)


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    """Means over the orders; the standard error where it is of interest."""
    regrets = [outcome.regret for outcome in outcomes]
    barren = sum(math.isinf(regret) for regret in regrets)
    if barren:
        regret = f"no trial complete in {barren} of {len(regrets)}"
    elif len(regrets) > 1:
        error = statistics.stdev(regrets) / math.sqrt(len(regrets))
        regret = f"{statistics.fmean(regrets):.4g} +- {error:.2g}"
    else:
        regret = f"{regrets[0]:.4g}"
    return [
        f"{statistics.fmean(outcome.trials for outcome in outcomes):.1f}",
        f"{statistics.fmean(outcome.complete for outcome in outcomes):.1f}",
        f"{statistics.fmean(outcome.spent for outcome in outcomes):.2f}",
        f"{statistics.fmean(outcome.hours for outcome in outcomes):.3g}",
        regret,
    ]


def read_workload(sweep: Sweep) -> tuple[Workload, int]:
    """The curves of a sweep, and how many trials it had under way at once.

    Raises:
        SettingsError: no trial has reports up to its end.
        SweepError: the directory cannot be read.
    """
    from results.directory import read_history
    from results.frame import load_reports
    from results.store import read_events
    from search.curves import Workload

    steps = int(sweep.settings["train.steps"])
    by_trial = dict(iter(load_reports(sweep.path).groupby("trial")))
    curves, starts = [], []
    for trial in read_history(sweep).trials:
        if trial.repeat_of is not None:
            continue
        reports = by_trial.get(trial.number)
        curves.append(_curve(sweep, trial, reports, steps))
        if reports is not None and trial.seconds:
            starts.append((trial.seconds - reports["seconds"].max()) / (trial.segment + 1))
    workload = Workload.of(
        curves,
        sweep.goal,
        steps,
        int(sweep.settings["train.report_every"]),
        last_change=sweep.last_change,
        start_seconds=max(statistics.median(starts), 0.0) if starts else 0.0,
    )
    return workload, _slots(read_events(SweepPaths(sweep.path).log))


def _curve(sweep: Sweep, trial: TrialRecord, reports: pd.DataFrame | None, steps: int) -> Curve:
    from search.curves import Curve
    from settings.stop_reasons import HEALTH, NO_OBJECTIVE, PATIENCE

    values: dict[int, Mapping[str, float]] = {}
    step_seconds = 0.0
    if reports is not None:
        columns = [column for column in sweep.goal.columns if column in reports]
        for row in reports[["step", *columns]].to_dict("records"):
            step = int(row.pop("step"))
            values[step] = {name: v for name, v in row.items() if math.isfinite(v)}
        step_seconds = float(reports["seconds"].max() / max(values))
    # Without an objective nothing but patience ends it early; the replay finds the value missing.
    reason = PATIENCE if trial.reason.startswith(NO_OBJECTIVE) else trial.reason
    by_itself = reason.startswith((PATIENCE, HEALTH)) and trial.step < steps
    ended = (trial.step, reason) if by_itself else None
    return Curve(trial.number, values, step_seconds, ended, trial.point or "")


def _slots(events: Sequence[Event]) -> int:
    """The most trials that were under way at once."""
    from search.log import SweepState

    state, most = SweepState(), 1
    for event in events:
        state.apply(event)
        most = max(most, len(state.live))
    return most


if __name__ == "__main__":
    finish(main())
