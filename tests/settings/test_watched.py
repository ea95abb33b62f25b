"""A tree that notes what is read of it: it says the same, and nothing goes unnoticed."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field

import pytest

from settings.flat import flatten, leaves, replace
from settings.schema import Settings, SettingsError, setting
from settings.watched import watched


@dataclass(frozen=True, kw_only=True)
class Cap(Settings):
    mode: str = setting("absolute", "how", choices=("absolute", "learnable"))
    limit: float = setting(6.0, "how far", low=0.0)

    @property
    def shown(self) -> str:
        return f"{self.mode} {self.limit:g}"

    def within(self, value: float) -> bool:
        return value <= self.limit

    def check(self) -> None:
        if self.mode == "learnable" and self.limit == 0.0:
            raise SettingsError("a learnable cap needs room")


    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "doubled", 2.0 * self.limit)


@dataclass(frozen=True, kw_only=True)
class Head(Settings):
    cap: Cap = field(default_factory=Cap)
    mask: bool = setting(True, "whether")


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    head: Head = field(default_factory=Head)
    widths: tuple[int, ...] = setting((1, 2), "sizes")


PLAIN = Tree(head=Head(cap=Cap(limit=3.0)))
OF_THE_CAP = ["head.cap.mode", "head.cap.limit"]
EVERY_KEY = list(leaves(Tree))


@pytest.mark.parametrize(
    ("look", "keys"),
    [
        (lambda tree: tree.widths, ["widths"]),
        (lambda tree: tree.head.cap.limit, ["head.cap.limit"]),
        (lambda tree: tree.head.cap.shown, OF_THE_CAP),
        (lambda tree: tree.head.cap.within(4.0), ["head.cap.limit"]),
        (lambda tree: getattr(tree.head, "mask", None), ["head.mask"]),
        (lambda tree: getattr(tree, "health", None), []),
        (lambda tree: tree.head.cap.doubled, OF_THE_CAP),
        (lambda tree: isinstance(tree.head, Head), []),
        (lambda tree: type(tree.head.cap).__name__, []),
        (lambda tree: tree.head.__class__ is Head, []),
        (lambda tree: dataclasses.asdict(tree), EVERY_KEY),
        (lambda tree: vars(tree.head.cap), OF_THE_CAP),
        (lambda tree: tree.head.cap == Cap(limit=3.0), OF_THE_CAP),
        (lambda tree: hash(tree.head.cap), OF_THE_CAP),
        (lambda tree: repr(tree.head.cap), OF_THE_CAP),
        (flatten, EVERY_KEY),
    ],
)
def test_it_says_what_the_tree_says_and_notes_what_was_read(look, keys):
    read = {}
    assert look(watched(PLAIN, read.setdefault)) == look(PLAIN)
    assert sorted(read) == sorted(keys)


@pytest.mark.parametrize(
    "take",
    [
        copy.copy,
        copy.deepcopy,
        lambda node: pickle.loads(pickle.dumps(node)),  # noqa: S301
        lambda node: dataclasses.replace(node, limit=3.0),
        lambda node: replace(node, {"limit": 3.0}),
        lambda node: type(node)(mode=node.mode, limit=node.limit),
    ],
)
def test_what_is_made_of_a_node_is_plain(take):
    """It has read every leaf, or was given its values by somebody who did."""
    read = {}
    taken = take(watched(PLAIN, read.setdefault).head.cap)
    assert type(taken) is Cap
    assert taken == Cap(limit=3.0)
    assert {"head.cap.mode"} <= set(read) <= set(OF_THE_CAP)


def test_it_is_as_frozen_and_as_checked_as_the_tree():
    tree = watched(PLAIN, lambda key: None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.widths = (3,)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tree.head.nothing
    with pytest.raises(SettingsError, match="needs room"):
        dataclasses.replace(tree.head.cap, mode="learnable", limit=0.0)
