"""Samples of brain MRI a second from our store, against MONAI's CacheDataset and PersistentDataset
that hold the same samples.

Batches in random order, collated by torch, in one process and one thread, files in the page cache.
`CacheDataset` is as in a training, before a random transform, for which it copies the sample;
`CacheDataset_as_is` has none and hands out its own tensors. Its float32 samples are in the memory
of every trial, ours are one file for all. `half` is our own store with float16 in place of bytes;
`rounding` what each loses of an image.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.measuring.rows import Row, main, row
from data.mri.dataset import DataSettings, open_split, prepare
from data.mri.store import MriSamples

ROUNDS = 15

SIZES: Mapping[str, tuple[int, int, Mapping[str, Any]]] = {
    "2d/64px": (2, 16, {"image_size": 64}),
    "2d/256px": (2, 16, {"image_size": 256}),
    "3d/32x32x32": (3, 2, {"volume_size": (32, 32, 32)}),
    "3d/32x128x128": (3, 2, {"volume_size": (32, 128, 128)}),
}
"""Name -> dimensions, samples a batch, settings."""

Sample = dict[str, Tensor]


def measure() -> Iterator[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, (dims, batch, changes) in SIZES.items():
            place = Path(folder) / name.replace("/", "-")
            prepared = prepare(DataSettings(patients=(4, 1, 0), **changes), place, dims)
            data: Any = open_split(prepared, "train")
            getters = {
                "ours": data.read,
                **_monai(data, place / "persistent"),
                "half": _half(data, place / "half.npy"),
            }
            rates = _rates(getters, data.count, batch)
            for peer in list(getters)[1:]:
                against = f"MONAI's {peer}" if "set" in peer else "our store in float16"
                yield row(
                    *(f"mri_loading/{name}/{peer}", rates["ours"], "samples/s", against),
                    rates[peer],
                    higher_is_better=True,
                )
        yield _rounding()


def _rates(
    getters: Mapping[str, Callable[[int], Sample]], count: int, size: int
) -> dict[str, float]:
    """Batches in turn, in both directions, so that whatever else the machine does meets all;
    medians.
    """
    seconds: dict[str, list[float]] = {who: [] for who in getters}
    for number in range(-2, ROUNDS):  # two to warm up
        indices = np.random.default_rng(number + 2).integers(0, count, size)
        for who, get in list(getters.items())[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            default_collate([get(int(index)) for index in indices])
            if number >= 0:
                seconds[who].append(time.perf_counter() - began)
    return {who: size / statistics.median(found) for who, found in seconds.items()}


def _monai(data: MriSamples, folder: Path) -> dict[str, Callable[[int], Sample]]:
    from monai.data import CacheDataset, PersistentDataset
    from monai.transforms import Compose, RandomizableTrait, Transform

    class Read(Transform):
        """Cached, since nothing is random about it."""

        def __call__(self, index: int) -> Sample:
            return data.read(index)

    class Nothing(Transform, RandomizableTrait):
        """Stands for an augmentation."""

        def __call__(self, sample: Sample) -> Sample:
            return sample

    indices = list(range(data.count))
    read, both = Compose([Read()]), Compose([Read(), Nothing()])
    return {
        "CacheDataset": CacheDataset(indices, both, progress=False).__getitem__,
        "CacheDataset_as_is": CacheDataset(indices, read, progress=False).__getitem__,
        "PersistentDataset": PersistentDataset(indices, read, folder).__getitem__,
    }


def _half(data: MriSamples, path: Path) -> Callable[[int], Sample]:
    images = np.stack([data.read(index)["image"].numpy() for index in range(data.count)])
    np.save(path, images.astype(np.float16))
    stored = np.load(path, mmap_mode="r")

    def read(index: int) -> Sample:
        image = torch.from_numpy(np.array(stored[index])).to(torch.float32)
        spacing = torch.from_numpy(data.table["spacing"][index].copy())
        modality = torch.tensor(int(data.table["modality"][index]))
        mask = data.lesion_map("mask", index, np.float32)
        return {"image": image, "mask": mask, "modality": modality, "spacing": spacing}

    return read


def _rounding() -> Row:
    """PSNR of uniform values in [0, 1] as bytes and in half precision."""
    values = np.random.default_rng(0).random(1 << 20)
    stored = (np.rint(values * 255) / 255, values.astype(np.float16).astype(np.float64))
    psnr = [-10 * math.log10(float(np.square(kept - values).mean())) for kept in stored]
    return row("mri_loading/rounding", psnr[0], "dB", "float16", psnr[1], higher_is_better=True)


if __name__ == "__main__":
    main(measure, __doc__)
