"""What a sweep measures when it is finished: its winner and its documented point by unit, on the
validation samples and, with `--test`, on the test split, there with the references.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrics.paired import FEWEST
from ray_jobs.engine.driver import Driver
from ray_jobs.engine.trial import SweepContext, prepare_once, references_of
from settings.atomic_file import atomic_file
from settings.warning import warn
from trainables.run import SupersededError

Trainings = Mapping[int, tuple[int, int]]
"""(the configuration, the step) of each training, by its trial."""


def take_look(
    context: SweepContext, split: str, trials: Trainings, references: bool
) -> dict[str, Any]:
    """{"trials": {trial: measured}, "references": {name: measured}} of a split."""
    measured = {
        str(trial): {
            "configuration": configuration,
            "step": step,
            **_training(context, trial, step, split),
        }
        for trial, (configuration, step) in trials.items()
    }
    return {
        "trials": measured,
        "references": references_of(context, split) if references else {},
    }


def _training(context: SweepContext, trial: int, step: int, split: str) -> Mapping[str, Any]:
    from settings.flat import replace
    from trainables.checkpoints import checkpoint
    from trainables.checkpoints.external import KEY
    from trainables.reporting.references import measure_by_unit
    from trainables.system import load_system

    path = context.checkpoint(trial, step)
    system = load_system(context.system)
    moved = {key: value for key, value in context.settings.items() if key == KEY and value}
    settings = replace(system.Settings(), {**checkpoint.read_meta(path)["settings"], **moved})
    prepared = prepare_once(system, settings, Path(context.cache))
    return measure_by_unit(system, settings, prepared, path, split)


def look_at_the_winner(driver: Driver, test: bool) -> None:
    """Measures the winner and the documented point by unit, and with `test` on the test split; the
    references too, where no segment has. What is known is not measured again; a failure is told
    and ends nothing.
    """
    from results.directory import read_sweep
    from results.frame import load_sweep
    from results.references import compared

    context = driver.context
    try:
        if not (context.paths.references.exists() or driver.references.failed):
            found = _look(driver, "validation", {}, references=True)
            if found is not None:
                _write(driver, context.paths.references, found["references"])
        if not (test or _may_have_an_error(driver)):
            return
        trials = compared(load_sweep(context.root, repeats=True), read_sweep(context.root))
        there = {t: it for t, it in trials.items() if context.checkpoint(t, it[1]).exists()}
        for trial in trials.keys() - there.keys():
            warn(
                f"trial {trial} is not measured by unit, for its checkpoint of step "
                f"{trials[trial][1]} is gone: what is said of it has no error, and the test split "
                "is not looked at without the winner."
            )
        winner = next((it[0] for it in trials.values()), None)  # the first is a training of it
        if trials and all(t in there for t, it in trials.items() if it[0] == winner):
            if _may_have_an_error(driver):
                _measure_by_unit(driver, there)
            if test:
                _test(driver, there)
    except SupersededError:
        raise
    except Exception as error:  # whatever a system raises: the trials are what the sweep was for
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        warn(f"the winner could not be measured by unit: {problem}. A resume tries again.")


def _may_have_an_error(driver: Driver) -> bool:
    """Whether the validation samples are of so many units that differences over them have one."""
    references = _read(driver.context.paths.references)
    return all(len(measured["unit"]) >= FEWEST for measured in references.values())


def _measure_by_unit(driver: Driver, trials: Trainings) -> None:
    path = driver.context.paths.by_unit
    known = _read(path)
    missing = {t: it for t, it in trials.items() if known.get(str(t), {}).get("step") != it[1]}
    found = _look(driver, "validation", missing, references=False) if missing else None
    if found is not None:
        _write(driver, path, {**known, **found["trials"]})


def _test(driver: Driver, trials: Trainings) -> None:
    """One look at the test split; none where nothing has happened since the last one."""
    path = driver.context.paths.test
    looks = _read(path).get("looks", [])
    place = len(driver.state.changes)
    if looks and looks[-1]["place"] == place:
        return
    found = _look(driver, "test", trials, references=True)
    if found is not None:
        look = {"look": len(looks) + 1, "place": place, **found}
        _write(driver, path, {"looks": [*looks, look]})


def _look(
    driver: Driver, split: str, trials: Trainings, references: bool
) -> dict[str, Any] | None:
    """Takes a look on the resources of a trial: here, or on a node with a GPU where trials have
    one. None where the sweep is being stopped.
    """
    context = driver.context
    if not context.gpus:
        return take_look(context, split, trials, references)
    import ray

    task = ray.remote(num_cpus=context.cpus, num_gpus=context.gpus)(take_look)
    waiting = task.remote(context, split, trials, references)
    while not ray.wait([waiting], timeout=1.0)[0]:
        if driver.stopping:
            ray.cancel(waiting, force=True)
            return None
    found: dict[str, Any] = ray.get(waiting)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it") from error


def _write(driver: Driver, path: Path, content: Mapping[str, Any]) -> None:
    if not driver.still_owner():
        raise SupersededError(f"{path.parent}: another process has taken this sweep over.")
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(content) + "\n")
