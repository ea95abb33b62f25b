"""From a command line to a sweep that may start: settings, space, documented points, objective,
plan, `sweep.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from search.guard import check_objective
from search.plan import Plan
from search_spaces.checks import check_space
from search_spaces.space import Point, Space, load_space, space_from_json
from settings.files import PRESETS, preset_file, read_settings_file
from settings.flat import flatten, leaves, replace
from settings.resolve import parse_overrides, resolve
from settings.schema import Settings, SettingsError, conform
from trainables.system import System, load_system

FORMAT = 1
KEPT_BY_POINTS = ("train.*", "data.*", "optimizer.warmup*")
"""A documented point is compared under the sweep's own length and data; these keys it does not
change.
"""

_VERSIONED = ("torch", "ray", "optuna", "accelerate", "monai", "numpy", "weighbridge")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What the command line says of a new sweep."""

    system: str
    overrides: tuple[str, ...] = ()
    preset: str | None = None
    file: str | None = None
    space: str | None = None
    metric: str | None = None
    mode: str | None = None
    trials: int = 16
    sampler: str = "tpe"
    scheduler: str = "asha"
    seed: int = 0
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    max_failures: int = 0


@dataclass(frozen=True, kw_only=True)
class SweepSetup:
    """A sweep that may start.

    Attributes:
        settings: on which every trial builds.
        plan: what is searched and decided.
        document: `sweep.json`.
    """

    system: System
    settings: Settings
    origins: Mapping[str, str]
    plan: Plan
    document: Mapping[str, Any]

    def tree(self, sampled: Mapping[str, Any]) -> Any:
        """The settings of a trial."""
        return replace(self.settings, sampled)


def new_setup(options: SweepOptions, command: Sequence[str] = ()) -> SweepSetup:
    """Checks everything that can be checked before a cluster is asked for.

    Raises:
        SettingsError: an unknown system, key, space, preset or metric; a value or domain out of
            range; a key both fixed and searched; a metric that reads what the sweep searches.
    """
    system = load_system(options.system)
    overrides = parse_overrides(options.overrides)
    space = load_space(options.system, options.space)
    resolved = resolve(
        system.Settings,
        options.system,
        preset=options.preset,
        file=options.file,
        fixed=(f"space {space.name}", space.fixed),
        overrides=options.overrides,
        refused=getattr(system, "refused", None),
    )
    settings, origins = resolved.settings, resolved.origins
    composite = system.phases(settings, None)[0].composite
    space = _bound(system, space, settings, list(overrides))
    points = _points(options.system, system, space, settings, list(overrides))
    searched = {*space.domains, *(key for point in points for key in point.sampled)}
    metric, mode = _objective(options, system, settings, composite, searched)
    _check_precision(settings, options.gpus)
    train = settings.train  # type: ignore[attr-defined]  # every system has the loop's own node
    plan = Plan(
        space=space,
        points=tuple(points),
        trials=options.trials,
        seed=options.seed,
        metric=metric,
        mode=mode,  # type: ignore[arg-type]  # checked by the guard
        steps=train.steps,
        report_every=train.report_every,
        sampler=options.sampler,
        scheduler=options.scheduler,
        max_failures=options.max_failures,
    )
    document = _document(options, system, settings, origins, plan, composite, command)
    return SweepSetup(
        system=system, settings=settings, origins=origins, plan=plan, document=document
    )


def _check_precision(settings: Any, gpus: float) -> None:
    """Every trial would refuse it; say so before the first one starts."""
    if settings.train.precision == "fp16" and not gpus:
        raise SettingsError(
            "train.precision=fp16 needs a GPU, and the trials of this sweep have none: give them "
            "one with --gpus 1, or use train.precision=bf16."
        )


_OF_THE_SWEEP = ("train.steps", "train.report_every", "train.seed")
"""Keys that a sweep makes its rungs, schedules and seeds from; all trials share them."""


def _bound(system: System, space: Space, settings: Any, overrides: list[str]) -> Space:
    for key in _OF_THE_SWEEP:
        if key in space.domains:
            raise SettingsError(
                f"{key} cannot be searched: the sweep's rungs, schedules and seeds are made from "
                "it. "
                f"Fix it with {key}=VALUE, one sweep for each value."
            )
    composite = system.phases(settings, None)[0].composite
    return check_space(
        space,
        leaves(system.Settings),
        overrides,
        prepare_reads=system.prepare_reads,
        enabled_terms=_enabled(composite, settings),
        weights=composite.prefix,
    ).bind(flatten(settings))


def _enabled(composite: Any, settings: Any) -> list[str]:
    weights = composite.weights(settings.train.steps, settings.train.steps)
    return [name for name, weight in weights.items() if weight != 0.0]


def _points(
    name: str, system: System, space: Space, settings: Any, overrides: list[str]
) -> list[Point]:
    known, values = leaves(system.Settings), flatten(settings)
    points = []
    for source in space.points:
        preset, own = _point_values(name, source)
        typed = {
            key: conform(key, known[key], value) for key, value in own.items() if key in known
        }
        missing = [key for key in own if key not in known]
        if missing:
            raise SettingsError(f"preset {preset} sets {missing[0]}, which {name} does not have.")
        point = space.place(preset, typed, values, keep=(*KEPT_BY_POINTS, *overrides))
        replace(settings, point.sampled)  # a point must be legal as a whole
        points.append(point)
    return points


def _point_values(system: str, source: str) -> tuple[str, Mapping[str, Any]]:
    """Name and values of a preset, or of a settings file that a space of one's own names."""
    if source.endswith((".yaml", ".yml")):
        return Path(source).stem, read_settings_file(Path(source)).values
    return source, preset_file(system, source, PRESETS).values


def _objective(
    options: SweepOptions, system: System, settings: Any, composite: Any, searched: set[str]
) -> tuple[str, str]:
    metrics = list(system.metrics(settings, None))
    first = next((metric for metric in metrics if metric.mode is not None), None)
    if options.metric is None and first is None:
        raise SettingsError(
            f"{options.system} declares no metric with a direction; name one with --metric."
        )
    column = options.metric or f"val.{first.name}"  # type: ignore[union-attr]
    mode = check_objective([column], metrics, composite.terms, searched, composite.prefix)[column]
    if options.mode is not None and options.mode != mode:
        raise SettingsError(
            f"{column} is better when {mode}, so --mode {options.mode} would search the worst."
        )
    return column, mode


def _document(
    options: SweepOptions,
    system: System,
    settings: Any,
    origins: Mapping[str, str],
    plan: Plan,
    composite: Any,
    command: Sequence[str],
) -> dict[str, Any]:
    metrics = {
        f"val.{m.name}": {"unit": m.unit, "mode": m.mode, "help": m.help}
        for m in system.metrics(settings, None)
    }
    return {
        "format": FORMAT,
        "system": options.system,
        "created": time.time(),
        "command": list(command) or sys.argv,
        "versions": {name: _version(name) for name in _VERSIONED},
        "settings": _plain(flatten(settings)),
        "origins": dict(origins),
        "space": plan.space.to_json(),
        "points": _points_document(plan.points),
        "objective": {"metric": plan.metric, "mode": plan.mode},
        "metrics": metrics,
        "terms": list(composite.terms),
        "seed": plan.seed,
        "trials": plan.trials,
        "sampler": plan.sampler,
        "scheduler": {
            "name": plan.scheduler,
            "eta": plan.eta,
            "grace": plan.grace,
            "rungs": list(plan.rungs),
        },
        "max_failures": plan.max_failures,
        "resources": {"workers": options.workers, "cpus": options.cpus, "gpus": options.gpus},
    }


def _points_document(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {"name": p.name, "settings": _plain(p.sampled), "outside": list(p.outside)} for p in points
    ]


def stored_setup(directory: Path) -> SweepSetup:
    """The setup that a sweep directory was started with.

    Raises:
        SettingsError: its settings or space no longer exist in this version.
        SweepError: not a sweep directory.
    """
    from results.directory import read_sweep

    document = read_sweep(directory).document
    system = load_system(document["system"])
    settings = replace(system.Settings(), document["settings"])
    space = space_from_json(document["space"])
    points = tuple(
        Point(p["name"], {k: _tupled(v) for k, v in p["settings"].items()}, tuple(p["outside"]))
        for p in document["points"]
    )
    scheduler = document["scheduler"]
    plan = Plan(
        space=space,
        points=points,
        trials=document["trials"],
        seed=document["seed"],
        metric=document["objective"]["metric"],
        mode=document["objective"]["mode"],
        steps=settings.train.steps,  # type: ignore[attr-defined]
        report_every=settings.train.report_every,  # type: ignore[attr-defined]
        sampler=document["sampler"],
        scheduler=scheduler["name"],
        eta=scheduler["eta"],
        grace=scheduler["grace"],
        max_failures=document["max_failures"],
    )
    return SweepSetup(
        system=system, settings=settings, origins=document["origins"], plan=plan, document=document
    )


def asked_document(
    stored: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """`sweep.json` as a resume's own options would have it; what they do not speak of stays.

    Args:
        given: the fields of `SweepOptions` that were given again.
    """
    name = given.get("system", stored["system"])
    if name != stored["system"]:
        return {**stored, "system": name}
    system = load_system(name)
    resolved = resolve(
        system.Settings,
        name,
        preset=given.get("preset"),
        file=given.get("file"),
        overrides=overrides,
        refused=getattr(system, "refused", None),
    )
    values = flatten(resolved.settings)
    whole = "preset" in given or "file" in given  # these say every key that nobody overrode
    kept = {k for k, o in stored["origins"].items() if o == "override" or o.startswith("space ")}
    said = {
        key: values[key]
        for key, origin in resolved.origins.items()
        if origin != "default" or (whole and key not in kept)
    }
    asked = {**stored, "settings": {**stored["settings"], **_plain(said)}}
    asked.update({part: given[part] for part in ("seed", "sampler") if part in given})
    if "scheduler" in given:
        asked["scheduler"] = {**stored["scheduler"], "name": given["scheduler"]}
    for node in ("objective", "resources"):
        asked[node] = {key: given.get(key, value) for key, value in stored[node].items()}
    if "space" in given:
        settings = replace(system.Settings(), asked["settings"])
        fixed = [key for key, origin in stored["origins"].items() if origin == "override"]
        fixed += parse_overrides(overrides)
        space = _bound(system, load_space(name, given["space"]), settings, fixed)
        points = _points(name, system, space, settings, fixed)
        asked.update(space=space.to_json(), points=_points_document(points))
    return asked


_COMPARED = (
    "system",
    "settings",
    "space",
    "points",
    "objective",
    "seed",
    "sampler",
    "scheduler",
    "resources",
)


def what_changed(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What a resume with new options would change of a sweep, as "key: stored -> asked" lines."""
    lines: list[str] = []
    for part in _COMPARED:
        lines += _differences(part, stored[part], json.loads(json.dumps(asked[part])))
    return lines


def _differences(path: str, stored: Any, asked: Any) -> list[str]:
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = list(dict.fromkeys([*stored, *asked]))
        return [
            d
            for key in keys
            for d in _differences(f"{path} {key}", stored.get(key), asked.get(key))
        ]
    return [] if stored == asked else [f"{path}: {stored} -> {asked}"]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
