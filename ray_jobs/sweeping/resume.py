"""A sweep that goes on: what was stored, and what new options would change of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

from metrics.combined import Combined, is_combined
from ray_jobs.sweeping.document import plain, points_document
from ray_jobs.sweeping.planning import SweepSetup, bound_space, documented_points
from results.directory import FORMAT, Sweep, read_history, read_sweep
from results.store import SweepError
from search.objectives import Constraint
from search.plan import Plan
from search.warm import Warm
from search_spaces.space import Space, load_space, space_from_json
from settings.flat import flatten, replace
from settings.resolve import parse_overrides, resolve
from settings.schema import SettingsError
from trainables.system import load_system


def stored_setup(directory: Path) -> SweepSetup:
    """The setup that a sweep directory was started with.

    Raises:
        SettingsError: its settings or space no longer exist in this version.
        SweepError: not a sweep directory, or a damaged one.
    """
    sweep = read_sweep(directory)
    document = sweep.document
    if document["format"] != FORMAT:
        raise SettingsError(
            f"{directory} was begun by an older version (format {document['format']}, this one "
            f"goes on with {FORMAT}): it can be read (python -m ray_jobs.analyze {directory}) and "
            "its results can start a new sweep (--warm-start), but not go on."
        )
    system = load_system(document["system"])
    settings = replace(system.Settings(), document["settings"])
    try:
        plan = _stored_plan(sweep, space_from_json(document["space"]), settings)
        origins = document["origins"]
        return SweepSetup(
            system=system, settings=settings, origins=origins, plan=plan, document=document
        )
    except SettingsError as error:
        raise SettingsError(f"{directory}/sweep.json: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise SweepError(
            f"{directory}/sweep.json is damaged, missing or malformed: {error}. Restore it from a "
            "copy."
        ) from error


def _stored_plan(sweep: Sweep, space: Space, settings: Any) -> Plan:
    document = sweep.document
    rule, repeats = document["scheduler"], document["repeats"]
    return Plan(
        space=space,
        points=sweep.points,
        trials=document["trials"],
        budget=document["budget"],
        seed=document["seed"],
        goal=sweep.goal,
        steps=settings.train.steps,
        report_every=settings.train.report_every,
        last_change=rule["settled"],
        sampler=document["sampler"],
        scheduler=rule["name"],
        eta=rule["eta"],
        grace=rule["grace"],
        rung_steps=tuple(rule["rung_steps"]),
        shares=tuple(rule["shares"]),
        pausing=rule["pausing"],
        max_failures=document["max_failures"],
        repeats=repeats["draws"],
        repeat_top=repeats["top"],
        warm=tuple(Warm.from_json(node) for node in document["warm"]),
    )


_READ_AT_THE_START = {"warm_start": "--warm-start", "reference": "--reference"}
"""What they said is in `sweep.json`; their directories may be gone by now."""


def _asked_scheduler(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    asked = {part: given[part] for part in stored if part in given}
    if "scheduler" in given:
        asked["name"] = given["scheduler"]
    return {**stored, **asked}


def _asked_objective(text: str, derived: Sequence[Mapping[str, Any]]) -> str | Combined:
    """A column, or a sum of columns; those without a constant have the one that is stored."""
    if not is_combined(text):
        return text
    known = {node["kind"]: node["of"] for node in derived}
    of = known.get(text.partition("(")[0].strip(), {})

    def constants(columns: Sequence[str]) -> Mapping[str, float]:
        if strange := [column for column in columns if column not in of]:
            raise SettingsError(
                f"--metric {text!r}: the sweep that goes on has no constant of "
                f"{', '.join(strange)}. A resume keeps its objectives: leave --metric out."
            )
        return {column: of[column] for column in columns}

    return Combined.parse(text, constants)


def _asked_goal(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    modes = {item["metric"]: item["mode"] for item in stored["objectives"]}
    columns = list(modes)
    asked: dict[str, Any] = {}
    if "metrics" in given:
        objectives = [_asked_objective(text, stored["derived"]) for text in given["metrics"]]
        columns = [one.column if isinstance(one, Combined) else one for one in objectives]
        asked["derived"] = [one.to_json() for one in objectives if isinstance(one, Combined)]
    if "metrics" in given or "modes" in given:
        said = dict(zip(columns, given.get("modes", ())))  # noqa: B905 - fewer modes than metrics
        asked["objectives"] = [
            {"metric": column, "mode": said.get(column, modes.get(column, "?"))}
            for column in columns
        ]
    if "constraints" in given:
        asked["constraints"] = [str(Constraint.parse(text)) for text in given["constraints"]]
    return asked


def asked_document(
    stored: Mapping[str, Any], given: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """`sweep.json` as a resume's own options would have it; what they do not speak of stays.

    Args:
        given: the fields of `SweepOptions` that were given again.

    Raises:
        SettingsError: an option that only the start of a sweep reads, or one that cannot be read.
    """
    for field, option in _READ_AT_THE_START.items():
        if field in given:
            raise SettingsError(
                f"{option} is read when a sweep starts, and sweep.json keeps what it said: leave "
                "it out of a resume, or start a new sweep with --dir."
            )
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
        refused=system.refused,
    )
    values = flatten(resolved.settings)
    whole = "preset" in given or "file" in given  # these say every key that nobody overrode
    kept = {k for k, o in stored["origins"].items() if o == "override" or o.startswith("space ")}
    said = {
        key: values[key]
        for key, origin in resolved.origins.items()
        if origin != "default" or (whole and key not in kept)
    }
    asked = {**stored, "settings": {**stored["settings"], **plain(said)}}
    asked.update({part: given[part] for part in ("seed", "sampler", "storage") if part in given})
    asked["scheduler"] = _asked_scheduler(stored["scheduler"], given)
    asked.update(_asked_goal(stored, given))
    asked["resources"] = {k: given.get(k, value) for k, value in stored["resources"].items()}
    if "space" in given:
        settings = replace(system.Settings(), asked["settings"])
        fixed = [key for key, origin in stored["origins"].items() if origin == "override"]
        fixed += parse_overrides(overrides)
        space = bound_space(system, load_space(name, given["space"]), settings, fixed)
        points = documented_points(name, system, space, settings, fixed)
        asked.update(space=space.to_json(), points=points_document(points))
    return asked


_COMPARED = (
    "system",
    "settings",
    "space",
    "points",
    "objectives",
    "constraints",
    "derived",
    "seed",
    "sampler",
    "scheduler",
    "storage",
    "resources",
)


def what_changed(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What a resume with new options would change of a sweep, as "key: stored -> asked" lines. A
    key that there was not yet when it began has its default.
    """
    lines: list[str] = []
    defaults = plain(flatten(load_system(stored["system"]).Settings()))
    stored = {**stored, "settings": {**defaults, **stored["settings"]}}
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


GROWING = ("trials", "budget", "max_failures", "repeats", "repeat_top")
"""Options of which a resume may give more than the sweep has."""


def grown(
    setup: SweepSetup, directory: Path, growth: Mapping[str, Any], max_concurrent: int | None
) -> SweepSetup:
    """The setup with more of what `growth` names, and `max_concurrent` trials at a time.

    Raises:
        SettingsError: less than the sweep has, or has spent, already.
        SweepError: it has trials of which its log knows nothing; they would be trained over.
    """
    stored = setup.document
    draws, top = stored["repeats"]["draws"], stored["repeats"]["top"]
    spent = _spent(directory)
    before = {
        "trials": stored["trials"],
        "budget": stored["budget"] or spent / setup.plan.steps,
        "repeats": draws,
        "repeat_top": top if draws else 0,
    }
    for name, had in before.items():
        if had and growth.get(name, had) < had:
            raise SettingsError(
                f"--{name.replace('_', '-')} {growth[name]:g} would take some away: {directory} "
                f"has {had:g} already. A resume may only add some."
            )
    plan = with_fields(setup.plan, **growth)
    repeats = {"draws": plan.repeats, "top": plan.repeat_top}
    own = {name: value for name, value in growth.items() if name in stored}
    document = {**stored, **own, "repeats": repeats}
    if max_concurrent:
        document["max_concurrent"] = max_concurrent
    return with_fields(setup, plan=plan, document=document)


def _spent(directory: Path) -> int:
    """The steps of a sweep's search so far, repeats left out.

    Raises:
        SweepError: it has trials of which its log knows nothing; they would be trained over.
    """
    trials = read_history(read_sweep(directory)).trials
    if not trials and any(directory.glob("trials/*")):
        raise SweepError(
            f"{directory}/log.jsonl is missing or empty, but trials/ is not: restore the log from "
            "a copy, or start a new sweep with --dir."
        )
    return sum(trial.step for trial in trials if trial.repeat_of is None)
