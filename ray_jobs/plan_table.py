"""What a sweep would do, in a few lines: for `--dry-run`."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ray_jobs.planning import SweepSetup


def print_plan(setup: SweepSetup, directory: Path, max_concurrent: int | None) -> None:
    """Prints points, domains, steps and resources; nothing is started."""
    plan, document = setup.plan, setup.document
    console = Console()
    resources = document["resources"]
    need = (
        f"{resources['workers']} worker(s) x {resources['cpus']:g} CPU, {resources['gpus']:g} GPU"
    )
    cpus = os.cpu_count() or 1
    here = max(int(cpus / max(resources["workers"] * resources["cpus"], 1e-9)), 0)
    console.print(
        f"system     {document['system']}, space {plan.space.name}, {len(plan.space.domains)} keys"
    )
    console.print(f"objective  {plan.metric} ({plan.mode})")
    console.print(
        f"trials     {plan.trials}: {min(len(plan.points), plan.trials)} documented, then "
        f"{plan.sampler}"
    )
    if plan.points_left_out:
        console.print(f"           no room for the points {', '.join(plan.points_left_out)}")
    rungs = ", ".join(map(str, plan.rungs)) or "none"
    console.print(
        f"steps      {plan.steps} a trial, report every {plan.report_every}, {plan.scheduler}, "
        f"rungs {rungs}"
    )
    console.print(
        f"resources  a trial: {need}; at once: {max_concurrent or here} (this machine has {cpus} "
        "CPU)"
    )
    console.print(f"directory  {directory}")
    domains = Table(title="searched", title_justify="left")
    for column in ("key", "domain", "when", "default"):
        domains.add_column(column)
    for key, domain in plan.space.domains.items():
        described = domain.to_json()
        when = described.pop("when", {})
        kind = described.pop("kind")
        body = ", ".join(f"{name} {value}" for name, value in described.items())
        default = str(document["settings"][key])
        domains.add_row(
            key, f"{kind}: {body}", ", ".join(f"{k}={v}" for k, v in when.items()), default
        )
    console.print(domains)
    points = Table(title="documented points", title_justify="left")
    for column in ("point", "sets", "outside the space"):
        points.add_column(column)
    for point in plan.points:
        sets = ", ".join(f"{key}={value}" for key, value in point.sampled.items())
        points.add_row(point.name, sets, ", ".join(point.outside))
    if plan.points:
        console.print(points)
