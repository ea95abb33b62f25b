"""Options as fields of a dataclass: each is declared once, with its default, its flag, its help
and what a resume may do with it; the command line, the stored document and the plan follow.
"""

from __future__ import annotations

import dataclasses
import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Resume = Literal["same", "more", "new", "meaning", "start"]
"""What a resume may say of an option: the same as before; more than before; anything, which holds
from then on; other words of the same meaning (a metric's sum, a space's file); or nothing, since
only the start reads it.
"""


@dataclass(frozen=True)
class Option:
    """How an option is spelled, and what is said of it.

    Attributes:
        group: heading under which `--help` lists it.
        resume: what a resume may say of it.
        argument: keyword arguments of `ArgumentParser.add_argument`.
    """

    flag: str
    group: str
    resume: Resume
    argument: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The attribute under which argparse leaves its value."""
        return self.flag.lstrip("-").replace("-", "_")


def option(
    default: object, flag: str, *, group: str, resume: Resume = "same", **argument: object
) -> Any:
    """A field of a dataclass that is an option of the command line.

    Args:
        argument: of `ArgumentParser.add_argument`: type, metavar, choices, help, ...
    """
    declared = Option(flag, group, resume, argument)
    return dataclasses.field(default=default, metadata={"option": declared})


def options_of(kind: type) -> dict[str, Option]:
    """The options that a dataclass declares, by field; its own before those of its bases."""
    declared = {
        field.name: field.metadata["option"]
        for field in dataclasses.fields(kind)
        if "option" in field.metadata
    }
    first = [name for name in kind.__annotations__ if name in declared]
    return {name: declared[name] for name in (*first, *declared)}


def add_options(parser: ArgumentParser, kind: type) -> dict[str, Any]:
    """Adds the options of a dataclass to a parser; one that is not given is None.

    Returns:
        The groups by heading, for what else belongs there.
    """
    groups: dict[str, Any] = {}
    for declared in options_of(kind).values():
        if declared.group not in groups:
            groups[declared.group] = parser.add_argument_group(declared.group)
        groups[declared.group].add_argument(declared.flag, **declared.argument)
    return groups


def given_options(kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line says, by field of the dataclass; lists become tuples.

    Args:
        arguments: parsed, by name: `vars` of a namespace.
    """
    values = {name: arguments[o.name] for name, o in options_of(kind).items()}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def whole_from(least: int) -> Callable[[str], int]:
    """Reads a whole number from `least` on, for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"a whole number from {least} on, not {text!r}")
        return int(text)

    return read


whole, positive = whole_from(0), whole_from(1)


def positive_number(text: str) -> float:
    """A number above 0, for argparse."""
    if not 0.0 < (value := _number(text)) < math.inf:
        raise ArgumentTypeError(f"a number above 0, not {text!r}")
    return value


def number_from_0(text: str) -> float:
    """A number from 0 on, for argparse."""
    if not 0.0 <= (value := _number(text)) < math.inf:
        raise ArgumentTypeError(f"a number from 0 on, not {text!r}")
    return value


def share(text: str) -> float:
    """A number above 0 and at most 1, for argparse."""
    if not 0.0 < (value := _number(text)) <= 1.0:
        raise ArgumentTypeError(f"a number above 0 and at most 1, not {text!r}")
    return value


def positives(text: str) -> list[int]:
    """Whole numbers from 1 on, with commas between them, for argparse."""
    return [positive(part.strip()) for part in text.split(",")]


def positive_numbers(text: str) -> list[float]:
    """Numbers above 0, with commas between them, for argparse."""
    return [positive_number(part.strip()) for part in text.split(",")]


def numbers(text: str) -> list[float]:
    """Numbers with commas between them, for argparse."""
    values: Sequence[float] = [_number(part) for part in text.split(",")]
    if any(math.isnan(value) for value in values):
        raise ArgumentTypeError(f"{text!r} is not a list of numbers such as 10,30,90")
    return list(values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
