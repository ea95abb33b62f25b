"""Which checkpoint a verb means: a folder of one, a training, or a trial of a sweep."""

from __future__ import annotations

from pathlib import Path


def find_checkpoint(path: Path, best: bool = False) -> Path:
    """The checkpoint at `path`: itself, or the newest of a training; with `best` the training's
    best one by its objective, the newest where none is known.

    Raises:
        CheckpointError: there is none.
    """
    from trainables import checkpoint

    if (path / "meta.json").exists():
        return path
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    found = checkpoint.available(folder) if folder.is_dir() else []
    if not found:
        raise checkpoint.CheckpointError(
            f"{path} is neither a checkpoint (step-*/meta.json) nor a folder with some."
        )
    noted = checkpoint.read_meta(found[-1]).get("best") if best else None
    known = {checkpoint.step_of(step): step for step in found}
    return known.get(noted[0], found[-1]) if noted else found[-1]


def trial_number(sweep: Path, wanted: str) -> int:
    """The number of a sweep's trial, from `best` or digits.

    Raises:
        SettingsError: no trial is complete yet, or there is none of that number.
    """
    from results.frame import load_sweep
    from settings.schema import SettingsError

    frame = load_sweep(sweep)
    if wanted == "best":
        winners = frame.loc[frame["is_best"], "trial"]
        if winners.empty:
            raise SettingsError(
                f"no trial of {sweep} is complete, so there is no best one; name one with --trial."
            )
        return int(winners.iloc[0])
    known = frame["trial"].tolist()
    if not wanted.isdigit() or int(wanted) not in known:
        there = f"one of {min(known)} .. {max(known)}" if known else "any: none has started"
        raise SettingsError(f"--trial is best or {there}, not {wanted!r}.")
    return int(wanted)


def trial_directory(sweep: Path, number: int) -> Path:
    return sweep / "trials" / f"{number:04d}"
