"""The default search on real trainings against TPE at full length: what each finds, and for how
many training steps.

    python -m benchmarks.real_search --json [--systems conditioner,hdr_patch] [--seeds 3]

Both sweeps confirm their winner by three fresh seeds (`--repeats 3`), so no lucky draw counts. The
sweeps stay below `--dir` and are not run again there.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.commands import ROOT
from benchmarks.rows import Row, row, show, standard_error
from results.directory import read_history, read_sweep
from results.frame import load_sweep
from results.store import read_events
from search.log import SweepState

BUDGET = 60
"""Trainings of full length that each arm may cost."""

SYSTEMS: Mapping[str, Sequence[str]] = {
    "conditioner": ("train.steps=150", "train.report_every=15"),
    "hdr_patch": ("train.steps=90", "train.report_every=10"),
}
"""The demos at half their length, with reports often enough for rungs."""

ARMS: Mapping[str, Sequence[str]] = {
    "full": ("--scheduler", "none", "--trials", str(BUDGET)),
    "default": ("--budget", str(BUDGET)),
}


def sweep(system: str, arm: str, seed: int, folder: Path) -> Path:
    """Runs a sweep, or goes on with it, or does nothing where it is finished."""
    directory = folder / f"{system}-{arm}-{seed}"
    line = [sys.executable, "-m", "ray_jobs.sweep"]
    if (directory / "sweep.json").exists():
        if read_history(read_sweep(directory)).state == "finished":
            return directory
        line += ["--resume", str(directory)]
    else:
        line += [system, *SYSTEMS[system], *ARMS[arm], "--seed", str(seed)]
        line += ["--repeats", "3", "--repeat-top", "1", "--dir", str(directory)]
    with (folder / f"{directory.name}.txt").open("a") as said:
        subprocess.run(line, cwd=ROOT, check=True, stdout=said, stderr=said)
    return directory


def trainings(directory: Path, at_most: float = -math.inf) -> float:
    """Trainings of full length that the search has cost, repeats left out: until a complete trial
    that was asked for had a value of `at_most`, or to its end (then infinite where it never had).
    """
    full = read_sweep(directory).settings["train.steps"]
    state, spent = SweepState(), 0.0
    for event in read_events(directory / "log.jsonl"):
        state.apply(event)
        if event["event"] != "ended":
            continue
        trial = state.trials[event["trial"]]
        if trial.repeat_of is not None:
            continue
        spent = sum(t.step for t in state.trials.values() if t.repeat_of is None) / full
        if event["state"] == "complete" and trial.point is None and trial.value <= at_most:
            return spent
    return spent if at_most == -math.inf else math.inf


def confirmed(directory: Path) -> float:
    """The winner's mean over its repeats."""
    frame = load_sweep(directory)
    asked = frame[(frame["point"] == "") & frame["repeats/mean"].notna()]
    return float(asked["repeats/mean"].min())


def measure(systems: Sequence[str], seeds: int, folder: Path) -> Iterator[Row]:
    for system in systems:
        full, default, saved = [], [], []
        for seed in range(seeds):
            one, other = (sweep(system, arm, seed, folder) for arm in ("full", "default"))
            full.append(confirmed(one))
            default.append(confirmed(other))
            best = load_sweep(one)
            goal = float(
                best.loc[(best["state"] == "complete") & (best["point"] == ""), "value"].min()
            )
            saved.append((trainings(one, goal), trainings(other, goal)))
        peer = f"TPE, {BUDGET} trials of full length"
        yield row(
            f"real_search/{system}/confirmed",
            statistics.fmean(default),
            "",
            peer,
            statistics.fmean(full),
        )
        for name, values in (("default", default), ("full", full)):
            if (error := standard_error(values)) is not None:
                yield row(f"real_search/{system}/{name}_standard_error", error, "", "", None)
        reached = sorted(ours for _, ours in saved)[len(saved) // 2]
        theirs = sorted(peer_cost for peer_cost, _ in saved)[len(saved) // 2]
        yield row(
            f"real_search/{system}/trainings_to_its_best", reached, "trainings", peer, theirs
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--systems", default=",".join(SYSTEMS), metavar="NAME,...")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--dir", type=Path, default=ROOT / "sweeps" / "real_search")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    for found in measure(given.systems.split(","), given.seeds, given.dir.resolve()):
        show(found, given.json)


if __name__ == "__main__":
    main()
