"""The pre-flight check of a sweep's jobs, made once for settings that it cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from settings.schema import Settings, Value
from settings.watched import watched
from trainables.configured import Configured

REMEMBERED = 4096
"""Answers; at some 500 B each, 2 MB. A trial that waited at a rung comes back for its own, which
is behind those of the trials since.
"""

Answer = list[str] | ValueError


class Preflight:
    """What speaks against a trial's values, in words (`System.preflight`).

    It is asked on the driver's own thread for each job: a draw that is refused there costs no
    process. The check may take seconds, and repeats, trials that go on from a rung and draws that
    differ in nothing that it reads get the answer of the first. What it reads is found out as it
    runs: two settings that agree in all that one of the two runs has read are the same to it.

    Args:
        prepared: constant over the sweep, as all that the check knows beside the settings.
    """

    def __init__(self, configured: Configured, prepared: Any) -> None:
        self._configured, self._prepared = configured, prepared
        self._answers: dict[tuple[str, ...], dict[tuple[Value, ...], Answer]] = {}
        self._ages: dict[tuple[tuple[str, ...], tuple[Value, ...]], None] = {}  # the oldest first

    def __call__(self, sampled: Mapping[str, Any]) -> list[str]:
        """The findings on a trial; a hopeless one is marked.

        Raises:
            ValueError: the values break a rule between keys, or the check refuses them.
            RuntimeError: the check failed; it is made again the next time, since the reason may
                lie in the machine.
        """
        trial = self._configured.under(sampled)
        answer = self._known(trial.settings)
        if answer is None:
            answer = self._asked(trial)
        if isinstance(answer, ValueError):
            raise answer.with_traceback(None)
        return list(answer)

    def _known(self, settings: Settings) -> Answer | None:
        for keys, answers in self._answers.items():
            key = _values(settings, keys)
            if key in answers:
                self._ages[keys, key] = self._ages.pop((keys, key))
                return answers[key]
        return None

    def _asked(self, trial: Configured) -> Answer:
        read: dict[str, None] = {}
        settings = watched(trial.settings, read.setdefault)
        answer: Answer
        try:
            findings = trial.system.preflight(settings, self._prepared)
            answer = [f"{'hopeless: ' if one.hopeless else ''}{one.text}" for one in findings]
        except ValueError as error:
            answer = error.with_traceback(None)
        keys = tuple(sorted(read))
        key = _values(trial.settings, keys)
        self._answers.setdefault(keys, {})[key] = answer
        self._ages[keys, key] = None
        if len(self._ages) > REMEMBERED:
            self._forget(*next(iter(self._ages)))
        return answer

    def _forget(self, keys: tuple[str, ...], key: tuple[Value, ...]) -> None:
        del self._ages[keys, key], self._answers[keys][key]
        if not self._answers[keys]:
            del self._answers[keys]


def _values(settings: Settings, keys: Sequence[str]) -> tuple[Value, ...]:
    return tuple([attrgetter(key)(settings) for key in keys])
