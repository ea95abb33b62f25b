"""What the tests of each tier cost, by folder: `make test-times` runs the tiers, then this file
with the JUnit file of each.

Seconds are those of a test with its fixtures, whichever process ran it; a fixture that tests share
counts for the first of them. Starting pytest and collecting are not among them.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROW = "{:<6} {:<22} {:>6} {:>9} {:>9}  {}"


@dataclass
class Cost:
    """The tests of a folder, or of a tier."""

    tests: int = 0
    seconds: float = 0.0
    longest: tuple[float, str] = field(default=(0.0, ""))

    def add(self, test: str, seconds: float) -> None:
        self.tests += 1
        self.seconds += seconds
        self.longest = max(self.longest, (seconds, test))

    def row(self, tier: str, folder: str) -> str:
        seconds, test = self.longest
        cells = (f"{self.tests:,}", f"{self.seconds:,.1f}", f"{seconds:.1f}", test)
        return ROW.format(tier, folder, *cells).rstrip()


def costs(path: Path) -> tuple[dict[str, Cost], int]:
    """Folder -> the cost of its tests, and how many failed, from a JUnit file of pytest."""
    by_folder: dict[str, Cost] = {}
    failures = 0
    for case in ElementTree.parse(path).iter("testcase"):
        parts = case.get("classname", "").split(".")
        folder = "/".join(parts[:2] if len(parts) > 2 else parts[:1])
        test = f"{parts[-1]}::{case.get('name')}"
        by_folder.setdefault(folder, Cost()).add(test, float(case.get("time", 0.0)))
        failures += case.find("failure") is not None or case.find("error") is not None
    return by_folder, failures


def main(files: Sequence[str]) -> int:
    """Prints a table of all tiers, the dearest folder of each first; 1 if a test failed."""
    print(ROW.format("tier", "folder", "tests", "seconds", "longest", "test"))
    failures = 0
    for path in map(Path, files):
        by_folder, failed = costs(path)
        failures += failed
        whole = Cost()
        for folder, cost in sorted(by_folder.items(), key=lambda item: -item[1].seconds):
            print(cost.row(path.stem, folder))
            whole.tests += cost.tests
            whole.seconds += cost.seconds
            whole.longest = max(whole.longest, cost.longest)
        print(whole.row(path.stem, "all"))
    if failures:
        print(f"{failures} of them failed.")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
