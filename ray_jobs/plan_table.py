"""What a sweep would do, in a few lines: for `--plan`."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from metrics.combined import Combined
from ray_jobs.engine.cluster import Demand, workers_on
from ray_jobs.sweeping.choices import UNBOUNDED
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import SweepSetup
from results.directory import read_history, read_sweep
from search.failing import FEWEST_ENDED
from search.forecast import Forecast, forecast
from search.options import ALL
from search.plan import Plan
from settings.paths import SweepPaths
from settings.words import counted

_WIDE = 8
"""Columns that fit a line of 80 characters; a table with more of them is transposed."""


def print_plan(
    setup: SweepSetup,
    directory: Path,
    step_seconds: float | None = None,
) -> None:
    """Prints objectives, brackets, expected trials, steps and cost, domains and points; nothing is
    started.

    Args:
        step_seconds: what a training step takes, for the cost in hours.
    """
    console = Console(markup=False, emoji=False)  # values are printed as they are
    options = setup.options
    demand = Demand(workers=options.workers, cpus=options.cpus, gpus=options.gpus)
    at_once, where = _at_once(demand, options.max_concurrent)
    for line in _lines(setup):
        console.print(line)
    console.print(
        f"resources  a trial: {demand.workers} worker(s) x {demand.cpus:g} CPU, "
        f"{demand.gpus:g} GPU; at once: {at_once} ({where})"
    )
    console.print(f"directory  {directory}")
    _print_forecast(console, forecast(setup.plan, at_once), demand, step_seconds)
    if SweepPaths(directory).document.exists():
        _print_so_far(console, directory, setup.plan.steps)
    _print_domains(console, setup)
    _print_points(console, setup)


def _at_once(demand: Demand, max_concurrent: int | None) -> tuple[int, str]:
    """How many trials run at once, and what this machine has."""
    import torch

    here = {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}
    fit = workers_on(here, demand) // demand.workers
    where = f"this machine has {here['CPU']} CPU and {here['GPU']} GPU"
    if not (max_concurrent or fit):
        where += ", too few for one: give --max-concurrent for a cluster"
    return max_concurrent or max(fit, 1), where


def _lines(setup: SweepSetup) -> list[str]:
    plan, document = setup.plan, setup.document
    keys = len(plan.space.domains)
    lines = [f"system     {document['system']}, space {plan.space.name}, {keys} keys"]
    sums = {one.column: one for one in map(Combined.from_json, document["derived"])}
    for one in plan.goal.objectives:
        lines.append(f"objective  {one.metric} ({one.mode})")
        if one.metric in sums:
            lines.append(f"           {sums[one.metric]}")
    lines += [f"subject to {constraint}" for constraint in plan.goal.constraints]
    if len(plan.goal.objectives) > 1:
        point = setup.options.reference_point or "the worst of the documented points"
        lines.append(f"reference  point of the hypervolume: {point}")
    size = "as many as the budget holds"
    if plan.trials != UNBOUNDED:
        size = f"{plan.trials}" if plan.budget is None else f"{plan.trials}, or {size}"
    documented = min(len(plan.points), plan.trials)
    lines.append(f"trials     {size}: {documented} documented, then {plan.sampler}")
    if plan.paired:
        lines.append("seeds      one for all trials")
    if plan.budget is not None:
        lines.append(f"budget     {plan.budget:g} trainings of {plan.steps} steps")
    if plan.repeats:
        seeds = counted(plan.repeats, "seed")
        lines.append(f"repeats    the best {plan.repeat_top} again, {seeds} each")
    if plan.points_left_out:
        lines.append(f"           no room for the points {', '.join(plan.points_left_out)}")
    rungs = ", ".join(map(str, plan.rungs)) or "none"
    lines.append(
        f"steps      {plan.steps} a trial, report every {plan.report_every}, {plan.scheduler}, "
        f"rungs {rungs}"
    )
    lines += [f"failures   {_limits(plan)}", f"keeps      checkpoints: {_kept(setup.options)}"]
    return lines + [f"           {note}" for note in setup.notes]


def _limits(plan: Plan) -> str:
    """What is done about trials that fail."""
    row, most, tries = plan.max_failed_in_a_row, plan.max_failed_share, plan.max_failures
    ends = [f"{row} in a row"] if row else []
    ends += [f"more than {most:.4g} of {FEWEST_ENDED} or more trials"] if most < 1.0 else []
    limits = f"{' or '.join(ends)} end the sweep" if ends else "no number of them ends the sweep"
    again = f"{counted(tries, 'time')} more" if tries else "only once"
    return f"{limits}; a trial that fails is tried {again}"


def _kept(options: SweepOptions) -> str:
    if options.keep_checkpoints == ALL:
        return "all that a trial keeps while it trains"
    return f"{options.keep_checkpoints} of the trials that have ended"


def _print_forecast(
    console: Console, expected: Forecast, demand: Demand, seconds: float | None
) -> None:
    lines = expected.table()
    if len(lines[0]) > _WIDE:
        lines = list(map(list, zip(*lines, strict=True)))
    head, *rows = lines
    table = Table(title="expected trials that reach each step", title_justify="left")
    for column in head:
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    cost = (
        f"cost       {expected.steps} steps, {expected.trainings:.1f} trainings of full length, "
        f"{counted(expected.complete, 'trial')} to the end"
    )
    if seconds is not None:
        gpus = demand.workers * demand.gpus
        hours = expected.steps * seconds / 3600.0
        cost += (
            f"; at {seconds:g} s a step {expected.elapsed_steps * seconds / 3600.0:.2f} h, "
            f"{hours * demand.workers * demand.cpus:.2f} CPU hours"
        )
        cost += f", {hours * gpus:.2f} GPU hours" if gpus else ""
    else:
        cost += " (--step-seconds X for hours)"
    console.print(cost)


def _print_so_far(console: Console, directory: Path, full: int) -> None:
    """What a sweep that goes on has done of it."""
    trials = read_history(read_sweep(directory)).trials
    done = sum(trial.step for trial in trials)
    console.print(
        f"so far     {done} of these steps, {done / full:.1f} trainings of full length, "
        f"{counted(len(trials), 'trial')} begun"
    )


def _print_domains(console: Console, setup: SweepSetup) -> None:
    domains = Table(title="searched", title_justify="left")
    for column in ("key", "domain", "when", "default"):
        domains.add_column(column)
    for key, domain in setup.plan.space.domains.items():
        described = domain.to_json()
        when = described.pop("when", {})
        kind = described.pop("kind")
        body = ", ".join(f"{name} {value}" for name, value in described.items())
        conditions = ", ".join(f"{k}={v}" for k, v in when.items())
        default = str(setup.document["settings"][key])
        domains.add_row(key, f"{kind}: {body}", conditions, default)
    console.print(domains)


def _print_points(console: Console, setup: SweepSetup) -> None:
    points = Table(title="documented points", title_justify="left")
    for column in ("point", "sets", "outside the space"):
        points.add_column(column)
    for point in setup.plan.points:
        sets = ", ".join(f"{key}={value}" for key, value in point.sampled.items())
        points.add_row(point.name, sets, ", ".join(point.outside))
    if setup.plan.points:
        console.print(points)
