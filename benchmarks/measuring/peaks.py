"""Peak memory of a process."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring.commands import ROOT

PROCESSES = 3


def peak_mib() -> float:
    """What this process needed at most, as Linux counts it: `ru_maxrss` would begin with what the
    process that started this one holds.
    """
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


def peak_of(module: str, *arguments: str) -> float:
    """The median over processes `python -m MODULE --peak ARGUMENTS`, each of which prints its
    peak at the end, MiB.
    """
    command = [sys.executable, "-m", module, "--peak", *arguments]
    peaks = []
    for _ in range(PROCESSES):
        ran = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(float(json.loads(ran.stdout.splitlines()[-1])))
    return statistics.median(peaks)
