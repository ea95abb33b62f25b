"""Paired differences and their standard error: two things measured on the same units (scenes,
patients, texts) are compared by what they differ on each, so that what makes a unit hard for both
cancels (E. Miller, "Adding Error Bars to Evals", 2024, sections 2.2 and 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from settings.words import counted

FEWEST = 4
"""Units below which there is no standard error: one from n units is itself uncertain by
1 / sqrt(2 (n - 1)), half of it at three.
"""

ERRORS = 2.0
"""Standard errors that a difference must reach to be called one."""


@dataclass(frozen=True)
class Paired:
    """The mean of paired differences.

    Attributes:
        mean: of the differences, in their unit.
        error: its standard error; None below `FEWEST` units.
        units: number of units.
    """

    mean: float
    error: float | None
    units: int

    @property
    def shows(self) -> float | None:
        """The smallest difference that would count as one; None without an error."""
        return None if self.error is None else ERRORS * self.error

    @property
    def tells(self) -> bool:
        """Whether the difference counts as one; never without an error."""
        return self.error is not None and abs(self.mean) >= ERRORS * self.error and self.mean != 0

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.mean:+.3g} (no error: {counted(self.units, 'unit')})"
        return f"{self.mean:+.3g} ± {self.error:.2g} ({self.units} units)"


def nested(differences: Sequence[Sequence[float]]) -> Paired:
    """Of trainings that have their own unit each, one or several seeds a unit.

    The error is that of the units' means, which holds the spread of the seeds inside a unit as
    well. Units count alike, however many seeds each has.

    Args:
        differences: by unit, those of its seeds.
    """
    means = [fmean(seeds) for seeds in differences]
    error = _error(means) if len(means) >= FEWEST else None
    return Paired(fmean(means), error, len(means))


def crossed(here: Sequence[Sequence[float]], there: Sequence[Sequence[float]]) -> Paired:
    """Of two things that were trained once or several times, and are measured on the same units:
    what there is more than here.

    They pair by unit; trainings are seeds of their own, so that their spreads add up. The error is
    that of the units' means, and of the means of the trainings of either side; of a side with one
    training the second is unknown and left out.

    Args:
        here, there: by training, its values on the units, in one order.
    """
    pairs = zip(_by_unit(here), _by_unit(there), strict=True)
    differences = [other - own for own, other in pairs]
    if len(differences) < FEWEST:
        return Paired(fmean(differences), None, len(differences))
    sides = (_error([fmean(units) for units in side]) for side in (here, there) if len(side) > 1)
    error = math.hypot(_error(differences), *sides)
    return Paired(fmean(differences), error, len(differences))


def _by_unit(trainings: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*trainings, strict=True)]


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values))


def is_dearer(
    costs: Sequence[str], columns: Mapping[str, float | None], other: Mapping[str, float | None]
) -> bool:
    """Whether something spends more of one of its costs than what it is compared with, so that
    neither is better; never where one of the two has no value of it.
    """
    pairs = [(columns.get(name), other.get(name)) for name in costs]
    return any(here is not None and there is not None and here > there for here, there in pairs)
