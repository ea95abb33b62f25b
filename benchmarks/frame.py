"""How long a large sweep takes to read, and how fast a trial can write.

`python -m benchmarks.frame --json`: 10,000 trials of 20 reports with 40 metrics each. The peer is
the same read file by file with `pandas.read_json(lines=True)` and joined by `pandas.concat`; it
takes minutes, so that it reads every tenth file and its time is multiplied by ten, unless
`--full-peer` is given.
Reads are timed in a process of their own, imports excluded; memory is that process's peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METRICS = [f"val.metric_{index:02d}" for index in range(16)]
METRICS += [
    f"train.loss.t{index}{part}" for index in range(8) for part in ("", ".weight", ".share")
]
OBJECTIVE = METRICS[0]
GIB = 1 << 30


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.measure:
        print(json.dumps(_measure(arguments.measure, Path(arguments.directory))))
        return
    with tempfile.TemporaryDirectory(prefix="bench-frame-") as folder:
        directory = Path(folder)
        make_sweep(directory, arguments.trials, arguments.reports)
        results = _results(directory, arguments.full_peer)
        results.append(_writing(directory))
    for result in results:
        print(json.dumps(result) if arguments.json else _text(result))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frame", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=20, help="of each trial")
    parser.add_argument("--full-peer", action="store_true", help="the peer reads every file")
    parser.add_argument("--measure", choices=sorted(READERS), help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    return parser


def make_sweep(directory: Path, trials: int, reports: int) -> None:
    """A finished sweep of format 1 with random numbers."""
    import numpy as np

    random = np.random.default_rng(0)
    document = {
        "format": 1,
        "system": "bench",
        "settings": {"optimizer.lr": 1e-4, "model.width": 8},
        "space": {
            "name": "bench",
            "domains": {
                "optimizer.lr": {"kind": "log_uniform", "low": 1e-5, "high": 1e-2},
                "model.width": {"kind": "integer", "low": 8, "high": 64},
            },
        },
        "objective": {"metric": OBJECTIVE, "mode": "min"},
        "metrics": {name: {"unit": "", "mode": "min", "help": ""} for name in METRICS[:16]},
        "terms": [f"t{index}" for index in range(8)],
        "trials": trials,
    }
    (directory / "sweep.json").write_text(json.dumps(document))
    (directory / "reports").mkdir()
    events: list[dict[str, Any]] = [{"time": 0.0, "event": "started"}]
    for trial in range(trials):
        sampled = {"optimizer.lr": 10 ** random.uniform(-5, -2), "model.width": 8 + trial % 57}
        common = {"time": float(trial), "trial": trial, "segment": 0}
        events.append({**common, "event": "handed_out", "sampled": sampled, "seed": trial})
        ended = {"event": "ended", "state": "complete", "step": 10 * reports, "seconds": 1.0}
        events.append({**common, **ended})
        rows = random.random((reports, len(METRICS))).tolist()
        lines = [
            json.dumps(
                {
                    "step": 10 * (i + 1),
                    "segment": 0,
                    "seconds": 0.1 * i,
                    **dict(zip(METRICS, row, strict=True)),
                }
            )
            for i, row in enumerate(rows)
        ]
        (directory / f"reports/{trial:04d}.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def _results(directory: Path, full_peer: bool) -> list[dict[str, Any]]:
    from results.frame import compact

    raw = _in_own_process("raw", directory)
    peer = _in_own_process("peer" if full_peer else "tenth", directory)
    if full_peer and peer["rows"] != raw["rows"]:
        raise RuntimeError(f"the peer read {peer['rows']} reports and we read {raw['rows']}")
    compact(directory)
    parquet = _in_own_process("parquet", directory)
    name = "pandas.read_json a file" + ("" if full_peer else ", every tenth file, times ten")
    seconds = peer["seconds"] * (1 if full_peer else 10)
    memory = peer["peak_gib"] if full_peer else None  # a tenth of the files says nothing of it
    return [
        _result("frame/parquet_seconds", parquet["seconds"], "s", name, seconds),
        _result("frame/raw_seconds", raw["seconds"], "s", name, seconds),
        _result("frame/parquet_memory_gib", parquet["peak_gib"], "GiB", name, memory),
        _result("frame/raw_memory_gib", raw["peak_gib"], "GiB", name, memory),
    ]


def _writing(directory: Path, reports: int = 50_000) -> dict[str, Any]:
    """Reports a second of one process; the peer opens the file anew for every report."""
    from results.store import ReportWriter

    row = {"step": 100, "segment": 0, "seconds": 12.3456789}
    row.update({name: 0.1234567890123 * (index + 1) for index, name in enumerate(METRICS[:10])})
    start = time.perf_counter()
    with ReportWriter(directory / "written.jsonl") as writer:
        for _ in range(reports):
            writer.append(row)
    ours = reports / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(reports // 10):
        with open(directory / "peer.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
    peer = reports // 10 / (time.perf_counter() - start)
    return _result(
        "frame/reports_written_per_second", ours, "1/s", "open, json.dumps, close", peer
    )


def _result(
    name: str, value: float, unit: str, peer: str, peer_value: float | None
) -> dict[str, Any]:
    ratio = None
    if peer_value is not None:  # more reports a second are better, more seconds and memory worse
        ratio = value / peer_value if unit == "1/s" else peer_value / value
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": ratio,
    }


def _text(result: dict[str, Any]) -> str:
    peer = (
        "" if result["peer_value"] is None else f"  {result['peer']}: {result['peer_value']:.3g}"
    )
    return f"{result['name']:36} {result['value']:10.3g} {result['unit']:4}{peer}"


def _in_own_process(reader: str, directory: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.frame"]
    command += ["--measure", reader, "--directory", str(directory)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(reader: str, directory: Path) -> dict[str, float]:
    read = READERS[reader]
    import pandas  # noqa: F401 - imports are no part of the reading
    from pyarrow import parquet  # noqa: F401

    import results.frame  # noqa: F401

    start = time.perf_counter()
    rows = read(directory)
    return {"seconds": time.perf_counter() - start, "rows": rows, "peak_gib": _peak_gib()}


def _read_ours(directory: Path) -> int:
    from results.frame import load_reports, load_sweep

    trials, reports = load_sweep(directory), load_reports(directory)
    best = trials.loc[trials["is_best"]]
    if len(best) != 1:
        raise RuntimeError(f"{len(best)} trials are best, not one")
    return len(reports)


def _read_peer(directory: Path, every: int = 1) -> int:
    import pandas as pd

    files = sorted((directory / "reports").glob("*.jsonl"))[::every]
    frames = [pd.read_json(file, lines=True).assign(trial=int(file.stem)) for file in files]
    return len(pd.concat(frames, ignore_index=True))


def _read_tenth_by_peer(directory: Path) -> int:
    return _read_peer(directory, every=10)


READERS = {
    "raw": _read_ours,
    "parquet": _read_ours,
    "peer": _read_peer,
    "tenth": _read_tenth_by_peer,
}


def _peak_gib() -> float:
    """Peak resident memory of this process. VmHWM, since getrusage may count the parent's, too."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIB


if __name__ == "__main__":
    main()
