"""`sweep.json`: what a sweep is, so that it can be resumed and read by its path alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from metrics.combined import Combined
from ray_jobs.sweeping.options import SweepOptions
from results.directory import FORMAT
from search.objectives import Goal
from search.plan import Plan
from search_spaces.space import Point
from settings.schema import SettingsError, listed, tupled
from settings.versions import versions
from trainables.configured import Configured

_VERSIONED = ("torch", "ray", "optuna", "accelerate", "monai", "numpy", "weighbridge")


def make_document(
    options: SweepOptions,
    configured: Configured,
    origins: Mapping[str, str],
    plan: Plan,
    derived: Sequence[Combined],
    command: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The content of `sweep.json`, in JSON's own types."""
    metrics = {
        f"val.{metric.name}": {"unit": metric.unit, "mode": metric.mode, "help": metric.help}
        for metric in configured.measures
    }
    for combined in derived:
        metrics[combined.column] = {"unit": "", "mode": "min", "help": str(combined)}
    return {
        "format": FORMAT,
        "system": options.system,
        "created": time.time(),
        "command": list(command) or sys.argv,
        "versions": versions(_VERSIONED),
        **planned_document(options, plan),
        "settings": plain(configured.values),
        "origins": dict(origins),
        "space": plan.space.to_json(),
        "points": points_document(plan.points),
        **goal_document(plan.goal),
        "derived": [combined.to_json() for combined in derived],
        "metrics": metrics,
        "terms": list(configured.composite.terms),
        "warm": [row.to_json() for row in plan.warm],
        "notes": list(notes),
    }


def planned_document(options: SweepOptions, plan: Plan) -> dict[str, Any]:
    """What a resume may change: the options, and what the plan makes of them."""
    return {
        "options": options_document(options),
        "rungs": list(plan.rungs),
        "last_change": plan.last_change,
    }


def options_document(options: SweepOptions) -> dict[str, Any]:
    """Every option by field; the system has its own line."""
    stored = json.loads(json.dumps(asdict(options)))
    del stored["system"]
    return stored


def options_from(system: str, stored: Mapping[str, Any]) -> SweepOptions:
    """The options that `options_document` wrote; one that is newer than the sweep has its default.

    Raises:
        SettingsError: an option that this version does not have.
    """
    strange = [name for name in stored if name not in SweepOptions.__dataclass_fields__]
    if strange:
        raise SettingsError(
            f"this version has no option {', '.join(strange)}: go on with the version that wrote "
            "it, or a newer one."
        )
    return SweepOptions(system=system, **{name: tupled(value) for name, value in stored.items()})


def goal_document(goal: Goal) -> dict[str, Any]:
    """Objectives and constraints."""
    return {
        "objectives": [{"metric": o.metric, "mode": o.mode} for o in goal.objectives],
        "constraints": [str(constraint) for constraint in goal.constraints],
    }


def points_document(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Documented points with their values."""
    return [
        {"name": p.name, "settings": plain(p.sampled), "outside": list(p.outside)} for p in points
    ]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, tuples as JSON's lists."""
    return {key: listed(value) for key, value in values.items()}
