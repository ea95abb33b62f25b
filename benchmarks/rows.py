"""The form of every benchmark: `python -m benchmarks.NAME --json` prints one JSON object a
line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure beside its peer's, measured in the same run.

    Attributes:
        ratio: how many times better than the peer; above 1 is better. None where there is no peer.
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
        ratio = better / worse
    return Row(name, value, unit, peer, peer_value, ratio)


def main(measure: Callable[[], Iterator[Row]], description: str | None) -> None:
    """Runs a benchmark from the command line: a table for people, JSON lines with `--json`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    as_json = parser.parse_args().json
    for found in measure():
        if as_json:
            print(json.dumps(asdict(found)), flush=True)
            continue
        peer = "" if found.peer_value is None else f"  {found.peer}: {found.peer_value:.4g}"
        ratio = "" if found.ratio is None else f"  ({found.ratio:.3g}x)"
        print(f"{found.name:<34} {found.value:.4g} {found.unit}{peer}{ratio}", flush=True)
