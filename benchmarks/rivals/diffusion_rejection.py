"""Whether rejection sampling (DiffRS) makes images that a classifier takes for real more often: a
second head, trained with another seed on other generated samples, that rejects nothing itself.

Beside it the same sampler without rejection, and the same sampler with as many steps as rejection
has evaluated the network for a sample. All on one training of the demo, or on one that is given.

    python -m benchmarks.rivals.diffusion_rejection --json
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring.rows import Row, row, show
from models.diffusion.strategies.rejection import RejectionSettings
from models.diffusion.strategies.sampling import last
from models.draws import hash63
from ray_jobs.verb import cache_directory
from settings.flat import replace
from trainables.checkpoints import checkpoint
from trainables.checkpoints.restore import open_checkpoint
from trainables.diffusion.rejection import make_rejecter, warm_up_seeds
from trainables.diffusion.use import sampled
from trainables.loop import fit
from trainables.reporting.references import measure_references
from trainables.run import LocalRun
from trainables.system import System, load_system

HEAD = "trainables.diffusion_rejection:DiffusionRejection"
IMAGES, BATCH, STEPS = 128, 32, 10
OF_HEADS: Mapping[str, Any] = {
    "samples.train": 192,
    "samples.held_out": 64,
    "samples.steps": STEPS,
    "train.steps": 150,
    "train.report_every": 75,
}
"""Of both heads: their generated images are of the sampler that is compared. The document has 5000
of 25 steps, and trains longer.
"""

JUDGED = ("val.bce", "val.accuracy", "val.auc", "val.ece")
NODES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "state": {"back": "state"},
    "from_0.05": {"low": 0.05},
}
"""Ways to reject, by name."""

_STREAM = 41
"""Of the seeds of what is compared."""


@dataclass(frozen=True)
class Heads:
    """Of one diffusion: the head that rejects, and the one that judges.

    Attributes:
        columns: of the validation of the one that judges, and its references by name.
    """

    settings: Any
    modules: Mapping[str, Any]
    rejects: Any
    judges: Mapping[str, Any]
    judge: Any
    prepared: Any
    columns: Mapping[str, float]
    references: Mapping[str, Mapping[str, float | None]]


def trained(
    directory: Path, named: str, changes: Mapping[str, Any], of_head: Mapping[str, Any]
) -> Heads:
    """Trains both heads, and before them the diffusion unless it is named.

    Args:
        changes, of_head: to the settings of the demos.
    """
    quiet = {"train.tensorboard": False, "train.figures": False}
    if not named:
        _fitted(load_system("diffusion"), {**quiet, **changes}, directory / "base")
    base = Path(named) if named else directory / "base"
    head, runs = load_system(HEAD), {}
    for seed in (0, 1):
        own = {"diffusion.checkpoint": str(base), "samples.seed": seed}
        values = {**quiet, **own, "train.seed": seed, **of_head}
        runs[seed] = _fitted(head, values, directory / f"head_{seed}")
    opened = [open_checkpoint(checkpoint.find(path, best=True))
              for path in (base, directory / "head_0", directory / "head_1")]  # fmt: skip
    settings, prepared, report = runs[1]
    return Heads(
        opened[0].settings,
        opened[0].modules,
        opened[1].modules["head"],
        opened[2].modules,
        settings,
        prepared,
        {name: float(report[name]) for name in JUDGED},
        measure_references(head, settings, prepared, "validation"),
    )


def _fitted(system: System, values: Mapping[str, Any], directory: Path) -> tuple[Any, Any, Any]:
    settings = replace(system.Settings(), values)
    prepared = system.prepare(settings, cache_directory())
    return settings, prepared, fit(system, settings, LocalRun(directory), prepared)


def seeds_of(count: int) -> Tensor:
    return torch.tensor([hash63(0, _STREAM, index) for index in range(count)])


@torch.no_grad()
def plain(heads: Heads, steps: int, count: int) -> Tensor:
    """Images in [0, 1], not cut, of the sampler without rejection, [n, C, *S]."""
    sampling = replace(heads.settings.sampling, {"steps": steps})
    made = [
        heads.modules["space"].decode(
            last(sampled(heads.settings, heads.modules, {}, its, sampling)).x
        )
        for its in seeds_of(count).split(BATCH)
    ]
    return torch.cat(made).float()


@torch.no_grad()
def rejected(
    heads: Heads, steps: int, count: int, node: RejectionSettings
) -> tuple[Tensor, dict[str, float]]:
    """Images with rejection, and evaluations, rejections and capped ones a sample."""
    sampling = replace(heads.settings.sampling, {"steps": steps})
    conditions = {"seed": warm_up_seeds(node)}
    rejecter = make_rejecter(
        heads.settings, heads.modules, heads.rejects, conditions, sampling, node
    )
    counts: dict[str, float] = {}
    made = [
        heads.modules["space"].decode(rejecter.counted({"seed": its}, its, counts))
        for its in seeds_of(count).split(BATCH)
    ]
    return torch.cat(made).float(), {name: value / count for name, value in counts.items()}


@torch.no_grad()
def shares_real(heads: Heads, images: Tensor) -> Tensor:
    """Of each image the share of the log-SNRs at which it is taken for real, float64 [n]."""
    from metrics.diffusion import LEVELS
    from trainables.diffusion_rejection.forward import judged

    found = []
    for first in range(0, len(images), BATCH):
        part = images[first : first + BATCH]
        votes = []
        for level in range(len(LEVELS)):
            batch = {
                "image": part,
                "level": torch.full((len(part),), level),
                "bin": torch.full((len(part),), -1),
                "seed": torch.arange(first, first + len(part)),
            }
            votes.append((judged(heads.judges, batch, None)["logit"] > 0.0).double())
        found.append(torch.stack(votes).mean(dim=0))
    return torch.cat(found)


def real_images(heads: Heads) -> Tensor:
    """The held-out ones of the test."""
    from trainables.diffusion_rejection.frozen import base_settings
    from trainables.diffusion_rejection.samples import fixed_pairs

    pairs = fixed_pairs(heads.prepared, base_settings(heads.prepared.meta), "test")
    return torch.stack([pairs.real.at(index)["image"] for index in range(len(pairs.real))])


def error_of(values: Tensor) -> float:
    """Standard error of the mean over samples."""
    return float(values.std()) / len(values) ** 0.5


def rows_of(heads: Heads, steps: int, count: int) -> Iterator[Row]:
    """Means over samples; the gain of rejection is over images of the same seeds, in pairs."""
    place = f"diffusion_rejection/{steps}_steps"
    without = shares_real(heads, plain(heads, steps, count))
    yield _share(f"{place}/without", without)
    for name, changes in NODES.items():
        images, spent = rejected(heads, steps, count, replace(RejectionSettings(), changes))
        share = shares_real(heads, images)
        at = f"{place}/{name}"
        yield _share(at, share)
        gain = share - without
        yield row(f"{at}/gain", float(gain.mean()), "", "its standard error", error_of(gain))
        for what, value in spent.items():
            yield row(f"{at}/{what}", value, "a sample", "", None)
        more = round(spent["evaluations"])
        equal = shares_real(heads, plain(heads, more, count))
        yield _share(f"{at}/without_{more}_steps", equal)
        over = share - equal
        yield row(
            f"{at}/gain_over_more_steps", float(over.mean()), "", "its standard error",
            error_of(over),
        )  # fmt: skip


def _share(name: str, values: Tensor) -> Row:
    return row(name, float(values.mean()), "taken for real", "its standard error",
               error_of(values))  # fmt: skip


def measure(named: str, count: int) -> Iterator[Row]:
    """All rows of one training."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        heads = trained(Path(folder), named, {}, OF_HEADS)
        for name, value in heads.columns.items():
            short = name.removeprefix("val.")
            for who, values in heads.references.items():
                yield row(f"diffusion_rejection/judge/{short}", value, "", who, values.get(name))
        yield _share("diffusion_rejection/real", shares_real(heads, real_images(heads)))
        yield from rows_of(heads, STEPS, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--images", type=int, default=IMAGES, help="of each way to sample")
    parser.add_argument("--diffusion", default="", help="a training; by default one of the demo")
    args = parser.parse_args()
    for printed in measure(args.diffusion, args.images):
        show(printed, args.json)


if __name__ == "__main__":
    main()
