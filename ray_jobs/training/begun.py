"""What a directory holds of a training, before one begins there or goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ray_jobs.training.stages import FILE
from settings.paths import TrainingPaths
from settings.warning import warn

if TYPE_CHECKING:
    from trainables.stepping.train_settings import SystemSettings


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
