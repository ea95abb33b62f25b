"""Whether lesions are where a control branch is asked for them: the share of the voxels of
requested lesions that are brighter with control than without, of the same noise; beside it that of
the same voxels under the mask of another patient. An image against itself has ties alone, which
count as half. First, whether the branch has learnt: the squared error of the velocity with control
over that of the frozen network, on the pairs of validation.

    python -m benchmarks.rivals.diffusion_control --json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.measuring.rows import Row, show, standard_error

if TYPE_CHECKING:
    from benchmarks.measuring.diffusion_images import Trained

DRAW = 7
"""Of the data (`data.seed`)."""

SEEDS = 2
"""Of noise, for each mask."""

STEPS = 10
"""Of the sampler."""

SIZE: Mapping[str, Any] = {
    "data.image_size": 32, "train.report_every": 400, "train.test": False,
}  # fmt: skip
"""Of both trainings: half the sides of the demo."""

CONTROL: Mapping[str, Any] = {"train.batch_size": 4}
"""Of the second: as many samples a step as `right` has."""


def measure(folder: Path) -> Iterator[Row]:
    """Trains `right`, then `control` on it, in the folder; the peer of a row is its standard error
    over patients of validation and test.
    """
    from benchmarks.measuring.diffusion_images import trained

    torch.set_num_threads(1)
    first = folder / "right"
    trained("right", SIZE, DRAW, first)
    network = trained(
        "control", {**SIZE, **CONTROL, "train.init_from": str(first)}, DRAW, folder / "control"
    )
    masks, patients = _masks(network)
    for name, value in _errors(network).items():
        yield Row(f"diffusion_control/{name}", value, "", "", None, None)
    for name, found in _shares(network, masks, patients).items():
        error, mean = standard_error(found), statistics.mean(found)
        yield Row(f"diffusion_control/{name}", mean, "", "its standard error", error, None)
    yield Row("diffusion_control/masks", len(masks), "", "", None, None)
    yield Row("diffusion_control/patients", len(set(patients)), "", "", None, None)


@torch.no_grad()
def _errors(network: Trained) -> dict[str, float]:
    """Squared errors of the controlled network over those of the frozen one, in all voxels and in
    those of lesions, and with the mask of another image.
    """
    from trainables.diffusion.forward import noise_only
    from trainables.diffusion.samples import PAIRS
    from trainables.stepping.inputs import batch_of
    from trainables.system import load_system

    loaders = load_system("diffusion").loaders(network.settings, network.prepared)
    images = len(loaders.validation) // PAIRS  # type: ignore[arg-type]  # map-style
    batch = batch_of(loaders, "validation", range(images * PAIRS))
    others = batch["mask"].roll(images // 2 * PAIRS, 0)
    alone = {name: module for name, module in network.modules.items() if name != "control"}
    sums = {}
    for name, modules, masks in (
        ("frozen", alone, batch["mask"]),
        ("control", network.modules, batch["mask"]),
        ("wrong_mask", network.modules, others),
    ):
        said = noise_only(modules, {**batch, "mask": masks}, network.settings)
        error = (said["prediction"] - said["target"]).double().square()
        sums[name] = torch.stack([error.sum(), error[batch["mask"] > 0].sum()])
    return {
        f"{name}/{place}": float(ratio)
        for name in ("control", "wrong_mask")
        for place, ratio in zip(
            ("error", "error_in_lesions"), sums[name] / sums["frozen"], strict=True
        )
    }


def _shares(network: Trained, masks: Tensor, patients: list[str]) -> dict[str, list[float]]:
    """Shares of brighter voxels, one of each patient, by what was asked for."""
    from benchmarks.measuring.diffusion_images import images_of

    count = len(masks)
    others = [
        next(j % count for j in range(i + 1, i + count) if patients[j % count] != patients[i])
        for i in range(count)
    ]
    asked = {"control": masks, "wrong_mask": masks[others]}
    sums: dict[tuple[str, str], list[float]] = {}
    for repeat in range(SEEDS):
        seeds = list(range(repeat * count, (repeat + 1) * count))
        plain = images_of(network, seeds, STEPS)
        for name, given in asked.items():
            image = images_of(network, seeds, STEPS, {"mask": given})
            wins = (image > plain).double() + 0.5 * (image == plain).double()
            for win, mask, patient in zip(wins, masks, patients, strict=True):
                total = sums.setdefault((name, patient), [0.0, 0.0])
                total[0] += float(win[mask > 0].sum())
                total[1] += float((mask > 0).sum())
    shares: dict[str, list[float]] = {}
    for (name, _), (brighter, voxels) in sums.items():
        shares.setdefault(f"{name}/share", []).append(brighter / voxels)
    return shares


def _masks(network: Trained) -> tuple[Tensor, list[str]]:
    """The masks with a lesion of the samples of validation and test, and the patient of each."""
    from trainables.diffusion.samples import PAIRS
    from trainables.system import load_system

    loaders = load_system("diffusion").loaders(network.settings, network.prepared)
    masks, patients = [], []
    for split in ("validation", "test"):
        samples: Any = getattr(loaders, split)
        for at in range(0, len(samples or ()), PAIRS):
            mask = samples[at]["mask"]
            if bool(mask.any()):
                masks.append(mask)
                patients.append(str(loaders.units[split][at]))
    return torch.stack(masks), patients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--dir", type=Path, help="keeps both trainings there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for printed in measure(args.dir or Path(scratch)):
            show(printed, args.json)


if __name__ == "__main__":
    main()
