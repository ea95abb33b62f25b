"""`sweep.json`: what a sweep is, so that it can be resumed and read by its path alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metrics.combined import Combined
from ray_jobs.sweeping.options import SweepOptions
from results.directory import FORMAT
from search.objectives import Goal
from search.plan import Plan
from search_spaces.space import Point
from settings.flat import flatten
from settings.schema import listed
from settings.versions import versions

if TYPE_CHECKING:
    from trainables.system import System

_VERSIONED = ("torch", "ray", "optuna", "accelerate", "monai", "numpy", "weighbridge")


def make_document(
    options: SweepOptions,
    system: System,
    settings: Any,
    origins: Mapping[str, str],
    plan: Plan,
    derived: Sequence[Combined],
    terms: Sequence[str],
    command: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The content of `sweep.json`, in JSON's own types."""
    metrics = {
        f"val.{m.name}": {"unit": m.unit, "mode": m.mode, "help": m.help}
        for m in system.metrics(settings, None)
    }
    for one in derived:
        metrics[one.column] = {"unit": "", "mode": "min", "help": str(one)}
    return {
        "format": FORMAT,
        "system": options.system,
        "created": time.time(),
        "command": list(command) or sys.argv,
        "versions": versions(_VERSIONED),
        "settings": plain(flatten(settings)),
        "origins": dict(origins),
        "space": plan.space.to_json(),
        "points": points_document(plan.points),
        **goal_document(plan.goal),
        "derived": [combined.to_json() for combined in derived],
        "metrics": metrics,
        "terms": list(terms),
        "seed": plan.seed,
        "trials": plan.trials,
        "budget": plan.budget,
        "sampler": plan.sampler,
        "scheduler": scheduler_document(plan),
        "repeats": {"draws": plan.repeats, "top": plan.repeat_top},
        "warm": [row.to_json() for row in plan.warm],
        "storage": options.storage,
        "max_failures": plan.max_failures,
        "max_concurrent": options.max_concurrent,
        "resources": {"workers": options.workers, "cpus": options.cpus, "gpus": options.gpus},
        "notes": list(notes),
    }


def goal_document(goal: Goal) -> dict[str, Any]:
    """Objectives and constraints."""
    return {
        "objectives": [{"metric": o.metric, "mode": o.mode} for o in goal.objectives],
        "constraints": [str(constraint) for constraint in goal.constraints],
    }


def scheduler_document(plan: Plan) -> dict[str, Any]:
    """The rule; `rungs` are what the others come to."""
    return {
        "name": plan.scheduler,
        "eta": plan.eta,
        "grace": plan.grace,
        "rung_steps": list(plan.rung_steps),
        "shares": list(plan.shares),
        "pausing": plan.pausing,
        "settled": plan.last_change,
        "rungs": list(plan.rungs),
    }


def points_document(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Documented points with their values."""
    return [
        {"name": p.name, "settings": plain(p.sampled), "outside": list(p.outside)} for p in points
    ]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, tuples as JSON's lists."""
    return {key: listed(value) for key, value in values.items()}
