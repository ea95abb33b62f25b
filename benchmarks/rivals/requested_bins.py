"""Whether masks that are made under counts of lesions by size have them: the counts of slices of
validation and test are asked for, those of the masks that are made measured with the same rule.

Beside the error of the masks made for a request stands that of the same masks against all other
requests (`shuffled`: a network that does not look at what it is asked for has the same), that of
the training's mean counts, and that of an empty mask.

The network is the DiT of the strategies' findings: at equal error, a step of it costs a third of
one of the UNet.

    python -m benchmarks.rivals.requested_bins --json
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.measuring.rows import Row, main, standard_error
from data.files import Float64

if TYPE_CHECKING:
    from benchmarks.measuring.diffusion_images import Trained

DRAWS = (4, 5, 6, 7)
STEPS = 10
REPEATS = 4
"""Masks for a request."""

NETWORK: Mapping[str, Any] = {
    "model.kind": "dit", "optimizer.lr": 8.2e-3, "train.steps": 400, "train.batch_size": 8,
    "train.test": False,
}  # fmt: skip
"""Changes to the preset `mode_seg_conditioned` in every arm; the rate is the best of five for this
network.
"""

ARMS: Mapping[str, Mapping[str, Any]] = {"film": {}, "maps": {"condition.sizes.enters": "maps"}}
"""Name -> further changes."""


def measure() -> Iterator[Row]:
    """Mean absolute difference of counts, summed over bins, mean over masks and draws; the peer of
    a row is its standard error over draws.
    """
    from benchmarks.measuring.diffusion_images import images_of, trained

    torch.set_num_threads(1)
    errors: dict[str, list[float]] = {}
    for draw in DRAWS:
        for name, changes in ARMS.items():
            with tempfile.TemporaryDirectory() as folder:
                given_all = {**NETWORK, **changes}
                network = trained("mode_seg_conditioned", given_all, draw, Path(folder))
            requests, spacing, mean = _requests(network)
            asked = np.tile(requests, (REPEATS, 1))
            batch = {
                "counts": torch.from_numpy(asked).long(),
                "not_given": torch.zeros(len(asked), dtype=torch.bool),
            }
            seeds = list(range(10_000 * draw, 10_000 * draw + len(asked)))
            made = images_of(network, seeds, STEPS, batch)
            given = _counts(network, (made[:, 0] > 0.5).numpy(), np.tile(spacing, (REPEATS, 1)))
            error, shuffled = error_of(given, asked), shuffled_error(given, asked, len(requests))
            values = {
                f"{name}/asked": error,
                f"{name}/shuffled": shuffled,
                f"{name}/gain": shuffled - error,
                f"{name}/lesions_made": float(given.sum(1).mean()),
            }
            for key, value in values.items():
                errors.setdefault(key, []).append(value)
        references = {  # the same for all arms
            "lesions_asked": float(requests.sum(1).mean()),
            "mean": error_of(np.broadcast_to(mean, requests.shape), requests),
            "empty": error_of(np.zeros_like(requests), requests),
        }
        for key, value in references.items():
            errors.setdefault(key, []).append(value)
    for key, each in errors.items():
        yield Row(
            f"requested_bins/{key}", statistics.mean(each), "lesions", "its standard error",
            standard_error(each), None,
        )  # fmt: skip


def error_of(made: Float64, asked: Float64) -> float:
    return float(np.abs(made - asked).sum(1).mean())


def shuffled_error(made: Float64, asked: Float64, requests: int) -> float:
    """The mean error against every other request in the place of a mask's own."""
    turns = range(1, requests)
    return statistics.mean(error_of(made, np.roll(asked, turn, axis=0)) for turn in turns)


def _requests(network: Trained) -> tuple[Float64, Float64, Float64]:
    """(counts of the slices of validation and test [N, K], spacing of each in mm, mean counts of
    the training's slices [K]).
    """
    from trainables.system import load_system

    loaders = load_system("diffusion").loaders(network.settings, network.prepared)
    samples = []
    for pairs in (loaders.validation, loaders.test):
        images: Any = pairs.images  # type: ignore[union-attr]  # of `Pairs`
        samples += [images[at] for at in range(len(images))]
    counts = np.stack([sample["counts"].numpy() for sample in samples]).astype(float)
    spacing = np.stack([sample["spacing"].numpy() for sample in samples])
    train: Any = loaders.train
    of_train = [train[(at, 0)]["counts"].numpy() for at in range(len(train))]
    return counts, spacing, np.mean(of_train, axis=0)


def _counts(
    network: Trained, masks: np.ndarray[Any, np.dtype[np.bool_]], spacing: Float64
) -> Float64:
    from data.mri.lesions import lesions_of
    from trainables.diffusion.samples import size_counts

    edges, least = network.settings.condition.sizes.edges_mm, network.prepared.data.least_lesion
    rows = []
    for mask, mm in zip(masks, spacing, strict=True):
        found = lesions_of(mask.astype(np.uint8), mm.tolist(), least).diameters_mm
        rows.append(size_counts(found, edges))
    return np.stack(rows).astype(float)


if __name__ == "__main__":
    main(measure, __doc__)
