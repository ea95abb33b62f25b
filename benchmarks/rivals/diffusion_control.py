"""Whether lesions are where a control branch is asked for them: the share of the voxels of the
requested lesions that are brighter with control than without, of the same noise; beside it the
share under the mask of another patient, at the same voxels. The share of an image with itself
counts ties as half and is 0.5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring.rows import Row, main

STEPS = 400
SEEDS = 4
"""Of noise, for each mask."""


def measure() -> Iterator[Row]:
    """Trains the network and then its branch at the size of the demo, on one thread, and makes
    images of the masks of the test and validation patients; errors are standard errors over
    patients.
    """
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = shares(Path(folder))
    for name, by_patient in found.items():
        values = torch.tensor(list(by_patient.values()), dtype=torch.float64)
        error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
        yield Row(f"diffusion_control/{name}/share", float(values.mean()), "", "", None, None)
        yield Row(f"diffusion_control/{name}/error", error, "", "", None, None)
        yield Row(f"diffusion_control/{name}/patients", len(values), "", "", None, None)


def shares(folder: Path) -> dict[str, dict[str, float]]:
    """Name of what was asked for -> patient -> share of brighter voxels."""
    import torch

    from benchmarks.measuring.steps import prepared_settings
    from models.diffusion.strategies.sampling import last
    from settings.flat import replace
    from trainables.checkpoints import checkpoint
    from trainables.checkpoints.restore import open_checkpoint
    from trainables.diffusion.use import sampled
    from trainables.loop import fit
    from trainables.run import LocalRun
    from trainables.system import load_system

    system = load_system("diffusion")
    quiet = {"train.steps": STEPS, "train.report_every": STEPS, "train.tensorboard": False,
             "train.figures": False, "train.test": False}  # fmt: skip
    settings, prepared = prepared_settings(system, quiet)
    fit(system, settings, LocalRun(folder / "right"), prepared)
    branch = {"control.enabled": True, "control.widths": (16,)}
    settings = replace(settings, {**branch, "train.init_from": str(folder / "right")})
    fit(system, settings, LocalRun(folder / "control"), prepared)
    modules = open_checkpoint(checkpoint.find(folder / "control", best=False)).modules
    masks, patients = masks_of(system, settings, prepared)
    seeds = torch.arange(len(masks))
    # the mask of the first sample of another patient, further on in the list
    others = [
        next(j for j in (*range(i + 1, len(masks)), *range(i)) if patients[j] != patients[i])
        for i in range(len(masks))
    ]
    asked = {"control": masks, "wrong_mask": masks[others]}

    def made(batch: dict[str, Any]) -> Any:
        with torch.no_grad():
            path = sampled(settings, modules, batch, batch["seed"], settings.sampling)
            return modules["space"].decode(last(path).x)

    found: dict[str, dict[str, float]] = {}
    sums: dict[tuple[str, str], list[float]] = {}
    for repeat in range(SEEDS):
        noise = {"seed": seeds + repeat * len(masks)}
        plain = made(noise)
        for name, given in asked.items():
            image = made({**noise, "mask": given})
            wins = (image > plain).double() + 0.5 * (image == plain).double()
            for win, mask, patient in zip(wins, masks, patients, strict=True):
                total = sums.setdefault((name, patient), [0.0, 0.0])
                total[0] += float(win[mask > 0].sum())
                total[1] += float((mask > 0).sum())
    for (name, patient), (brighter, voxels) in sums.items():
        found.setdefault(name, {})[patient] = brighter / voxels
    return found


def masks_of(system: Any, settings: Any, prepared: Any) -> tuple[Any, list[str]]:
    """The masks with a lesion of the validation and test samples, and the patient of each."""
    import torch

    from trainables.diffusion.samples import PAIRS

    loaders = system.loaders(settings, prepared)
    masks, patients = [], []
    for split, samples in (("validation", loaders.validation), ("test", loaders.test)):
        for at in range(0, len(samples or ()), PAIRS):
            mask = samples[at]["mask"]
            if bool(mask.any()):
                masks.append(mask)
                patients.append(str(loaders.units[split][at]))
    return torch.stack(masks), patients


if __name__ == "__main__":
    main(measure, __doc__)
