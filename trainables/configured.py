"""A system under given settings: what is read of it before anything is prepared or trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from losses.composite import Composite
from losses.schedules import FINAL_VALUE
from metrics.metric import Column, Metric
from settings.flat import flatten, leaves, replace
from settings.schema import Leaf, Value
from trainables.examination import examined_columns
from trainables.parts import Phase
from trainables.stepping.inputs import check_schedules
from trainables.stepping.train_settings import SystemSettings
from trainables.system import System


@dataclass(frozen=True)
class Configured:
    """A system and its settings. Its phases and metrics are made once, without data."""

    system: System
    settings: SystemSettings

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Every setting that the system has, by dotted key."""
        return leaves(self.system.Settings)

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """The settings by dotted key."""
        return flatten(self.settings)

    @property
    def steps(self) -> int:
        """The length of a training, `train.steps`."""
        return self.settings.train.steps

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of a step.

        Raises:
            SettingsError: a schedule is not called by its settings key.
        """
        phases = tuple(self.system.phases(self.settings, None))
        check_schedules(phases, self.settings)
        return phases

    @property
    def composite(self) -> Composite:
        """The loss of the first phase, which validation reports."""
        return self.phases[0].composite

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What validation measures beside the loss."""
        return tuple(self.system.metrics(self.settings, None))

    @cached_property
    def validation_reads(self) -> tuple[str, ...]:
        """The settings keys that every measure reads, because the forward of a validation does:
        those of the final values of schedules.
        """
        first = self.phases[0]
        measured = (key for key in first.schedules if key not in first.training_schedules)
        return tuple(f"{key}.{name}" for key in measured for name in FINAL_VALUE)

    @cached_property
    def measures(self) -> tuple[Metric | Column, ...]:
        """Its metrics and the columns of its examinations: what may judge a trial.

        Raises:
            SettingsError: two of them have one name.
        """
        examinations = self.system.examinations(self.settings, None)
        return (*self.metrics, *examined_columns(examinations, self.metrics))

    def under(self, changes: Mapping[str, Any]) -> Configured:
        """The same system with some settings changed.

        Raises:
            SettingsError: an unknown key, a wrong type, or a value out of range.
        """
        return Configured(self.system, replace(self.settings, changes))
