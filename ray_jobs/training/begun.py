"""What a directory holds of a training, before one begins there or goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.training.stages import FILE, Shapes, shapes
from settings.paths import TrainingPaths
from settings.warning import warn

if TYPE_CHECKING:
    from settings.schema import Value
    from trainables.stepping.train_settings import SystemSettings
    from trainables.system import System


def check_begun(directory: Path, resume: bool) -> None:
    """Refuses to begin where there is a training, and to go on where there is none."""
    from settings.schema import SettingsError
    from trainables.checkpoints import checkpoint

    paths, chained = TrainingPaths(directory), (directory / FILE).exists()
    started = chained or paths.checkpoints.exists() or paths.reports.exists()
    if not resume and (started or any(directory.glob(f"{checkpoint.STAGE}*"))):
        raise SettingsError(
            f"{directory} holds a training already. Go on with --resume, or name another "
            "directory."
        )
    if resume and not started:
        raise nothing_to_resume(directory)
    if resume and not chained and not checkpoint.available(paths.checkpoints):
        why = checkpoint.why_removed(paths.checkpoints)
        why = f"{why}\nThis" if why else f"{directory} holds no checkpoint yet: this"
        warn(f"{why} starts from step 0")


def nothing_to_resume(directory: Path) -> Exception:
    from settings.schema import SettingsError

    return SettingsError(
        f"{directory} holds no training to resume. Leave out --resume to begin one, or name its "
        "directory by --dir."
    )


def check_length(settings: SystemSettings, directory: Path) -> None:
    """Refuses settings under which a training would have fewer steps than it has done.

    Raises:
        SettingsError: with both numbers, and the ways out.
    """
    from settings.schema import SettingsError
    from trainables.checkpoints import checkpoint

    paths = checkpoint.available(TrainingPaths(directory).checkpoints)
    done, steps = checkpoint.step_of(paths[-1]) if paths else 0, settings.train.steps
    if steps < done:
        raise SettingsError(
            f"train.steps must be at least the {done} steps that {directory} has done, not "
            f"{steps}: a training does not go back. Leave it out to keep the length, give more, "
            "or train anew in another directory."
        )


def check_network(system: System, settings: SystemSettings, directory: Path) -> None:
    """Refuses settings under which the network would be another than that of the newest readable
    checkpoint, before the data are prepared. Whether one can be built without them is the
    system's: where it cannot, its weights are refused when they are loaded.

    Raises:
        SettingsError: with the keys, both values of each, and the ways out.
    """
    from settings.flat import flatten, replace
    from settings.schema import SettingsError, listed
    from trainables.checkpoints.restore import built_without_data

    path, meta = newest(directory)
    if path is None:
        return
    before, now = flatten(replace(system.Settings(), meta["settings"])), flatten(settings)
    changed = [key for key in now if now[key] != before[key] and not key.startswith("train.")]
    if not changed:
        return

    def network(values: Mapping[str, Value]) -> Shapes:
        tree = replace(system.Settings(), values)
        return shapes(built_without_data(system, tree, meta, path))

    try:
        stored = network(before)
    except Exception:  # of a system without its data: any; with them it is built, or says why not
        return
    if network(now) == stored:
        return

    def is_another(key: str) -> bool:
        try:
            return network({**before, key: now[key]}) != stored
        except SettingsError:  # by itself it does not go with the others
            return True

    keys = [key for key in changed if is_another(key)] or changed
    values = [f"{key} is {listed(before[key])} there, not {listed(now[key])}" for key in keys]
    raise SettingsError(
        f"a training that goes on keeps its network, and {directory} has another: "
        f"{'; '.join(values)}. Leave {'it' if len(keys) == 1 else 'them'} out to go on, or train "
        "the other network in another directory."
    )


def newest(directory: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """The newest readable checkpoint with its meta; (None, {}) where there is none."""
    from trainables.checkpoints import checkpoint

    for path in reversed(checkpoint.available(TrainingPaths(directory).checkpoints)):
        with contextlib.suppress(checkpoint.CheckpointError):
            return path, checkpoint.read_meta(path)
    return None, {}
