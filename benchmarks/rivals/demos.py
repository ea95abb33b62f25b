"""What the demo of each system gains by its training over what needs none, and over rivals that
are trained as long: one training of each for each draw of the data, judged on its validation and
on its test by the system's own metrics.

    python -m benchmarks.rivals.demos [SYSTEM ...] [--only draws_4_to_7] --json

The settings of the demos were chosen on draws of 0 to 3, those of compression on draw 0. Draws 4
to 7 chose nothing, and are the ones to quote.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.rows import Row, row, show, standard_error
from ray_jobs.verb import cache_directory
from settings.flat import replace
from settings.resolve import resolve
from trainables.loop import fit
from trainables.reporting.references import measure_by_unit, measure_references
from trainables.run import LocalRun
from trainables.system import load_system

DRAWS = {"draws_4_to_7": (4, 5, 6, 7), "draws_0_to_3": (0, 1, 2, 3)}
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Demo:
    """What is trained, and the metric that judges it.

    Attributes:
        apart: references whose names begin so are shown, and the gain is not over them: codecs,
            which are ahead of every network of this size.
        rivals: what is trained beside it, on the same draw: name -> changes to its settings.
    """

    preset: str
    metric: str
    unit: str = ""
    higher_is_better: bool = False
    apart: str = ""
    rivals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


LINEAR = {"model.vae.shortcut": "lapped_alone", "optimizer.lr": 1.6e-2}
"""The linear map of the preset `lapped` without its network, at the learning rate that was best on
draw 0."""

DEMOS: Mapping[str, Demo] = {
    "hdr_patch": Demo("prefill", "val.hole_log_rmse"),
    "conditioner": Demo("baseline", "val.decoded_field_error"),
    "compression": Demo(
        "lapped",
        "val.psnr_quantised_db",
        "dB",
        higher_is_better=True,
        apart="webp_",
        rivals={"linear": LINEAR},
    ),
    "diffusion": Demo("right", "val.denoising_mse"),
}

Values = dict[str, dict[str, float]]
"""{split: {the training, each rival, and each reference that has one: value}}"""

TRAINED = "trained"


def measured(
    name: str, demo: Demo, draw: int, directory: Path, changes: Mapping[str, Any] | None = None
) -> Values:
    """One training of the demo and of each rival on one draw of the data, and all references of
    the system beside them.

    Args:
        changes: to the demo's settings.
    """
    system = load_system(name)
    begun = resolve(system.Settings, system.name, preset=demo.preset, sampled=changes).settings
    key = system.unit_key(begun)
    settings = replace(begun, {key: draw, "train.test": True, "train.tensorboard": False})
    prepared = system.prepare(settings, cache_directory())
    trained = {who: replace(settings, own) for who, own in {TRAINED: {}, **demo.rivals}.items()}
    checkpoints = {}
    for who, its in trained.items():
        run = LocalRun(directory / who)
        fit(system, its, run, prepared)
        checkpoints[who] = max((run.directory / "checkpoints").glob("step-*"))
    values: Values = {}
    for split in SPLITS:
        rows = {
            who: measure_by_unit(system, its, prepared, checkpoints[who], split)
            for who, its in trained.items()
        }
        rows |= measure_references(system, settings, prepared, split)
        found = {who: what[demo.metric] for who, what in rows.items()}
        values[split] = {who: value for who, value in found.items() if value is not None}
    return values


def rows_of(name: str, demo: Demo, group: str, draws: Sequence[Values]) -> Iterator[Row]:
    """Means over the draws, a row for each rival and reference; then by how much the training is
    better than the best of them that does not stand apart, and the standard error of that over
    the draws.
    """
    for split in SPLITS:
        place = f"demos/{name}/{group}/{split}"
        by_draw = [values[split] for values in draws]
        means = {who: statistics.mean(v[who] for v in by_draw) for who in by_draw[0]}
        ours = means.pop(TRAINED)
        for who, value in means.items():
            yield row(
                f"{place}/{who}", ours, demo.unit, who, value,
                higher_is_better=demo.higher_is_better,
            )
        rivals = [who for who in means if not (demo.apart and who.startswith(demo.apart))]
        best = (max if demo.higher_is_better else min)(rivals, key=lambda who: means[who])
        sign = 1.0 if demo.higher_is_better else -1.0
        gains = [sign * (v[TRAINED] - v[best]) for v in by_draw]
        error = standard_error(gains)
        yield row(f"{place}/gain", statistics.mean(gains), demo.unit, "its standard error", error)
        share = statistics.mean(gains) / abs(means[best])
        yield row(f"{place}/gain_share", 100.0 * share, "%", best, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(DEMOS)}")
    parser.add_argument("--only", choices=DRAWS, help="one of the groups of draws")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.systems or DEMOS:
        for group in [args.only] if args.only else DRAWS:
            draws = []
            for draw in DRAWS[group]:
                with tempfile.TemporaryDirectory() as folder:
                    draws.append(measured(name, DEMOS[name], draw, Path(folder)))
            for found in rows_of(name, DEMOS[name], group, draws):
                show(found, args.json)


if __name__ == "__main__":
    main()
