"""What the first k channels of a latent carry: PSNR of the validation images from latents whose
other channels are zero, for the trainings of sweeps.

    python -m benchmarks.claims compression_structured --dir sweeps/structured
    python -m benchmarks.compression_channels sweeps/structured/seed-*
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.claiming.table import cells, markdown, results_of
from metrics.by_modality import psnr
from models.autoencoders.interface import Autoencoder
from models.autoencoders.structured_latent import keep_leading
from ray_jobs.verb import cache_directory
from results.frame import load_sweep
from trainables.checkpoints.restore import open_checkpoint
from trainables.stepping.batches import validation_loader

KEPT = (8, 16, 24, 32, 40, 48, 56, 64)


def main() -> None:
    """Prints one row a point and one column a number of channels, as Markdown; the first point is
    the control of the others.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="DIR")
    frames = {_place(sweep): _measured(load_sweep(sweep)) for sweep in parser.parse_args().sweeps}
    first, *others = dict.fromkeys(pd.concat(frames.values())["point"])
    results = results_of(frames, tuple(f"psnr_db@{count}" for count in KEPT))
    print(markdown(cells(results, {first: "", **dict.fromkeys(others, first)})))


def _place(sweep: Path) -> tuple[int, int]:
    """(unit, seed) of `unit-U/seed-S` or `seed-S`."""
    *_, unit, seed = ("unit-0", *sweep.resolve().parts)
    number = unit.removeprefix("unit-")
    return int(number) if number.isdecimal() else 0, int(seed.removeprefix("seed-"))


def _measured(sweep: pd.DataFrame) -> pd.DataFrame:
    complete = sweep[sweep["state"] == "complete"]
    rows = []
    for _, trial in complete.iterrows():
        values = dict(zip(KEPT, psnr_of_leading(Path(trial["checkpoint"]), KEPT), strict=True))
        named = {f"last/psnr_db@{count}": value for count, value in values.items()}
        rows.append({"point": trial["point"], "state": trial["state"], **named})
    return pd.DataFrame(rows)


@torch.no_grad()
def psnr_of_leading(checkpoint: Path, kept: Sequence[int]) -> list[float]:
    """Mean PSNR over the validation images [dB] for each number of channels."""
    opened = open_checkpoint(checkpoint)
    settings = opened.settings
    model: Any = opened.modules["autoencoder"]
    prepared = opened.system.prepare(settings, cache_directory())
    loaders = opened.system.loaders(settings, prepared)
    size = settings.train.validation_batch_size
    found = []
    for batch in validation_loader(loaders, size, world=1, rank=0):
        latent = model.encode(batch["image"])
        found.append([_from_leading(model, latent, count, batch["image"]) for count in kept])
    return torch.cat([torch.stack(scores) for scores in found], dim=1).mean(dim=1).tolist()


def _from_leading(model: Autoencoder, latent: Tensor, count: int, image: Tensor) -> Tensor:
    """PSNR of each image [B]."""
    decoded = model.decoded(keep_leading(latent, count))
    return psnr(decoded["reconstruction"], image)


if __name__ == "__main__":
    main()
