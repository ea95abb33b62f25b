"""Typed domains: what a search may draw for one key, and under which values of other keys.

A domain never changes a value silently: a step divides its range exactly, a stepped value is the
decimal that a person would write, an option keeps its type, and JSON gives back an equal domain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, TypeGuard

from settings.schema import SettingsError, Value, listed

Conditions = Mapping[str, tuple[Value, ...]]
"""Other keys with the values under which a key is active. All must hold."""


def same_value(value: object, other: object) -> bool:
    """Equality that keeps true and 1 apart; 1 and 1.0 are the same number."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


@dataclass(frozen=True)
class Uniform:
    """Real numbers from `low` to `high`, both included; on the grid `low + k * step` where a step
    is given.
    """

    low: float
    high: float
    step: float | None = None
    when: Conditions = field(default_factory=dict, kw_only=True)
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        _set_numbers(self, float)
        _check_range(self.kind, self.low, self.high)
        if self.step is not None:
            _check_step(self.kind, self.low, self.high, self.step)

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that must be legal for the whole domain to be legal."""
        return self.low, self.high

    def snap(self, value: float) -> float:
        """The nearest value of the domain; on a grid, the float of its exact decimal (0.3, not 0.1
        + 0.2).
        """
        inside = min(max(float(value), self.low), self.high)
        if self.step is None:
            return inside
        index = round((inside - self.low) / self.step)
        return float(Decimal(str(self.low)) + index * Decimal(str(self.step)))

    def contains(self, value: object) -> bool:
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        return self.step is None or self.snap(value) == float(value)

    def to_json(self) -> dict[str, Any]:
        step = {} if self.step is None else {"step": self.step}
        return {
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            **step,
            **_when_json(self.when),
        }


@dataclass(frozen=True)
class LogUniform:
    """Positive real numbers whose logarithm is uniform from `low` to `high`, both included."""

    low: float
    high: float
    when: Conditions = field(default_factory=dict, kw_only=True)
    kind: ClassVar[str] = "log_uniform"

    def __post_init__(self) -> None:
        _set_numbers(self, float)
        _check_range(self.kind, self.low, self.high)
        if self.low <= 0:
            raise SettingsError(
                f"log_uniform must start above 0, not at {self.low:g}. To allow 0, make switching "
                "off a choice of its own (`loss.<term>.enabled`) and the weight conditional on it."
            )

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.low, self.high

    def snap(self, value: float) -> float:
        """The value inside the ends, which exp(log(x)) may leave by one unit of rounding."""
        return min(max(float(value), self.low), self.high)

    def contains(self, value: object) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "low": self.low, "high": self.high, **_when_json(self.when)}


@dataclass(frozen=True)
class Integer:
    """Whole numbers `low, low + step, ..., high`; with `log`, their logarithm is about uniform."""

    low: int
    high: int
    step: int = 1
    log: bool = False
    when: Conditions = field(default_factory=dict, kw_only=True)
    kind: ClassVar[str] = "integer"

    def __post_init__(self) -> None:
        _set_numbers(self, int)
        _check_range(self.kind, self.low, self.high)
        _check_step(self.kind, self.low, self.high, self.step)
        if self.log and self.step != 1:
            raise SettingsError(_QUANTISED_LOG)
        if self.log and self.low < 1:
            raise SettingsError(
                f"a logarithmic integer must start at 1 or above, not at {self.low}."
            )

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.low, self.high

    def snap(self, value: float) -> int:
        inside = min(max(int(value), self.low), self.high)
        return self.low + round((inside - self.low) / self.step) * self.step

    def contains(self, value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def to_json(self) -> dict[str, Any]:
        extra: dict[str, Any] = {} if self.step == 1 else {"step": self.step}
        if self.log:
            extra["log"] = True
        return {
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            **extra,
            **_when_json(self.when),
        }


@dataclass(frozen=True)
class Choice:
    """One of a few options of one kind: true/false, numbers, words, or tuples of these."""

    options: tuple[Value, ...]
    when: Conditions = field(default_factory=dict, kw_only=True)
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not isinstance(self.options, (list, tuple)):
            raise SettingsError(f"choice takes a list of options, not {self.options!r}.")
        options = tuple(_option(option) for option in self.options)
        if len(options) < 2:
            raise SettingsError(
                f"choice needs two options or more, not {options!r}: set the key to fix it."
            )
        kinds = {_option_kind(option) for option in options}
        if len(kinds) > 1:
            raise SettingsError(
                f"choice options must be of one kind, not {' and '.join(sorted(kinds))}."
            )
        for index, option in enumerate(options):
            if option in options[:index]:
                raise SettingsError(f"choice lists {option!r} twice. Remove one of them.")
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "when", _conditions(self.when))

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.options

    def contains(self, value: object) -> bool:
        return any(same_value(option, value) for option in self.options)

    def to_json(self) -> dict[str, Any]:
        options = [listed(option) for option in self.options]
        return {"kind": self.kind, "options": options, **_when_json(self.when)}


Domain = Uniform | LogUniform | Integer | Choice
KINDS: Mapping[str, type] = {kind.kind: kind for kind in (Uniform, LogUniform, Integer, Choice)}

_FIELDS = {
    "uniform": ("low", "high", "step"),
    "log_uniform": ("low", "high"),
    "integer": ("low", "high", "step", "log"),
    "choice": ("options",),
}
_QUANTISED_LOG = (
    "a logarithmic domain takes no step: equal steps and equal ratios exclude each other, and "
    "samplers drop the step silently. List the values with `choice`, or leave out the step or "
    "the logarithm."
)


def domain_from_json(node: Mapping[str, Any]) -> Domain:
    """The domain that `to_json` wrote."""
    kind = str(node.get("kind"))
    if kind not in KINDS:
        raise SettingsError(f"a domain is one of {', '.join(KINDS)}, not {kind!r}.")
    fields = {name: value for name, value in node.items() if name != "kind"}
    if kind == "log_uniform" and "step" in fields:
        raise SettingsError(_QUANTISED_LOG)
    extra = sorted(set(fields) - {*_FIELDS[kind], "when"})
    if extra:
        raise SettingsError(
            f"{kind} takes {', '.join(_FIELDS[kind])} and when, not {', '.join(extra)}."
        )
    missing = [name for name in _FIELDS[kind][:2] if name not in fields and name != "step"]
    if missing:
        raise SettingsError(f"{kind} needs {' and '.join(missing)}.")
    return KINDS[kind](**fields)


def domain_from_yaml(key: str, node: object) -> Domain:
    """A domain as a person writes it: `{log_uniform: [0.1, 10]}`, `{integer: [8, 32], step: 8}`,
    `{choice: [zero, nearest]}`, each with an optional `when: {other.key: [values]}`.
    """
    if not isinstance(node, Mapping) or sum(kind in node for kind in KINDS) != 1:
        raise SettingsError(
            f"{key}: a domain is a mapping with exactly one of {', '.join(KINDS)}, not {node!r}. "
            f"Example: {key}: {{uniform: [0.5, 1.5]}}."
        )
    kind = next(kind for kind in KINDS if kind in node)
    body, rest = node[kind], {name: value for name, value in node.items() if name != kind}
    if kind == "choice":
        fields: dict[str, Any] = {"options": _read_numbers(body)}
    elif isinstance(body, (list, tuple)) and len(body) == 2:
        fields = {"low": body[0], "high": body[1]}
    else:
        raise SettingsError(f"{key}: {kind} takes [low, high], not {body!r}.")
    try:
        return domain_from_json({"kind": kind, **fields, **rest})
    except SettingsError as error:
        raise SettingsError(f"{key}: {error}") from None


def _read_numbers(options: object) -> object:
    """Options with text such as `1e-4` read as numbers where the others are numbers (YAML 1.1)."""
    if not isinstance(options, list) or not any(_is_number(option) for option in options):
        return options
    try:
        return [float(option) if isinstance(option, str) else option for option in options]
    except ValueError:
        return options  # words among numbers: refused by the choice itself


def _set_numbers(domain: Uniform | LogUniform | Integer, number: type) -> None:
    """Puts low, high and step into the domain's own type; text such as `1e-6` (YAML 1.1) is read
    as a number.
    """
    for name in ("low", "high", "step"):
        value = getattr(domain, name, None)
        if value is None and name == "step":
            continue
        object.__setattr__(domain, name, _number(f"{domain.kind} {name}", value, number))
    log = getattr(domain, "log", False)
    if not isinstance(log, bool):
        raise SettingsError(f"integer log is true or false, not {log!r}.")
    object.__setattr__(domain, "when", _conditions(domain.when))


def _number(what: str, value: Any, number: type) -> float | int:
    try:
        if isinstance(value, bool):
            raise ValueError
        typed = float(value)
        whole = number is not int or typed.is_integer()
    except (TypeError, ValueError, OverflowError):
        raise SettingsError(f"{what} must be a number, not {value!r}.") from None
    if not math.isfinite(typed):
        raise SettingsError(f"{what} must be finite, not {value!r}.")
    if not whole:
        raise SettingsError(
            f"{what} must be a whole number, not {value!r}. Use `uniform` for real numbers."
        )
    if number is float:
        return typed
    return value if isinstance(value, int) else int(typed)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_range(kind: str, low: float, high: float) -> None:
    if not low < high:
        raise SettingsError(
            f"{kind} needs low < high, not {low:g} and {high:g}; set the key to fix it."
        )


def _check_step(kind: str, low: float, high: float, step: float) -> None:
    if step <= 0:
        raise SettingsError(f"{kind} step must be above 0, not {step:g}.")
    width, size = Decimal(str(high)) - Decimal(str(low)), Decimal(str(step))
    if width % size != 0:
        reachable = Decimal(str(low)) + (width // size) * size
        raise SettingsError(
            f"{kind} step {step:g} does not divide {low:g} .. {high:g}, so {high:g} would never "
            f"be drawn. End at {reachable} or at {reachable + size}."
        )


def _option(option: object) -> Value:
    if isinstance(option, (list, tuple)):
        return tuple(_option(item) for item in option)
    if isinstance(option, float) and not math.isfinite(option):
        raise SettingsError(f"a choice option must be finite, not {option!r}.")
    if not isinstance(option, (bool, int, float, str)):
        raise SettingsError(
            f"a choice option is true, false, a number, a word or a list, not {option!r}."
        )
    return option


def _option_kind(option: Value) -> str:
    if isinstance(option, bool):
        return "true/false"
    if isinstance(option, (int, float)):
        return "numbers"
    return "words" if isinstance(option, str) else "lists"


def _conditions(when: object) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, Mapping):
        raise SettingsError(f"when is a mapping from a key to its values, not {when!r}.")
    conditions = {}
    for key, allowed in when.items():
        values = allowed if isinstance(allowed, (list, tuple)) else (allowed,)
        if not values:
            raise SettingsError(
                f"when {key}: needs one value or more, otherwise the key is never active."
            )
        conditions[str(key)] = tuple(_option(value) for value in values)
    return conditions


def _when_json(when: Conditions) -> dict[str, Any]:
    return (
        {"when": {key: [listed(v) for v in values] for key, values in when.items()}}
        if when
        else {}
    )
