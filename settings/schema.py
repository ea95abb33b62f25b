"""What a setting is: one typed, checked scalar (or tuple) with a default, a range and a line of
help.

A configuration is a tree of frozen, keyword-only dataclasses derived from `Settings`; every leaf
is made by `setting` and checked when the tree is made, so a tree that exists is a legal one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def remembered(function: Function) -> Function:
    """`functools.cache` that keeps the signature, since a class as an argument confuses mypy."""
    return cast(Function, functools.cache(function))


Value = bool | int | float | str | tuple[Any, ...]
"""What a leaf may hold. Tuples hold scalars of one type."""


def tupled(value: object) -> Any:
    """A value that JSON or YAML gave back, in a leaf's own types: lists become tuples."""
    return tuple(tupled(item) for item in value) if isinstance(value, list) else value


def listed(value: object) -> Any:
    """A leaf's value in JSON's own types: tuples become lists."""
    return [listed(item) for item in value] if isinstance(value, tuple) else value


_SCALARS = (bool, int, float, str)


class SettingsError(ValueError):
    """A key or a value that breaks a rule; the message names the rule, the value and the remedy.
    """


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """The declaration of one leaf: its type and what it may hold.

    Attributes:
        type: bool, int, float or str; the element type if `is_tuple`.
        low, high: inclusive bounds, None for no bound. For tuples they bind every element.
        choices: the legal values, or None.
        unit: of the value, "" where it has none.
    """

    type: type
    is_tuple: bool
    default: Value
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] | None = None

    @property
    def range_text(self) -> str:
        """The legal range in words, as `--show` and the errors print it."""
        if self.choices is not None:
            return " | ".join(str(choice) for choice in self.choices)
        if self.type is bool:
            return "true | false"
        if self.low is None and self.high is None:
            return "any"
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"{low} .. {high}"

    @property
    def type_text(self) -> str:
        return f"{self.type.__name__}, ..." if self.is_tuple else self.type.__name__


def setting(
    default: Value,
    help: str,  # noqa: A002 - the field's word for it
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Value] | None = None,
) -> Any:
    """Declares one leaf of a `Settings` dataclass. `low` and `high` are inclusive."""
    meta = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata={"setting": meta})


class Settings:
    """Base of every node of a settings tree. Subclasses are `@dataclass(frozen=True,
    kw_only=True)`.

    A subclass may define `check(self)` for rules between its fields; it raises `SettingsError`.
    """

    def __post_init__(self) -> None:
        for name, leaf in own_leaves(type(self)).items():
            checked = conform(name, leaf, getattr(self, name))
            object.__setattr__(self, name, checked)
        self.check()

    def check(self) -> None:
        """Rules between fields; a node without any keeps this."""


@remembered
def own_leaves(node: type[Settings]) -> Mapping[str, Leaf]:
    """The leaves that a node itself declares, by field name (not those of nodes below it)."""
    hints = typing.get_type_hints(node)
    leaves = {}
    for field in dataclasses.fields(node):  # type: ignore[arg-type]  # a dataclass
        meta = field.metadata.get("setting")
        if meta is None:
            continue
        kind, is_tuple = _leaf_type(node, field.name, hints[field.name])
        choices = None if meta["choices"] is None else tuple(meta["choices"])
        options = {**meta, "choices": choices}
        default: Any = field.default
        leaves[field.name] = Leaf(type=kind, is_tuple=is_tuple, default=default, **options)
    return types.MappingProxyType(leaves)


@remembered
def child_nodes(node: type[Settings]) -> Mapping[str, type[Settings]]:
    """The nodes directly below a node, by field name."""
    hints = typing.get_type_hints(node)
    children = {
        field.name: hints[field.name]
        for field in dataclasses.fields(node)  # type: ignore[arg-type]  # a dataclass
        if "setting" not in field.metadata
    }
    for name, child in children.items():
        if not (isinstance(child, type) and issubclass(child, Settings)):
            raise TypeError(
                f"{node.__name__}.{name} is neither made by setting() nor a Settings node: "
                f"{child!r}"
            )
    return types.MappingProxyType(children)


def _leaf_type(node: type, name: str, hint: object) -> tuple[type, bool]:
    if isinstance(hint, type) and hint in _SCALARS:
        return hint, False
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and len(arguments) == 2 and arguments[0] in _SCALARS:
        return arguments[0], True
    raise TypeError(
        f"{node.__name__}.{name}: a leaf is bool, int, float, str or tuple[T, ...], not {hint!r}"
    )


def conform(key: str, leaf: Leaf, value: object) -> Value:
    """The value in the leaf's own type, or a `SettingsError` that says what the leaf may hold.

    Only changes that lose nothing are made: int to float, whole float to int, list to tuple, and
    text that spells a value of the type (YAML 1.1 reads `1e-4` as text).
    """
    if leaf.is_tuple:
        return tuple(_conform_scalar(key, leaf, item) for item in _as_sequence(value))
    return _conform_scalar(key, leaf, value)


def _as_sequence(value: object) -> Sequence[Any]:
    if isinstance(value, str):
        inner = value.strip().removeprefix("[").removesuffix("]")
        return [part.strip() for part in inner.split(",") if part.strip()]
    if isinstance(value, Sequence):
        return value
    return [value]


def _conform_scalar(key: str, leaf: Leaf, value: object) -> Value:
    typed = _to_type(leaf.type, value)
    if typed is None:
        raise SettingsError(
            f"{key} takes {leaf.type_text}, not {value!r}. Legal: {leaf.range_text}."
        )
    if leaf.choices is not None and typed not in leaf.choices:
        raise SettingsError(f"{key} takes one of {leaf.range_text}, not {value!r}.")
    if isinstance(typed, float) and not math.isfinite(typed):
        raise SettingsError(f"{key} must be finite, not {value!r}. Legal: {leaf.range_text}.")
    if isinstance(typed, (int, float)) and not isinstance(typed, bool):
        below = leaf.low is not None and typed < leaf.low
        above = leaf.high is not None and typed > leaf.high
        if below or above:
            unit = f" {leaf.unit}" if leaf.unit else ""
            raise SettingsError(
                f"{key} must lie in {leaf.range_text}{unit}, not {typed!r} ({leaf.help})."
            )
    return typed


def _to_type(kind: type, value: object) -> bool | int | float | str | None:
    """The value as `kind`, or None where that would lose or guess something."""
    if kind is bool:
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind is str:
        return value if isinstance(value, str) else None
    if isinstance(value, str):
        try:
            value = float(value) if kind is float else int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if not isinstance(value, (int, float)):
        return None
    if kind is float:
        try:
            return float(value)
        except OverflowError:  # a whole number beyond 1e308
            return None
    return int(value) if isinstance(value, int) or value.is_integer() else None
