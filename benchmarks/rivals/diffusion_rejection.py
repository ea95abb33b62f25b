"""Whether rejection sampling (DiffRS) makes images that a classifier takes for real more often: a
second head, trained with another seed on other generated samples, that rejects nothing itself.

Beside it the same sampler without rejection, and the same sampler with as many more steps as
rejection has evaluated the network. All on the demo, by default on one training.

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
IMAGES, BATCH = 256, 64
STEPS = (10, 25)
JUDGED = ("val.bce", "val.accuracy", "val.auc", "val.ece")
NODES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "state": {"back": "state"},
    "from_0.05": {"low": 0.05},
    "back_5": {"back_steps": 5},
    "percentile_0.95": {"percentile": 0.95},
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


def trained(directory: Path, changes: Mapping[str, Any], of_head: Mapping[str, Any]) -> Heads:
    """Trains a diffusion and both heads.

    Args:
        changes, of_head: to the settings of the demos.
    """
    quiet = {"train.tensorboard": False, "train.figures": False}
    base = load_system("diffusion")
    _fitted(base, {**quiet, **changes}, directory / "base")
    head, runs = load_system(HEAD), {}
    for seed in (0, 1):
        own = {"diffusion.checkpoint": str(directory / "base"), "samples.seed": seed}
        values = {**quiet, **own, "train.seed": seed, **of_head}
        runs[seed] = _fitted(head, values, directory / f"head_{seed}")
    opened = [open_checkpoint(checkpoint.find(directory / n, best=True))
              for n in ("base", "head_0", "head_1")]  # fmt: skip
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


def measure(changes: Mapping[str, Any], of_head: Mapping[str, Any], count: int) -> Iterator[Row]:
    """All rows of one training."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        heads = trained(Path(folder), changes, of_head)
        for name, value in heads.columns.items():
            short = name.removeprefix("val.")
            yield row(f"diffusion_rejection/judge/{short}", value, "", "", None)
            for who, found in heads.references.items():
                other = found.get(name)
                yield row(f"diffusion_rejection/judge/{short}/{who}", value, "", who, other)
        yield _share("diffusion_rejection/real", shares_real(heads, real_images(heads)))
        for steps in STEPS:
            yield from rows_of(heads, steps, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--images", type=int, default=IMAGES, help="of each way to sample")
    args = parser.parse_args()
    for found in measure({}, {}, args.images):
        show(found, args.json)


if __name__ == "__main__":
    main()
