"""The claims of a system's source document, tested: every documented point with several seeds, as
one table.

    python -m benchmarks.claims hdr_patch --dir sweeps/claims
    python -m benchmarks.claims hdr_patch --dir sweeps/claims-real data.source=folder data.root=...

Each seed is one sweep of `benchmarks/<system>_claims.yaml`, run by the sweep verb and resumed
where it was cut off. The table gives the mean and the standard error over the seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmarks.commands import ROOT
from results.frame import load_sweep

COLUMNS = {
    "hdr_patch": (
        "val.hole_log_rmse",
        "val.hole_psnr_pu_db",
        "val.seam_error",
        "val.overflow_above_target_rate",
        "val.overflow_rate_1e2",
        "val.saturation_share",
        "val.unreachable_share",
        "val.cap_mean",
    ),
}
"""What each system's finding shows."""


def main() -> None:
    """Runs what is missing, prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=sorted(COLUMNS))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dir", required=True, help="the sweeps go to DIR/seed-N")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_intermixed_args()
    space = ROOT / "benchmarks" / f"{arguments.system}_claims.yaml"
    frames = []
    for seed in range(arguments.seeds):
        directory = Path(arguments.dir) / f"seed-{seed}"
        _run(arguments.system, arguments.overrides, space, directory, seed)
        frames.append(load_sweep(directory))
    print(table(pd.concat(frames), COLUMNS[arguments.system]))


def _run(system: str, overrides: list[str], space: Path, directory: Path, seed: int) -> None:
    command = [sys.executable, "-m", "ray_jobs.sweep"]
    if (directory / "sweep.json").exists():
        command += ["--resume", str(directory)]
    else:
        points = (space.read_text().split("points: [", 1)[1].split("]", 1)[0]).split(",")
        command += [system, *overrides, "--space", str(space), "--trials", str(len(points))]
        command += ["--seed", str(seed), "--scheduler", "none", "--dir", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def table(frame: pd.DataFrame, columns: tuple[str, ...]) -> str:
    """Mean and standard error of each point, one row a point, as a Markdown table."""
    names = [f"last/{column}" for column in columns]
    complete = frame[frame["state"] == "complete"]
    groups = complete.groupby("point", sort=False)[names]
    means, errors, counts = groups.mean(), groups.sem(), groups.size()
    lines = [f"| point | seeds | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for point in means.index:
        cells = [f"{means.loc[point, n]:.4g} ± {errors.loc[point, n]:.2g}" for n in names]
        lines.append(f"| {point} | {counts[point]} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
