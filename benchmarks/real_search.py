"""The default search on real trainings against TPE at full length: what each has found once it has
cost a third of its trainings, and all.

    python -m benchmarks.real_search --json [--systems conditioner,hdr_patch] [--seeds 3]

What counts is the mean over three fresh seeds, the sweep's own repeats at its end: the best draw
of a search is lucky, and the more so the more trainings came to their end. Sweeps and trainings
stay below `--dir` and are not run again there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.measuring.commands import ROOT
from benchmarks.measuring.rows import Row, row, show, standard_error
from results.directory import read_history, read_sweep
from results.frame import load_sweep
from results.store import read_events
from search.log import SweepState

EARLY, BUDGET = 20, 60
"""Trainings of full length that each arm has cost."""

FRESH_SEEDS = (1001, 1002, 1003)

SYSTEMS: Mapping[str, Sequence[str]] = {
    "conditioner": ("train.steps=150", "train.report_every=15"),
    "hdr_patch": ("train.steps=117", "train.report_every=13"),
}
"""The demos, shortened, with reports often enough for rungs. `hdr_patch` at 90 steps is no test:
nothing beats its documented point `prefill` there.
"""

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


def incumbent(directory: Path, spent: float) -> int:
    """The best complete trial that was asked for, once the search has cost that many trainings of
    full length; repeats left out.
    """
    swept = read_sweep(directory)
    full, mode = swept.settings["train.steps"], swept.objective.mode
    state, best = SweepState(), (math.inf, -1)
    for event in read_events(directory / "log.jsonl"):
        state.apply(event)
        trial = state.trials.get(event.get("trial", -1))
        if event["event"] != "ended" or trial is None or trial.repeat_of is not None:
            continue
        if sum(t.step for t in state.trials.values() if t.repeat_of is None) > spent * full:
            break
        if event["state"] == "complete" and trial.point is None:
            value = trial.value if mode == "min" else -trial.value
            best = min(best, (value, trial.number))
    return best[1]


def again(directory: Path, trial: int) -> float:
    """The mean of a trial's objective over trainings with fresh seeds; each is run once."""
    column = read_sweep(directory).objective.metric
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as a trial with one CPU has
    values = []
    for seed in FRESH_SEEDS:
        run = directory.parent / f"{directory.name}-trial-{trial}-seed-{seed}"
        line = [sys.executable, "-m", "ray_jobs.train", "--no-ray", "--dir", str(run)]
        if (run / "reports.jsonl").exists():
            line += ["--resume"]
        else:
            line += ["--from-sweep", str(directory), "--trial", str(trial), f"train.seed={seed}"]
        with (run.parent / f"{run.name}.txt").open("a") as said:
            subprocess.run(line, cwd=ROOT, check=True, stdout=said, stderr=said, env=one_thread)
        values.append(json.loads((run / "reports.jsonl").read_text().splitlines()[-1])[column])
    return statistics.fmean(values)


def confirmed(directory: Path) -> float:
    """The winner's mean over its repeats."""
    frame = load_sweep(directory)
    asked = frame[(frame["point"] == "") & frame["repeats/mean"].notna()]
    return float(asked["repeats/mean"].min())


def measure(systems: Sequence[str], seeds: int, folder: Path) -> Iterator[Row]:
    peer = f"TPE, {BUDGET} trials of full length"
    for system in systems:
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            for arm in ARMS:
                directory = sweep(system, arm, seed, folder)
                early = again(directory, incumbent(directory, EARLY))
                found.setdefault(f"{arm}_{EARLY}", []).append(early)
                found.setdefault(f"{arm}_{BUDGET}", []).append(confirmed(directory))
        for spent in (EARLY, BUDGET):
            ours, theirs = found[f"default_{spent}"], found[f"full_{spent}"]
            name = f"real_search/{system}/{spent}_trainings"
            yield row(name, statistics.fmean(ours), "", peer, statistics.fmean(theirs))
            if (error := standard_error(ours)) is not None:
                yield Row(f"{name}/standard_error", error, "", peer, standard_error(theirs), None)


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
