"""A timeline: settings that change during one training, stretch by stretch.

In a settings file it stands beside the keys that hold throughout:

    timeline:
    - until: 400
      optimizer.lr: 0.01
    - until: 1000
      optimizer.lr: 0.002
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from settings.schema import SettingsError, Value

TIMELINE = "timeline"
"""The key of a settings file that holds the stretches."""

UNTIL = "until"
"""The key of a stretch that is no setting: the step at which it ends."""

SEED = "train.seed"
"""The key of the seed, which may change during a training: in a population every trial has a seed
of its own, so a schedule that passes from one trial to another states it.
"""


@dataclass(frozen=True)
class Stretch:
    """Values from the end of the previous stretch, or from the start, to step `until`."""

    until: int
    values: Mapping[str, Value]


def read_timeline(
    where: str, node: object, leaf: Callable[[str, str, object], Value]
) -> tuple[Stretch, ...]:
    """The stretches of a file, in the order of the training.

    Args:
        where: the file and line that errors begin with.
        leaf: `leaf(where, key, value)`, the value as settings hold it.

    Raises:
        SettingsError: not a list of mappings, an `until` that is missing or does not ascend, a
            value that no setting can have.
    """
    if not isinstance(node, Sequence) or isinstance(node, str) or not node:
        raise SettingsError(
            f"{where}: {TIMELINE} is a list of stretches, each with `{UNTIL}: STEP` and the "
            f"settings that hold until then, not {node!r}."
        )
    stretches: list[Stretch] = []
    for entry in node:
        before = stretches[-1].until if stretches else 0
        stretches.append(_stretch(where, entry, before, leaf))
    return tuple(stretches)


def _stretch(
    where: str, entry: object, before: int, leaf: Callable[[str, str, object], Value]
) -> Stretch:
    node = entry if isinstance(entry, Mapping) else {}
    until = node.get(UNTIL)
    if not isinstance(until, int) or isinstance(until, bool) or until <= before:
        raise SettingsError(
            f"{where}: a stretch of the {TIMELINE} names the step at which it ends, `{UNTIL}`, "
            f"a whole number above {before}, not {entry!r}."
        )
    values = {str(key): value for key, value in node.items() if key != UNTIL}
    return Stretch(until, {key: leaf(where, key, value) for key, value in values.items()})


def plain_timeline(timeline: Sequence[Stretch]) -> list[dict[str, Any]]:
    """The stretches as a file holds them."""
    return [{UNTIL: stretch.until, **stretch.values} for stretch in timeline]
