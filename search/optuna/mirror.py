"""A mirror of the sweep in Optuna's own terms, for optuna-dashboard and for people's own Optuna
code: in a journal, an SQLite file, or on a server.

The log is the truth and the mirror is never read back. It is written through Optuna's public
storage interface.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from search.log import PAUSED, Event, SweepState, TrialRecord
from search.optuna.distributions import directions
from search.optuna.trials import OptunaTrials
from search.plan import JOURNAL, Plan
from settings.schema import SettingsError
from settings.warning import warn

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

SCHEMES = ("sqlite", "mysql", "mariadb", "postgresql", "oracle", "mssql", "grpc")


def check_storage(storage: str) -> None:
    """Checks the name of a storage.

    Raises:
        SettingsError: neither `journal` nor the URL of a database or of Optuna's gRPC proxy.
    """
    scheme = urlsplit(storage).scheme.split("+")[0]
    if storage != JOURNAL and (scheme not in SCHEMES or "://" not in storage):
        raise SettingsError(
            f"storage {storage!r}: write {JOURNAL} (the default: journal.log in the sweep's "
            "directory), sqlite:///FILE, the URL of a database as SQLAlchemy reads it "
            "(postgresql://user@host/name), or grpc://HOST:PORT of an Optuna proxy."
        )


class Mirror:
    """Copies the log of a sweep into an Optuna study: `open` first, then event by event. The first
    failure is reported, and the sweep continues without its mirror; the next resume makes it anew.

    To make one only imports what `open` needs: two threads that import parts of Optuna at once may
    find them half made, so a thread may open a mirror and the one that starts it must make it.

    Args:
        storage: the path of a journal, which is written anew from the log and replaces an older
            one atomically; or a URL (`check_storage`), where an existing study is continued, and
            replaced if it has finished a trial that the sweep continues.
        events: the log so far; of a sweep that is resumed, with the line that says so.
        identity: of the sweep. A study of the same name on a server that is not of this sweep is
            left alone.
        warn: called with a line that says what failed.
    """

    def __init__(
        self,
        storage: Path | str,
        plan: Plan,
        study_name: str,
        events: Iterable[Event] = (),
        *,
        identity: str = "",
        warn: Callable[[str], None] = warn,
    ) -> None:
        self.plan, self.study_name, self._optuna_trials = plan, study_name, OptunaTrials(plan)
        self.state = SweepState(events)
        self._place, self._identity, self._warn = storage, identity or study_name, warn
        self._broken = self._left = False
        self._shown: dict[int, _Shown] = {}  # the trials that may still change
        self._ended: set[int] = set()
        self._guarded(lambda: _import_storages(storage))

    def open(self) -> None:
        """Writes the log so far; seconds for thousands of trials."""
        if not self._broken:
            self._guarded(self._open)

    def leave(self) -> None:
        """From any thread: nothing more is written, for the sweep may soon be another process's. A
        journal that is not whole yet stays as it was before.
        """
        self._left = True

    def follow(self, *events: Event) -> None:
        """Adds the next events of the log; a trial that several of them are about is written once,
        as it is after the last one.
        """
        numbers: dict[int, None] = {}  # in their order: Optuna numbers trials as they come
        for event in events:
            self.state.apply(event)
            changed = (event["trial"],) if "trial" in event else (*self._shown, *numbers)
            numbers |= dict.fromkeys(changed)
        if not self._broken:
            self._guarded(lambda: self._take(numbers))

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # drivers of databases have no base class in common
            # The log has all, and a mirror is not worth a sweep.
            self._broken = True
            place = urlsplit(str(self._place))
            shown = f"{place.scheme}://{place.hostname}" if place.hostname else self._place
            self._warn(
                f"Optuna's mirror at {shown} is given up, and the sweep goes on: "
                f"{type(error).__name__}: {error}. To have it again, resume the sweep, or "
                "delete what stands in its way."
            )

    def _take(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self._left:
                return
            self._write(self.state.trials[number])

    def _open(self) -> None:
        if isinstance(self._place, Path):
            self._open_journal(self._place)
        else:
            self._open_server(self._place)

    def _open_journal(self, path: Path) -> None:
        fresh = path.with_name(path.name + ".new")
        for leftover in (fresh, Path(f"{fresh}.lock"), Path(f"{path}.lock")):
            leftover.unlink(missing_ok=True)
        self._use(_journal(fresh))
        self._take(sorted(self.state.trials))
        if self._left:
            fresh.unlink()
            return
        os.replace(fresh, path)
        self._use(_journal(path))

    def _open_server(self, url: str) -> None:
        storage = _server(url)
        studies = {s.study_name: s for s in storage.get_all_studies()}
        study = studies.get(self.study_name)
        if study is not None:
            if study.user_attrs.get("sweep") != self._identity:
                raise ValueError(
                    f"study {self.study_name!r} exists there and is not of this sweep; rename the "
                    "sweep's directory or delete that study"
                )
            if not self._adopt(storage, storage.get_study_id_from_name(self.study_name)):
                storage.delete_study(storage.get_study_id_from_name(self.study_name))
        self._use(storage)
        self._storage.set_study_user_attr(self._study_id, "sweep", self._identity)
        self._take(sorted(self.state.trials))

    def _adopt(self, storage: BaseStorage, study_id: int) -> bool:
        """Continues an existing study; False where it has finished a trial that the sweep
        continues, or has a trial that the sweep has not.
        """
        for there in storage.get_all_trials(study_id, deepcopy=False):
            number, trial = there.number, self.state.trials.get(there.number)
            if trial is None or (there.state.is_finished() and not self._is_over(trial)):
                self._shown, self._ended = {}, set()
                return False
            if there.state.is_finished():
                self._ended.add(number)
            else:
                own_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
                curve = dict(there.intermediate_values)
                self._shown[number] = _Shown(own_id, dict(there.user_attrs), curve)
        return True

    def _use(self, storage: BaseStorage) -> None:
        import optuna

        self._storage = storage
        study = optuna.create_study(
            storage=storage,
            study_name=self.study_name,
            directions=directions(self.plan.goal),
            load_if_exists=True,
        )
        self._study_id = storage.get_study_id_from_name(self.study_name)
        if "objective" not in study.user_attrs:
            study.set_user_attr("objective", self.plan.metric)
            study.set_metric_names([o.metric for o in self.plan.goal.objectives])

    def _is_over(self, trial: TrialRecord) -> bool:
        is_left = self.state.finished and trial.status == PAUSED
        return is_left or trial.is_final(self.plan.max_failures)

    def _write(self, trial: TrialRecord) -> None:
        number = trial.number
        if number in self._ended:
            return  # a late line; Optuna takes no change to a trial that has ended
        over, shown = self._is_over(trial), self._shown.get(number)
        if shown is None:
            frozen = self._optuna_trials.frozen(trial, over)
            own_id = self._storage.create_new_trial(self._study_id, frozen)
            shown = _Shown(own_id, dict(frozen.user_attrs), dict(frozen.intermediate_values))
            self._shown[number] = shown
        else:
            self._write_changes(trial, shown, over)
        if over:
            del self._shown[number]
            self._ended.add(number)

    def _write_changes(self, trial: TrialRecord, shown: _Shown, over: bool) -> None:
        for step, value in self._optuna_trials.curve(trial).items():
            if step not in shown.curve or not _same(shown.curve[step], value):
                self._storage.set_trial_intermediate_value(shown.id, step, value)
                shown.curve[step] = value
        for name, note in self._optuna_trials.notes(trial).items():
            if note != shown.notes.get(name, ""):
                self._storage.set_trial_user_attr(shown.id, name, note)
                shown.notes[name] = note
        if over:
            frozen = self._optuna_trials.frozen(trial, over)
            for name, value in frozen.system_attrs.items():  # the constraints
                self._storage.set_trial_system_attr(shown.id, name, value)
            self._storage.set_trial_state_values(shown.id, frozen.state, frozen.values)


@dataclass
class _Shown:
    """The content of the mirror for a trial that may still change."""

    id: int
    notes: dict[str, Any]
    curve: dict[int, float]


def _import_storages(place: Path | str) -> None:
    """Imports what a mirror at a place works with, and has Optuna say no more than it must: Python
    filters warnings for all threads at once, so that is no matter for a thread either.
    """
    import optuna.storages.journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings(
        "ignore", ".*set_metric_names", optuna.exceptions.ExperimentalWarning
    )
    if isinstance(place, str) and urlsplit(place).scheme != "grpc":
        # Optuna imports what it needs of a database at the first use: here one in memory.
        optuna.storages.RDBStorage("sqlite:///:memory:").engine.dispose()


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _server(url: str) -> BaseStorage:
    from optuna.storages import GrpcStorageProxy, RDBStorage

    place = urlsplit(url)
    if place.scheme == "grpc":
        return GrpcStorageProxy(host=place.hostname or "localhost", port=place.port or 13000)
    # A dashboard that reads an SQLite file locks it for a moment.
    patience = {"connect_args": {"timeout": 30}} if place.scheme == "sqlite" else None
    return RDBStorage(url, engine_kwargs=patience)


def _same(value: float, other: float) -> bool:
    return value == other or (math.isnan(value) and math.isnan(other))
