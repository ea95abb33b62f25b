"""The space of a sweep over its settings, and the documented points placed in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from search_spaces.checks import check_space
from search_spaces.domains import same_value
from search_spaces.space import Point, Space
from settings.command import command
from settings.files import PRESETS, preset_file, read_settings_file
from settings.match import matches
from settings.schema import SettingsError, Value, conform
from settings.show import value_text
from trainables.configured import Configured
from trainables.stepping.train_settings import computes

SET_BY_POINTS = (
    "train.clip_norm",
    "train.ema_*",
    "train.patience",
    "train.overfit_ratio",
    "train.precision",
)
"""Of `train.*` what a documented point sets, beside its network, loss and optimizer; the precision
where its trials compute it.
"""

_SHARED, _MACHINE = "the same for all trials", "up to the machine"

KEPT_BY_SWEEP = {
    "data.*": "prepared once for all trials",
    "optimizer.warmup*": _SHARED,
    "train.steps": _SHARED,
    "train.batch_size": _SHARED,
    "train.validation_batch_size": _SHARED,
    "train.accumulate": _SHARED,
    "train.report_every": _SHARED,
    "train.checkpoint_every": _SHARED,
    "train.keep_every": _SHARED,
    "train.max_skipped_steps": _SHARED,
    "train.seed": _SHARED,
    "train.init_from": _SHARED,
    "train.external": _MACHINE,
    "train.test": _SHARED,
    "train.measure_idle_terms": _SHARED,
    "train.loader_*": _MACHINE,
    "train.compile": _MACHINE,
    "train.channels_last": _MACHINE,
    "train.finite_check_every": _MACHINE,
    "train.tensorboard": _MACHINE,
    "train.figures": _MACHINE,
    "train.examine_every": _SHARED,
    "train.count_flops": _MACHINE,
    "train.term_gradients": _MACHINE,
}
"""Keys (patterns of fnmatch) that a documented point does not change, each with the reason: it is
compared under the sweep's own length and data.
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
    name: str, configured: Configured, space: Space, overrides: Sequence[str], gpu: bool
) -> tuple[tuple[Point, ...], list[str]]:
    """The points of a bound space, each as a trial of this sweep sets it, and a line on each that
    has values which its trial does not take.

    Args:
        name: of the system, below which its presets lie.
        overrides: keys (patterns of fnmatch) that stay as the sweep has them, besides those of
            `KEPT_BY_SWEEP`.
        gpu: whether trials have one.

    Raises:
        SettingsError: a preset that is missing, sets what the system does not have, or breaks a
            rule under the sweep's settings.
    """
    leaves, points, notes = configured.leaves, [], []
    for source in space.points:
        preset, sets = _point_values(name, source)
        typed = {
            key: conform(key, leaves[key], value) for key, value in sets.items() if key in leaves
        }
        missing = [key for key in sets if key not in leaves]
        if missing:
            raise SettingsError(f"preset {preset} sets {missing[0]}, which {name} does not have.")
        kept = {key: _why_kept(key, value, overrides, gpu) for key, value in typed.items()}
        taken = {key: value for key, value in typed.items() if not kept[key]}
        point = space.place(preset, taken, configured.values)
        try:
            configured.under(point.sampled)  # a point must be legal as a whole
        except SettingsError as error:
            raise SettingsError(f"point {preset}, under this sweep's settings: {error}") from None
        points.append(point)
        lost = {
            key: why
            for key, why in kept.items()
            if why and not same_value(typed[key], configured.values[key])
        }
        if lost:
            notes.append(f"point {preset} is trained without {_by_reason(lost, typed)}")
    return tuple(points), notes


def _why_kept(key: str, value: Value, overrides: Sequence[str], gpu: bool) -> str:
    """Why a trial does not take this value of a point; "" where it does."""
    for pattern, why in KEPT_BY_SWEEP.items():
        if fnmatchcase(key, pattern):
            return why
    if matches(key, overrides):
        return "fixed by an override"
    if key == "train.precision" and not computes(str(value), gpu):
        return "needs a GPU, and a trial has none: --gpus 1"
    return ""


def _by_reason(lost: Mapping[str, str], values: Mapping[str, Value]) -> str:
    """`key=value, key=value (reason); ...`, in the order of the reasons' first keys."""
    groups: dict[str, list[str]] = {}
    for key, why in lost.items():
        groups.setdefault(why, []).append(f"{key}={value_text(values[key])}")
    return "; ".join(f"{', '.join(pairs)} ({why})" for why, pairs in groups.items())


def _point_values(system: str, source: str) -> tuple[str, Mapping[str, Value]]:
    """Name and values of a preset, or of a settings file that a user's own space names."""
    is_file = source.endswith((".yaml", ".yml"))
    path = Path(source)
    file = read_settings_file(path, arm=True) if is_file else preset_file(system, source, PRESETS)
    if file.timeline:
        raise SettingsError(
            f"point {source} has a timeline, and a sweep holds a trial's settings throughout: "
            f"train it ({command('train')} --settings FILE), or leave the timeline out."
        )
    return (path.stem if is_file else source), file.values
