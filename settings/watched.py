"""A settings tree that notes which of its leaves are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from settings.flat import leaves
from settings.schema import Settings, child_nodes, own_leaves, remembered

Tree = TypeVar("Tree", bound=Settings)


def watched(tree: Tree, note: Callable[[str], None]) -> Tree:
    """A tree with the same values; `note` is told the dotted key of each leaf that is read.

    Its nodes are of the classes of the tree, with their properties and methods. What looks past
    the fields of a node (`vars`, `pickle`, `copy`) reads all leaves below it; copies, and nodes
    made from its own (`dataclasses.replace`), are plain.
    """
    return _watched(tree, "", note)


def _watched(plain: Any, prefix: str, note: Callable[[str], None]) -> Any:
    node: Any = object.__new__(_watching(type(plain)))
    hidden = object.__getattribute__(node, "__dict__")
    hidden["_plain"], hidden["_prefix"], hidden["_note"] = plain, prefix, note
    return node


_BESIDE_THE_FIELDS = ("__dict__", "__reduce_ex__", "__reduce__", "__getstate__", "__copy__")


@remembered
def _watching(kind: type[Settings]) -> type[Settings]:
    """A subclass whose instances have no values: they ask the plain node."""
    below, names, children = tuple(leaves(kind)), frozenset(own_leaves(kind)), child_nodes(kind)

    def hidden(node: Any) -> tuple[Any, str, Callable[[str], None]]:
        there = object.__getattribute__(node, "__dict__")
        return there["_plain"], there["_prefix"], there["_note"]

    def read(node: Any, name: str) -> Any:
        if name == "__class__":
            return kind
        plain, prefix, note = hidden(node)
        if name in names:
            note(prefix + name)
            return getattr(plain, name)
        if name in children:
            return _watched(getattr(plain, name), f"{prefix}{name}.", note)
        if name in _BESIDE_THE_FIELDS:
            return past_the_fields(node, name)
        return object.__getattribute__(node, name)

    def past_the_fields(node: Any, name: str) -> Any:
        plain, prefix, note = hidden(node)
        for key in below:
            note(prefix + key)
        return getattr(plain, name)

    def kept_beside_the_fields(node: Any, name: str) -> Any:
        plain = hidden(node)[0]
        return past_the_fields(node, name) if hasattr(plain, name) else getattr(plain, name)

    def reduced(node: Any, protocol: int) -> Any:
        return past_the_fields(node, "__reduce_ex__")(protocol)

    members = {
        "__new__": lambda _, **values: kind(**values),
        "__getattribute__": read,
        "__getattr__": kept_beside_the_fields,
        "__reduce_ex__": reduced,
    }
    return type(kind.__name__, (kind,), members)
