"""A fault that an examination of a system may find."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A broken rule.

    Attributes:
        subject: the term, metric, key or member that breaks it.
        rule: what holds for every one of its kind.
        value: what was seen instead.
        way_out: what to change.
    """

    subject: str
    rule: str
    value: str
    way_out: str

    def __str__(self) -> str:
        value, way_out = (text.rstrip(". ") for text in (self.value, self.way_out))
        return f"{self.subject}: {self.rule}; {value}. {way_out}."
