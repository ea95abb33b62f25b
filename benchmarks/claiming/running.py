"""The trainings of a comparison: one sweep for each unit and seed, and what is read of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claiming.arms import Arms
from benchmarks.measuring.commands import ROOT
from ray_jobs.verb import ALL_FAILED, OK, SOME_FAILED
from search.seeds import derive
from settings.paths import SweepPaths
from settings.resolve import parse_overrides
from settings.schema import SettingsError


@dataclass(frozen=True)
class Place:
    """One sweep of all arms.

    Attributes:
        unit, seed: of its data and of its trainings.
        overrides: of the user, and the one that draws the unit.
        master_seed: of the sweep. Each unit has seeds of its own: what a seed does to all units
            alike would be in no error over units.
    """

    unit: int
    seed: int
    directory: Path
    overrides: tuple[str, ...]
    master_seed: int


def places(
    arms: Arms,
    directory: Path,
    overrides: Sequence[str],
    seeds: Sequence[int],
    units: Sequence[int] = (),
) -> list[Place]:
    """The sweeps below a directory: `seed-S`, or with units `unit-U/seed-S`.

    Raises:
        SettingsError: no setting draws a unit of this data, or an override or the arms set it.
    """
    if not units:
        given = tuple(overrides)
        return [Place(0, seed, directory / f"seed-{seed}", given, seed) for seed in seeds]
    key = unit_key(arms, overrides)
    return [
        Place(
            unit=unit,
            seed=seed,
            directory=directory / f"unit-{unit}" / f"seed-{seed}",
            overrides=(*overrides, f"{key}={unit}"),
            master_seed=derive(seed, "unit", unit),
        )
        for unit in units
        for seed in seeds
    ]


def unit_key(arms: Arms, overrides: Sequence[str]) -> str:
    """The setting whose values are the units. Raises `SettingsError` where there is none, or it
    has a value already.
    """
    settings = arms.configured.settings
    key = arms.configured.system.unit_key(settings)
    if not key:
        source = getattr(getattr(settings, "data", None), "source", "as it is")
        raise SettingsError(
            f"--units repeats a comparison on other draws of the data, and no setting of "
            f"{arms.system} draws this data (data.source {source}) anew: System.unit_key names "
            "none. Leave --units out; the figures then speak of this data alone."
        )
    if key in parse_overrides(tuple(overrides)):
        raise SettingsError(f"--units sets {key}, and an override sets it too: leave one out.")
    if key in arms.setup.plan.space.fixed:
        raise SettingsError(
            f"--units sets {key}, and the arms set it too ({arms.path}): take it out there."
        )
    return key


def run(arms: Arms, place: Place) -> None:
    """Trains what is missing of a sweep; a sweep of other settings or arms is refused by the verb,
    which says what differs.

    Raises:
        SettingsError: it was begun with overrides that are left out now, or it did not end well.
    """
    command = [sys.executable, "-m", "ray_jobs.sweep", arms.system, *place.overrides]
    command += ["--space", str(arms.path), "--seed", str(place.master_seed), "--paired"]
    document = SweepPaths(place.directory).document
    if document.exists():
        _check_overrides(document, place)
        command += ["--resume", str(place.directory)]
    else:
        command += ["--trials", str(len(arms.arms)), "--scheduler", "none"]
        command += ["--dir", str(place.directory)]
    ran = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    if ran.returncode not in (OK, SOME_FAILED, ALL_FAILED):  # an arm that diverges is a result
        raise SettingsError(
            f"{place.directory}: the sweep ended with status {ran.returncode}, for the reason "
            "above. The same command goes on once it is dealt with."
        )


def _check_overrides(document: Path, place: Place) -> None:
    """A resume compares only what is said again; an override that is left out would go unseen, and
    the table would mix two settings.
    """
    origins: Mapping[str, str] = json.loads(document.read_text(encoding="utf-8"))["origins"]
    before = {key for key, origin in origins.items() if origin == "override"}
    left_out = sorted(before - parse_overrides(place.overrides).keys())
    if left_out:
        raise SettingsError(
            f"{place.directory} was begun with other settings than these: {', '.join(left_out)} "
            "was overridden then and is not now. Give it again, or name another --dir."
        )


def measured_references(place: Place) -> Mapping[str, Mapping[str, Any]]:
    """What the sweep measured of the references; nothing where it has no such file."""
    path = SweepPaths(place.directory).references
    if not path.is_file():
        return {}
    found: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found
