"""The form of every benchmark: `python -m benchmarks.NAME --json` prints one JSON object a
line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from results.store import plain


@dataclass(frozen=True)
class Row:
    """One measured figure beside its peer's, measured in the same run.

    Attributes:
        ratio: how many times better than the peer; above 1 is better. None where there is no peer,
            and where the worse one would be divided by nothing.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float | None
    ratio: float | None


def row(
    name: str,
    value: float,
    unit: str,
    peer: str,
    peer_value: float | None,
    *,
    higher_is_better: bool = False,
) -> Row:
    """A row with its ratio."""
    ratio = None
    if peer_value is not None:
        better, worse = (value, peer_value) if higher_is_better else (peer_value, value)
        ratio = better / worse if worse else None
    return Row(name, value, unit, peer, peer_value, ratio)


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def show(found: Row, as_json: bool) -> None:
    """Prints a row: for people, or as one JSON object, where what is not finite is null."""
    if as_json:
        print(json.dumps(plain(asdict(found))), flush=True)
        return
    peer = "" if found.peer_value is None else f"  {found.peer}: {found.peer_value:.4g}"
    ratio = "" if found.ratio is None else f"  ({found.ratio:.3g}x)"
    print(f"{found.name:<44} {found.value:.4g} {found.unit}{peer}{ratio}", flush=True)


def main(measure: Callable[[], Iterator[Row]], description: str | None) -> None:
    """Runs a benchmark from the command line: a table for people, JSON lines with `--json`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    as_json = parser.parse_args().json
    for found in measure():
        show(found, as_json)
