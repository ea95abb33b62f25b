"""What a sweep measures beside its trials, so that a value says something: the system's references
once, in the process of the first segment that comes to its end; and when the sweep is finished its
winner and its documented point by unit, and with `--test` all of them on the test split.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.engine.trial import SweepContext, prepare_once
from settings.atomic_file import atomic_file
from settings.paths import SweepPaths
from settings.warning import warn

if TYPE_CHECKING:
    from ray_jobs.engine.driver import Driver


@dataclass
class ReferencesOnce:
    """Chooses the segment that measures the references: the first, and the next one where that
    ended before it could. The segment's last report is in before it measures, so that no trial
    waits for it; its own end comes later by the time of the measurement.
    """

    paths: SweepPaths
    _asked: str = ""
    _open: bool = field(init=False)

    def __post_init__(self) -> None:
        self._open = not self.paths.references.exists()

    def asked_of(self, ray_id: str) -> bool:
        """Whether this segment, which is being handed out, is to measure them."""
        if not self._open or self._asked:
            return False
        self._asked = ray_id
        return True

    def ended(self, ray_id: str) -> None:
        """Looks what came of it."""
        if ray_id != self._asked:
            return
        self._asked = ""
        if self.paths.references_error.exists():
            lines = self.paths.references_error.read_text().strip().splitlines()
            warn(
                f"the references could not be measured: {lines[-1]} "
                f"({self.paths.references_error}). The sweep goes on without them; a resume tries "
                "again."
            )
            self._open = False
        elif self.paths.references.exists():
            self._open = False


def measure_references_once(context: SweepContext) -> None:
    """Measures the references on the validation samples, with the sweep's fixed settings, into
    `references.json`. What goes wrong is written to a file of its own: it is no fault of the trial
    whose process this is.
    """
    context.paths.references_error.unlink(missing_ok=True)
    try:
        _write(context.paths.references, _references(context, "validation"))
    except Exception:  # whatever a system raises
        context.paths.references_error.write_text(traceback.format_exc())


def _references(context: SweepContext, split: str) -> dict[str, Any]:
    from settings.flat import replace
    from trainables.reporting.references import measure_references
    from trainables.system import load_system

    system = load_system(context.system)
    settings = replace(system.Settings(), context.settings)
    document = replace(settings, context.document)
    prepared = prepare_once(system, settings, Path(context.cache))
    return measure_references(system, settings, prepared, split, document)


Trainings = Mapping[int, tuple[int, int]]
"""(the configuration, the step) of each training, by its trial."""


def take_look(
    context: SweepContext, split: str, trials: Trainings, references: bool
) -> dict[str, Any]:
    """{"trials": {trial: measured}, "references": {name: measured}} of a split; a training whose
    checkpoint is not kept is left out.
    """
    measured = {
        str(trial): {"configuration": configuration, "step": step, **columns}
        for trial, (configuration, step) in trials.items()
        if (columns := _training(context, trial, step, split)) is not None
    }
    return {
        "trials": measured,
        "references": _references(context, split) if references else {},
    }


def _training(
    context: SweepContext, trial: int, step: int, split: str
) -> Mapping[str, Any] | None:
    from settings.flat import replace
    from trainables.checkpoints import checkpoint
    from trainables.reporting.references import measure_by_unit
    from trainables.system import load_system

    path = context.checkpoint(trial, step)
    if not path.exists():
        return None
    system = load_system(context.system)
    settings = replace(system.Settings(), checkpoint.read_meta(path)["settings"])
    prepared = prepare_once(system, settings, Path(context.cache))
    return measure_by_unit(system, settings, prepared, path, split)


def look_at_the_winner(driver: Driver, test: bool) -> None:
    """Measures the winner and the documented point by unit, and with `test` on the test split.
    What is known is not measured again; a failure is told and ends nothing.
    """
    from results.directory import read_sweep
    from results.frame import load_sweep
    from results.references import compared

    root = driver.context.root
    try:
        trials = compared(load_sweep(root, repeats=True), read_sweep(root))
        if trials:
            _measure_by_unit(driver, trials)
        if trials and test:
            _test(driver, trials)
    except Exception as error:  # whatever a system raises: the trials are what the sweep was for
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        warn(f"the winner could not be measured by unit: {problem}. A resume tries again.")


def _measure_by_unit(driver: Driver, trials: Trainings) -> None:
    path = driver.context.paths.by_unit
    known = _read(path)
    missing = {t: it for t, it in trials.items() if known.get(str(t), {}).get("step") != it[1]}
    found = _look(driver, "validation", missing, references=False) if missing else None
    if found is not None:
        _write(path, {**known, **found["trials"]})


def _test(driver: Driver, trials: Trainings) -> None:
    """One look at the test split; none where nothing has happened since the last one."""
    path = driver.context.paths.test
    looks = _read(path).get("looks", [])
    place = len(driver.state.changes)
    if looks and looks[-1]["place"] == place:
        return
    found = _look(driver, "test", trials, references=True)
    if found is not None:
        _write(path, {"looks": [*looks, {"look": len(looks) + 1, "place": place, **found}]})


def _look(
    driver: Driver, split: str, trials: Trainings, references: bool
) -> dict[str, Any] | None:
    """Takes a look on the resources of a trial: here, or on a node with a GPU where trials have
    one. None where the sweep is being stopped.
    """
    context = driver.context
    if not context.gpus:
        found = take_look(context, split, trials, references)
    else:
        import ray

        task = ray.remote(num_cpus=context.cpus, num_gpus=context.gpus)(take_look)
        waiting = task.remote(context, split, trials, references)
        while not ray.wait([waiting], timeout=1.0)[0]:
            if driver.stopping:
                ray.cancel(waiting, force=True)
                return None
        found = ray.get(waiting)
    for trial in trials:
        if str(trial) not in found["trials"]:
            warn(
                f"trial {trial} is not measured by unit, for its checkpoint of step "
                f"{trials[trial][1]} is gone: what is said of it has no error."
            )
    return found


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(content) + "\n")
