"""Whether masks that are made under counts of lesions by size have them: the counts of slices of
validation are asked for, those of the masks that are made are measured with the same rule.

Beside the error of the masks made for a request stands that of the same masks against the request
of another slice (a network that does not look at what it is asked for has the same), that of the
training's mean counts, and that of an empty mask.

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
STEPS = 20

ARMS: Mapping[str, Mapping[str, Any]] = {
    "film": {},
    "maps": {"condition.sizes.enters": "maps"},
    "film_zeros": {"condition.sizes.null": "zeros"},
}
"""Name -> changes to the preset `mode_seg_conditioned`; the last has the document's null
(001-M10)."""


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
                network = trained("mode_seg_conditioned", changes, draw, Path(folder))
            asked, spacing, mean = _requests(network)
            batch = {"counts": torch.from_numpy(asked).long()}
            seeds = list(range(1000 * draw, 1000 * draw + len(asked)))
            if network.settings.condition.sizes.null == "token":
                batch["not_given"] = torch.zeros(len(asked), dtype=torch.bool)
            made = images_of(network, seeds, STEPS, batch)
            given = _counts(network, (made[:, 0] > 0.5).numpy(), spacing)
            values = {
                f"{name}/asked": _error(given, asked),
                f"{name}/another": _error(given, np.roll(asked, len(asked) // 2, axis=0)),
                f"{name}/lesions_made": float(given.sum(1).mean()),
                "lesions_asked": float(asked.sum(1).mean()),
                "mean": _error(np.broadcast_to(mean, asked.shape), asked),
                "empty": _error(np.zeros_like(asked), asked),
            }
            for key, value in values.items():
                errors.setdefault(key, []).append(value)
    for key, found in errors.items():
        error = standard_error(found)
        mean_of = statistics.mean(found)
        yield Row(f"requested_bins/{key}", mean_of, "lesions", "its standard error", error, None)


def _error(made: Float64, asked: Float64) -> float:
    return float(np.abs(made - asked).sum(1).mean())


def _requests(network: Trained) -> tuple[Float64, Float64, Float64]:
    """(counts of the slices of validation [N, K], spacing of each in mm, mean counts of the
    training's slices [K]).
    """
    from trainables.system import load_system

    loaders = load_system("diffusion").loaders(network.settings, network.prepared)
    images: Any = loaders.validation
    samples = [images.images[at] for at in range(len(images.images))]
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
