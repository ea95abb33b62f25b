"""Augmentation of the conditioner's images in batches, against MONAI's transforms of one image
after another.

Both do the same with the documented probabilities: flip, one bilinear interpolation for rotation,
scale and shift together (RandFlip, RandAffine; the two coins before them are folded into their
probabilities, each transform tossing its own), and noise (RandGaussianNoise). MONAI has no mix-up,
so neither mixes. `all` is with every probability at 1.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring.rows import Row, main, row
from data.fields.augment import AugmentSettings
from data.fields.dataset import Arrays, DataSettings, prepare_arrays
from data.fields.samples import ConditionerData
from settings.flat import replace

COUNT, BATCH, ROUNDS = 256, 64, 15

DOCUMENTED = AugmentSettings(flip_symmetric=True, mixup_probability=0.0)
ALL = replace(
    DOCUMENTED,
    {
        f"{name}_probability": 1.0
        for name in ("outer", "inner", "flip", "shift", "rotation", "scale", "noise")
    },
)


def measure() -> Iterator[Row]:
    """Batches in turn, so that whatever else the machine does meets both; medians."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for side in (64, 256):
            data = DataSettings(count=COUNT, image_size=side, times=2, probes_per_side=1)
            arrays = prepare_arrays(data, Path(folder))
            for name, settings in (("documented", DOCUMENTED), ("all", ALL)):
                ours, peer = _ours(arrays, Path(folder), settings), _monai(arrays, settings)
                yield _compare(f"augmentation/{name}/{side}px", ours, peer)


def _compare(name: str, ours: Callable[[int], Any], peer: Callable[[int], Any]) -> Row:
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(-2, ROUNDS):  # two to warm up
        for who, batch in (("ours", ours), ("peer", peer)):
            began = time.perf_counter()
            batch(number + 2)
            if number >= 0:
                seconds[who].append(time.perf_counter() - began)
    value, other = (BATCH / statistics.median(seconds[who]) for who in ("ours", "peer"))
    against = "MONAI's transforms, image by image"
    return row(name, value, "images/s", against, other, higher_is_better=True)


def _rows(number: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(number).integers(0, COUNT // 2, BATCH)]


def _ours(arrays: Arrays, folder: Path, settings: AugmentSettings) -> Callable[[int], Any]:
    np.save(folder / "main.npy", np.zeros((COUNT, 32), np.float32))
    np.save(folder / "hier.npy", np.zeros((COUNT, 3, 8), np.float32))
    data = ConditionerData(arrays, folder, "train", settings, on_device="never")

    def batch(number: int) -> Any:
        return data.__getitems__([(at, 1000 * number + i) for i, at in enumerate(_rows(number))])

    return batch


def _monai(arrays: Arrays, settings: AugmentSettings) -> Callable[[int], Any]:
    """The image and its clean other view, as our samples hold them."""
    from monai.transforms import Compose, RandAffine, RandFlip, RandGaussianNoise

    net = settings.net_probabilities
    still = 1.0
    for name in ("shift", "rotation", "scale"):
        still *= 1.0 - getattr(settings, f"{name}_probability")
    change = Compose(
        [
            RandFlip(prob=net["flip"], spatial_axis=1),
            RandAffine(
                prob=net["outline"] * (1.0 - still),
                rotate_range=math.radians(settings.rotation_degrees),
                translate_range=settings.shift_pixels,
                scale_range=settings.scale_change,
                padding_mode="zeros",
            ),
            RandGaussianNoise(prob=net["noise"], std=settings.noise_sigma, sample_std=False),
        ]
    )
    change.set_random_state(0)
    images = np.load(arrays.images_file, mmap_mode="r")
    train = arrays.indices("train")

    def batch(number: int) -> Any:
        clean = [
            torch.from_numpy(np.array(images[train[at]])).to(torch.float32) / 255.0
            for at in _rows(number)
        ]
        changed = [change(image) for image in clean]
        return torch.stack([torch.as_tensor(image) for image in changed]), torch.stack(clean)

    return batch


if __name__ == "__main__":
    main(measure, __doc__)
