"""Lineage of a trial: whose weights it has, under which settings they were trained, and the
schedule of settings that results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from results.directory import Sweep, read_history, read_sweep
from results.store import SweepError
from search.log import COMPLETE, TrialRecord
from settings.files import write_settings
from settings.timeline import SEED, Stretch


@dataclass(frozen=True)
class Stage:
    """A part of a lineage: the trial that trained from one step to another, and how.

    Attributes:
        settings: of the trial, where they differ from the sweep's.
    """

    from_step: int
    to_step: int
    trial: int
    seed: int
    settings: Mapping[str, Any]


def lineage(directory: str | os.PathLike[str], trial: int) -> list[Stage]:
    """The stages of a trial's weights from their initialisation to its last report.

    Where the trial took over the weights of another one, the earlier stages are those of the
    other.

    Raises:
        SweepError: no sweep directory, or no such trial in it.
    """
    sweep = read_sweep(directory)
    return _stages(_records(sweep), sweep.path, trial)


def _records(sweep: Sweep) -> dict[int, TrialRecord]:
    """The trials by number, in ascending order."""
    return {trial.number: trial for trial in read_history(sweep).trials}


def _stages(records: Mapping[int, TrialRecord], directory: Path, trial: int) -> list[Stage]:
    if trial not in records:
        raise SweepError(
            f"{directory} has no trial {trial}. Its trials: "
            f"{', '.join(map(str, records)) or 'none yet'}."
        )
    stages: list[Stage] = []
    number, end = trial, records[trial].step
    while True:
        record = records[number]
        begin = max((step for step in record.spans if step < end), default=0)
        span = record.spans.get(begin)
        sampled = dict(span.sampled) if span else dict(record.sampled)
        stages.append(Stage(begin, end, number, record.seed, sampled))
        if begin == 0:
            return _joined(stages[::-1])
        number, end = (span.start[0] if span and span.start else number), begin


def _joined(stages: Sequence[Stage]) -> list[Stage]:
    """The stages with neighbours of one trial and the same settings joined."""
    joined: list[Stage] = []
    for stage in stages:
        last = joined[-1] if joined else None
        if last and last.trial == stage.trial and last.settings == stage.settings:
            stage = replace(stage, from_step=last.from_step)
            joined.pop()
        joined.append(stage)
    return joined


def export_schedule(
    directory: str | os.PathLike[str], trial: int, file: str | os.PathLike[str]
) -> list[Stage]:
    """Writes a trial's lineage as a settings file with a timeline, which
    `python -m ray_jobs.train SYSTEM --settings FILE` trains again; returns the lineage.

    Seeds included: the training repeats the numbers of the lineage on the same kind of machine.
    With `train.seed=N` it is the same schedule under another seed.

    Raises:
        SweepError: no such trial, or one that has not been trained to its end.
    """
    sweep = read_sweep(directory)
    path, records = sweep.path, _records(sweep)
    stages = _stages(records, path, trial)
    record = records[trial]
    if record.status != COMPLETE:
        done = [str(number) for number, other in records.items() if other.status == COMPLETE]
        complete = ", ".join(done) or "none yet"
        raise SweepError(
            f"trial {trial} of {path} is {record.status} at step {record.step}: a schedule is "
            f"that of a whole training. Complete trials: {complete}."
        )
    timeline = [Stretch(stage.to_step, {SEED: stage.seed, **stage.settings}) for stage in stages]
    steps = int(sweep.settings["train.steps"])
    timeline[-1] = Stretch(steps, timeline[-1].values)  # one that has ended itself does it again
    about = f"schedule of trial {trial} of the sweep {path.resolve().name}: " + ", ".join(
        f"to step {stage.to_step} as trial {stage.trial}" for stage in stages
    )
    write_settings(Path(file), sweep.settings, about=about, timeline=timeline)
    return stages
