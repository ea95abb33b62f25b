"""A settings tree with every kind of leaf, and random legal values for any tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from settings.flat import leaves
from settings.schema import Leaf, Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class KlSettings(Settings):
    weight: float = setting(1e-4, "factor on the term", low=0.0, high=1e6)
    ramp_steps: int = setting(100, "steps to full weight", unit="steps", low=0)


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    kl: KlSettings = field(default_factory=KlSettings)
    scale: float = setting(1.0, "factor on all terms")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    width: int = setting(24, "channels of the first level", low=8, high=64)
    blocks: tuple[int, ...] = setting((2, 2), "blocks a level", low=1, high=8)
    rates: tuple[float, ...] = setting((), "dropout a level", low=0.0, high=1.0)
    names: tuple[str, ...] = setting((), "levels by name")
    norm: str = setting("group", "normalisation", choices=("group", "none", "no"))
    gated: bool = setting(True, "gated convolutions")


@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    root: str = setting("", "folder of the data")
    seed: int = setting(0, "master seed")

    def check(self) -> None:
        if self.model.norm == "no" and not self.model.gated:
            raise SettingsError(
                "model.norm=no needs model.gated=true: nothing else bounds the features."
            )


# Text that a reader of YAML 1.1 or 1.2 takes for a number, a switch, a date or nothing.
LOOKS_LIKE_ANOTHER_TYPE = [
    "1e-4",
    "no",
    "on",
    "true",
    "null",
    "~",
    "",
    "010",
    "1:30",
    "2025-10-21",
]


def legal_value(leaf: Leaf) -> st.SearchStrategy[Any]:
    """Any value that a leaf may hold."""
    if leaf.choices is not None:
        scalar: st.SearchStrategy[Any] = st.sampled_from(leaf.choices)
    elif leaf.type is bool:
        scalar = st.booleans()
    elif leaf.type is int:
        scalar = st.integers(
            None if leaf.low is None else int(leaf.low),
            None if leaf.high is None else int(leaf.high),
        )
    elif leaf.type is float:
        scalar = st.floats(leaf.low, leaf.high, allow_nan=False, allow_infinity=False)
    else:
        scalar = st.sampled_from(LOOKS_LIKE_ANOTHER_TYPE) | st.text(max_size=20)
    return st.lists(scalar, max_size=4).map(tuple) if leaf.is_tuple else scalar


@st.composite
def _legal_changes(draw: st.DrawFn, node: type[Settings]) -> Mapping[str, Any]:
    options = {key: legal_value(leaf) for key, leaf in leaves(node).items()}
    changes = draw(st.fixed_dictionaries({}, optional=options))
    if changes.get("model.norm") == "no":
        changes["model.gated"] = True
    return changes


@pytest.fixture(scope="session")
def toy() -> type[ToySettings]:
    """A small tree with a rule between fields."""
    return ToySettings


@pytest.fixture(scope="session")
def legal_changes() -> Callable[[type[Settings]], st.SearchStrategy[Mapping[str, Any]]]:
    """Random legal values for some keys of a tree."""
    return _legal_changes


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    """A folder of presets for a system `toy`."""
    folder = tmp_path / "presets" / "toy"
    folder.mkdir(parents=True)
    (folder / "document.yaml").write_text(
        "# From the paper\nabout: the document's own\nmodel.width: 32\nloss.kl.weight: 1e-5\n"
    )
    (folder / "small.yaml").write_text("model.width: 8\n")
    return tmp_path / "presets"
