"""A sweep that goes on: what was stored, and what new options would change of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metrics.combined import Combined, is_combined
from ray_jobs.sweeping.choices import check_repeats
from ray_jobs.sweeping.document import (
    options_from,
    plain,
    planned_document,
    points_document,
)
from ray_jobs.sweeping.last_change import LastChange
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import SweepSetup, plan_of
from ray_jobs.sweeping.spaces import SET_BY_POINTS, bound_space, documented_points
from results.directory import FORMAT, RESUMABLE, Sweep, read_history, read_sweep
from results.store import SweepError
from search.objectives import Constraint
from search.warm import Warm
from search_spaces.space import load_space, space_from_json
from settings.command import command
from settings.option import options_of
from settings.paths import SweepPaths
from settings.resolve import parse_overrides, resolve
from settings.schema import SettingsError
from trainables.checkpoints.changeable import ON_RESUME
from trainables.configured import Configured
from trainables.system import load_system


def stored_setup(directory: Path) -> SweepSetup:
    """The setup that a sweep directory was started with.

    Raises:
        SettingsError: its settings or space no longer exist in this version.
        SweepError: not a sweep directory, or a damaged one.
    """
    sweep = read_sweep(directory)
    document = sweep.document
    if document["format"] < RESUMABLE:
        raise SettingsError(
            f"{directory} was begun by an older version (format {document['format']}, this one "
            f"goes on with {RESUMABLE} to {FORMAT}): it can be read ({command('analyze')} "
            f"{directory}) and its results can start a new sweep (--warm-start), but not go on."
        )
    system = load_system(sweep.system)
    try:
        configured = Configured(system, system.Settings()).under(document["settings"])
        return _stored_setup(sweep, configured)
    except SettingsError as error:
        raise SettingsError(f"{directory}/sweep.json: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise SweepError(
            f"{directory}/sweep.json is damaged, missing or malformed: {error}. Restore it from a "
            "copy."
        ) from error


_PARTS = ("origins", "points", "objectives", "constraints", "derived", "metrics", "terms")
"""What a start always stores, empty or not."""


def _stored_setup(sweep: Sweep, configured: Configured) -> SweepSetup:
    document = sweep.document
    if missing := [part for part in _PARTS if part not in document]:
        raise KeyError(*missing)
    options = options_from(sweep.system, sweep.options)
    space = space_from_json(document["space"])
    warm = tuple(Warm.from_json(node) for node in document["warm"])
    latest = LastChange(sweep.last_change)
    plan = plan_of(options, configured, space, sweep.points, sweep.goal, warm, latest)
    return SweepSetup(
        configured=configured,
        options=options,
        plan=plan,
        document=_with(document, **planned_document(options, plan)),
    )


_BEFORE_OPTIONS = (
    "seed",
    "trials",
    "budget",
    "sampler",
    "scheduler",
    "repeats",
    "storage",
    "max_failures",
    "max_concurrent",
    "resources",
)
"""What format 2 had in place of `options`."""


def _with(document: Mapping[str, Any], **parts: object) -> dict[str, Any]:
    """A document with some parts changed, in the format of today."""
    there = {name: part for name, part in document.items() if name not in _BEFORE_OPTIONS}
    return {**there, "format": FORMAT, **parts}


def what_changed(
    setup: SweepSetup, given: Mapping[str, Any], overrides: Sequence[str]
) -> list[str]:
    """What a resume with new options would change of a sweep, as "part: stored -> asked" lines.

    Args:
        given: the fields of `SweepOptions` that were given again.
        overrides: the `key=value` that were given again.

    Raises:
        SettingsError: an option that only the start of a sweep reads, or one that cannot be read.
    """
    name = given.get("system", setup.options.system)
    if name != setup.options.system:
        return [f"system: {setup.options.system} -> {name}"]
    _check_searched(setup, overrides)
    lines = []
    for field, option in options_of(SweepOptions).items():
        if field in given and option.resume == "start":
            raise SettingsError(
                f"{option.flag} is read when a sweep starts, and sweep.json keeps what it said: "
                "leave it out of a resume, or start a new sweep with --dir."
            )
        stored = getattr(setup.options, field)
        if option.resume == "same" and given.get(field, stored) != stored:
            lines.append(f"{option.flag}: {stored} -> {given[field]}")
    settings = _asked_settings(setup, given, overrides)
    asked = {
        "settings": {**settings, **{key: setup.configured.values[key] for key in ON_RESUME}},
        **_asked_goal(setup.document, given),
    }
    if "space" in given:
        asked.update(_asked_space(setup, given["space"], settings, overrides))
    # A key that there was not yet when the sweep began has its default.
    document = {**setup.document, "settings": plain(setup.configured.values)}
    for part in ("settings", "space", "points", "objectives", "constraints", "derived"):
        if part in asked:
            value = json.loads(json.dumps(asked[part]))
            lines += _differences(part, document[part], value)
    return lines


def _check_searched(setup: SweepSetup, overrides: Sequence[str]) -> None:
    for key in parse_overrides(overrides):
        if key in setup.plan.space.domains:
            raise SettingsError(
                f"{key} is searched by this sweep, so a resume cannot fix it: leave it out, or "
                "start a new sweep with --dir."
            )


def _asked_settings(
    setup: SweepSetup, given: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """The sweep's settings with those that were given again; what they do not speak of stays."""
    resolved = resolve(
        setup.configured.system.Settings,
        setup.options.system,
        preset=given.get("preset"),
        file=given.get("file"),
        overrides=overrides,
        refused=setup.configured.system.refused,
    )
    values = Configured(setup.configured.system, resolved.settings).values
    whole = "preset" in given or "file" in given  # these say every key that nobody overrode
    above = {
        key
        for key, origin in setup.document["origins"].items()
        if origin == "override" or origin.startswith("space ")
    }
    said = {
        key: values[key]
        for key, origin in resolved.origins.items()
        if origin != "default" or (whole and key not in above)
    }
    return plain({**setup.configured.values, **said})


def _asked_goal(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    modes = {item["metric"]: item["mode"] for item in stored["objectives"]}
    columns = list(modes)
    asked: dict[str, Any] = {}
    if "metrics" in given:
        objectives = [_asked_objective(text, stored["derived"]) for text in given["metrics"]]
        columns = [o.column if isinstance(o, Combined) else o for o in objectives]
        asked["derived"] = [o.to_json() for o in objectives if isinstance(o, Combined)]
    if "metrics" in given or "modes" in given:
        said = dict(zip(columns, given.get("modes", ())))  # noqa: B905 - fewer modes than metrics
        asked["objectives"] = [
            {"metric": column, "mode": said.get(column, modes.get(column, "?"))}
            for column in columns
        ]
    if "constraints" in given:
        asked["constraints"] = [str(Constraint.parse(text)) for text in given["constraints"]]
    return asked


def _asked_objective(text: str, derived: Sequence[Mapping[str, Any]]) -> str | Combined:
    """A column, or a sum of columns; those without a constant have the one that is stored."""
    if not is_combined(text):
        return text
    stored = {node["kind"]: node["of"] for node in derived}
    of = stored.get(text.partition("(")[0].strip(), {})

    def constants(columns: Sequence[str]) -> Mapping[str, float]:
        if strange := [column for column in columns if column not in of]:
            raise SettingsError(
                f"--metric {text!r}: the sweep that goes on has no constant of "
                f"{', '.join(strange)}. A resume keeps its objectives: leave --metric out."
            )
        return {column: of[column] for column in columns}

    return Combined.parse(text, constants)


def _asked_space(
    setup: SweepSetup, name: str, settings: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    origins = setup.document["origins"]
    fixed = [key for key, origin in origins.items() if origin == "override"]
    fixed += parse_overrides(overrides)
    configured = setup.configured.under(settings)
    space = bound_space(configured, load_space(setup.options.system, name), fixed)

    def placed(*kept: str) -> list[dict[str, Any]]:
        points, _ = documented_points(
            setup.options.system, configured, space, [*fixed, *kept], bool(setup.options.gpus)
        )
        return points_document(points)

    # Versions before this one took nothing of `train.*` from a point.
    as_before = placed(*SET_BY_POINTS)
    points = as_before if as_before == setup.document["points"] else placed()
    return {"space": space.to_json(), "points": points}


def _differences(path: str, stored: Any, asked: Any) -> list[str]:
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = list(dict.fromkeys([*stored, *asked]))
        return [
            line
            for key in keys
            for line in _differences(f"{path} {key}", stored.get(key), asked.get(key))
        ]
    return [] if stored == asked else [f"{path}: {stored} -> {asked}"]


def grown(
    setup: SweepSetup, directory: Path, given: Mapping[str, Any], overrides: Sequence[str] = ()
) -> SweepSetup:
    """The setup with what a resume may add or change: more trials, budget or repeats; other
    failures, other trials at a time and other checkpoints.

    Args:
        overrides: the `key=value` that were given again, of which `ON_RESUME` may be new.

    Raises:
        SettingsError: less than the sweep has, or has spent, already.
        SweepError: it has trials of which its log knows nothing; they would be trained over.
    """
    options, may = setup.options, options_of(SweepOptions)
    amounts = {field: getattr(options, field) for field in may if may[field].resume == "more"}
    amounts["budget"] = options.budget or _spent(directory) / setup.plan.steps
    amounts["repeat_top"] = options.repeat_top if options.repeats else 0
    for field, had in amounts.items():
        if had and given.get(field, had) < had:
            has = "has spent" if field == "budget" and not options.budget else "has"
            raise SettingsError(
                f"{may[field].flag} {given[field]:g} would take some away: {directory} {has} "
                f"{had:g} already. A resume may only add some."
            )
    changes = [field for field in may if may[field].resume in ("more", "new")]
    options = replace(options, **{field: given[field] for field in changes if field in given})
    check_repeats(options)
    before = setup.plan
    latest = LastChange(before.last_change)
    plan = plan_of(
        options, setup.configured, before.space, before.points, before.goal, before.warm, latest
    )
    asked = _asked_settings(setup, given, overrides)
    new = {key: asked[key] for key in ON_RESUME if asked[key] != setup.configured.values[key]}
    changed = {
        "settings": {**setup.document["settings"], **new},
        "origins": {**setup.document["origins"], **dict.fromkeys(new, "override")},
    }
    return SweepSetup(
        configured=setup.configured.under(new),
        options=options,
        plan=plan,
        document={**setup.document, **changed, **planned_document(options, plan)},
    )


def _spent(directory: Path) -> int:
    """The steps of a sweep's search so far, repeats left out.

    Raises:
        SweepError: it has trials of which its log knows nothing; they would be trained over.
    """
    trials = read_history(read_sweep(directory)).trials
    if not trials and any(SweepPaths(directory).trials.glob("*")):
        raise SweepError(
            f"{directory}/log.jsonl is missing or empty, but trials/ is not: restore the log from "
            "a copy, or start a new sweep with --dir."
        )
    return sum(trial.step for trial in trials if trial.repeat_of is None)
