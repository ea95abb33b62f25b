"""The claims of a system's source document, tested: every arm with several seeds, as one table.

    python -m benchmarks.claims hdr_patch --dir sweeps/claims
    python -m benchmarks.claims hdr_patch --dir sweeps/claims-real data.source=folder data.root=...
    python -m benchmarks.claims conditioner --dir sweeps/conditioner
    python -m benchmarks.claims compression_best --dir sweeps/best --first-seed 3

Each seed is one sweep of `benchmarks/arms/<name>.yaml`, run by the sweep verb and resumed where it
was cut off. The table gives the mean and the standard error over the seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmarks.measuring.commands import ROOT
from results.frame import load_sweep
from search_spaces.space import load_space

_CONDITIONER = (
    "val.decoded_field_error",
    "val.decoded_field_error_p95",
    "val.latent_rmse",
    "val.main_mse",
    "val.hier_mse",
    "val.consistency_score",
    "train.grad_norm",
    "health.weight_collapse",
)

_HDR_PATCH = (
    "val.hole_log_rmse",
    "val.hole_psnr_pu_db",
    "val.seam_error",
    "val.overflow_above_target_rate",
    "val.overflow_rate_1e2",
    "val.saturation_share",
    "val.unreachable_share",
    "val.cap_mean",
)

_COMPRESSION = (
    "val.psnr_db",
    "val.psnr_quantised_db",
    "val.rate_bpp",
    "val.ms_ssim",
    "val.efficientnet_distance",
    "val.boundary_sharpness",
    "val.tumour_l1",
    "val.lesion_l1_small",
    "val.latent_std",
)

COLUMNS = {
    "hdr_patch": _HDR_PATCH,
    "hdr_patch_gan": (*_HDR_PATCH, "val.loss.perceptual"),
    "conditioner": _CONDITIONER,
    "conditioner_flips": _CONDITIONER,
    "compression": _COMPRESSION,
    "compression_best": _COMPRESSION,
    "compression_structured": _COMPRESSION,
}
"""What each finding shows, by the name of its arms, which begins with the system's."""

SYSTEMS = {
    "hdr_patch": "hdr_patch",
    "hdr_patch_gan": "hdr_patch",
    "conditioner": "conditioner",
    "conditioner_flips": "conditioner",
    "compression": "compression",
    "compression_best": "compression",
    "compression_structured": "compression",
}


def main() -> None:
    """Runs what is missing, prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", choices=sorted(COLUMNS))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--dir", required=True, help="the sweeps go to DIR/seed-N")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_intermixed_args()
    system, space = SYSTEMS[arguments.arms], ROOT / "benchmarks/arms" / f"{arguments.arms}.yaml"
    frames = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        directory = Path(arguments.dir) / f"seed-{seed}"
        _run(system, arguments.overrides, space, directory, seed)
        frames.append(load_sweep(directory))
    print(table(pd.concat(frames), COLUMNS[arguments.arms]))


def _run(system: str, overrides: list[str], space: Path, directory: Path, seed: int) -> None:
    command = [sys.executable, "-m", "ray_jobs.sweep"]
    if (directory / "sweep.json").exists():
        command += ["--resume", str(directory)]
    else:
        count = len(load_space(system, str(space)).points)
        command += [system, *overrides, "--space", str(space), "--trials", str(count)]
        command += ["--seed", str(seed), "--scheduler", "none", "--dir", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def table(frame: pd.DataFrame, columns: tuple[str, ...]) -> str:
    """Mean and standard error of each point, one row a point, as a Markdown table."""
    names = [f"last/{column}" for column in columns if f"last/{column}" in frame]
    columns = tuple(name.removeprefix("last/") for name in names)
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
