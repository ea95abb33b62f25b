"""Which trial of a sweep a verb means."""

from __future__ import annotations

from pathlib import Path


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
    if not wanted.isdecimal() or int(wanted) not in known:
        there = f"one of {min(known)} .. {max(known)}" if known else "any: none has started"
        raise SettingsError(f"--trial is best or {there}, not {wanted!r}.")
    return int(wanted)
