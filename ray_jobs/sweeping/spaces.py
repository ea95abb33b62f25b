"""The space of a sweep over its settings, and the documented points placed in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from search_spaces.checks import check_space
from search_spaces.space import Point, Space
from settings.command import command
from settings.files import PRESETS, preset_file, read_settings_file
from settings.schema import SettingsError, Value, conform
from trainables.configured import Configured

KEPT_BY_POINTS = ("train.*", "data.*", "optimizer.warmup*")
"""A documented point is compared under the sweep's own length and data; these keys it does not
change.
"""

_OF_THE_SWEEP = ("train.steps", "train.report_every", "train.seed")
"""Keys that a sweep makes its rungs, schedules and seeds from; all trials share them."""


def bound_space(configured: Configured, space: Space, overrides: Sequence[str]) -> Space:
    """The space, checked against the system and bound to the settings.

    Args:
        overrides: keys that the command line fixes.

    Raises:
        SettingsError: a key that cannot be searched, or that is fixed as well; a domain out of
            range; no weight left as an anchor.
    """
    for key in _OF_THE_SWEEP:
        if key in space.domains:
            raise SettingsError(
                f"{key} cannot be searched: the sweep's rungs, schedules and seeds are made from "
                f"it. Fix it with {key}=VALUE, one sweep for each value."
            )
    composite = configured.composite
    weights = composite.weights(configured.steps, configured.steps)
    return check_space(
        space,
        configured.leaves,
        overrides,
        prepare_reads=configured.system.prepare_reads,
        enabled_terms=[name for name, weight in weights.items() if weight != 0.0],
        weights=composite.prefix,
    ).bind(configured.values)


def documented_points(
    name: str, configured: Configured, space: Space, overrides: Sequence[str]
) -> tuple[Point, ...]:
    """The points of a bound space, each as a trial of this sweep sets it.

    Args:
        name: of the system, below which its presets lie.

    Raises:
        SettingsError: a preset that is missing, or sets what the system does not have.
    """
    leaves, points = configured.leaves, []
    for source in space.points:
        preset, sets = _point_values(name, source)
        typed = {
            key: conform(key, leaves[key], value) for key, value in sets.items() if key in leaves
        }
        missing = [key for key in sets if key not in leaves]
        if missing:
            raise SettingsError(f"preset {preset} sets {missing[0]}, which {name} does not have.")
        point = space.place(preset, typed, configured.values, keep=(*KEPT_BY_POINTS, *overrides))
        configured.under(point.sampled)  # a point must be legal as a whole
        points.append(point)
    return tuple(points)


def _point_values(system: str, source: str) -> tuple[str, Mapping[str, Value]]:
    """Name and values of a preset, or of a settings file that a user's own space names."""
    is_file = source.endswith((".yaml", ".yml"))
    file = read_settings_file(Path(source)) if is_file else preset_file(system, source, PRESETS)
    if file.timeline:
        raise SettingsError(
            f"point {source} has a timeline, and a sweep holds a trial's settings throughout: "
            f"train it ({command('train')} --settings FILE), or leave the timeline out."
        )
    return (Path(source).stem if is_file else source), file.values
