"""Real images and generated ones, as many of each: generated once, from seeds that no other split
has, and found again by the checkpoint that made them.

Shapes: images [C, *S]; n generated ones of a split in a file [n, C, *S].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.cache import cached_by
from data.mri import dataset
from data.mri.store import TrainSamples
from metrics.diffusion import LEVELS
from models.diffusion.spaces import Space
from models.diffusion.strategies.sampling import last
from models.draws import hash63
from settings.flat import replace
from trainables.diffusion.samples import BIN, LEVEL, Fixed, WithCounts
from trainables.diffusion.settings import DiffusionSettings
from trainables.diffusion.use import sampled
from trainables.diffusion_rejection.frozen import FrozenDiffusion, Meta, open_diffusion
from trainables.diffusion_rejection.settings import RejectionHeadSettings, SampleSettings
from trainables.external import External, external_file, write_tensors

FORMAT = 1
"""Version of the generated images; part of their name."""

SPLITS = ("train", "validation", "test")

_STREAM = 31
"""Of the seeds of generated images; those of the verb `generate` have another."""

_BATCH = 32

_KEPT = ("image", "mask", "modality", "counts")
"""Of a sample: the image, and what it may be conditioned on."""

Sample = dict[str, Tensor]


@dataclass(frozen=True)
class Prepared:
    """What a trial is given.

    Attributes:
        data: of the diffusion, all of its validation samples.
        meta: `OpenedDiffusion.meta`.
        weights: of the frozen diffusion.
        generated: split -> file.
    """

    data: dataset.Prepared
    meta: Meta
    weights: External
    generated: Mapping[str, str]


def prepare(settings: RejectionHeadSettings, cache: Path) -> Prepared:
    """Opens the diffusion and has it generate, or finds what it has generated."""
    opened = open_diffusion(settings.diffusion.checkpoint)
    base = opened.frozen.settings
    all_of_it = replace(base.data, {"validation_samples": 0})
    data = dataset.prepare(all_of_it, cache, base.model.spatial_dims)

    def make(scratch: Path) -> dict[str, int]:
        write_tensors(scratch / "diffusion.safetensors", opened.frozen.state_dict())
        counts = {}
        for split in SPLITS:
            real = _real(data, base, split)
            asked = settings.samples.train if split == "train" else settings.samples.held_out
            count = asked if split == "train" else min(asked, len(real))
            images = generated(opened.frozen, real, seeds_of(settings.samples.seed, split, count),
                               settings.samples)  # fmt: skip
            np.save(scratch / f"{split}.npy", images)
            counts[split] = count
        return counts

    samples = settings.samples
    key = (FORMAT, opened.source["fingerprint"], opened.meta["network"], Path(data.folder).name,
           samples.train, samples.held_out, samples.steps, samples.seed)  # fmt: skip
    folder, _ = cached_by(cache, "diffusion-rejection", key, make)
    weights = external_file(folder / "diffusion.safetensors")
    files = {split: str(folder / f"{split}.npy") for split in SPLITS}
    return Prepared(data, opened.meta, weights, files)


def seeds_of(seed: int, split: str, count: int) -> Tensor:
    """int64 [count]; those of two splits, or of two seeds, have none in common."""
    place = SPLITS.index(split)
    return torch.tensor([hash63(seed, _STREAM, place, index) for index in range(count)])


@torch.no_grad()
def generated(
    frozen: FrozenDiffusion, real: RealSamples, seeds: Tensor, samples: SampleSettings
) -> np.ndarray:
    """float32 [n, C, *S], not cut to [0, 1]; image i under the conditions of real image i."""
    base, modules = frozen.settings, frozen.modules_by_name
    sampling = replace(base.sampling, {"steps": samples.steps})
    space: Any = modules["space"]
    images = [torch.zeros(0, *space.decode(torch.zeros(1, *_shape(base, space))).shape[1:])]
    for first in range(0, len(seeds), _BATCH):
        its = seeds[first : first + _BATCH]
        batch = real.conditions(range(first, first + len(its)))
        state = last(sampled(base, modules, {**batch, "seed": its}, its, sampling))
        images.append(space.decode(state.x).float())
    values: np.ndarray = torch.cat(images).numpy()
    return values


def _shape(base: DiffusionSettings, space: Space) -> tuple[int, ...]:
    """Of one image in the space."""
    return (len(space.shift), *space.size_of(base.data.space(base.model.spatial_dims)))


class RealSamples:
    """The real images of a split with their conditions, by index as they are, and by index and
    seed as they are augmented, which those of the training split alone are.
    """

    def __init__(
        self, stored: Fixed, patients: Sequence[str], augmented: Dataset[Sample] | None = None
    ) -> None:
        self.stored, self.patients, self.augmented = stored, patients, augmented

    def __len__(self) -> int:
        return len(self.stored)

    def at(self, index: int, seed: int | None = None) -> Sample:
        at = index % len(self)
        is_augmented = seed is not None and self.augmented is not None
        sample = self.augmented[(at, seed)] if is_augmented else self.stored[at]  # type: ignore[index]
        return {name: sample[name] for name in _KEPT if name in sample}

    def conditions(self, indices: Sequence[int]) -> Sample:
        """Stacked, of these samples in turn."""
        rows = [self.at(index) for index in indices]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class _AsStored(Dataset[Sample]):
    """The training samples without augmentation, by index."""

    def __init__(self, samples: TrainSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.samples.read(index)
        return sample


def _real(
    data: dataset.Prepared,
    base: DiffusionSettings,
    split: str,
    settings: RejectionHeadSettings | None = None,
) -> RealSamples:
    """Args: settings: those of the augmentation; None for none."""
    sizes = base.condition.sizes

    def counted(samples: Dataset[Sample]) -> Any:
        if not sizes.enabled:
            return samples
        return WithCounts(samples, sizes.edges_mm, data.least_lesion)

    if split == "train":
        augmented = dataset.open_split(data, "train", settings.augment if settings else None)
        stored, table = _AsStored(augmented), augmented.table["patient"]
        patients = [data.patients["train"][index] for index in table]
        return RealSamples(counted(stored), patients, counted(augmented))
    fixed: Any = dataset.open_split(data, split)
    return RealSamples(counted(fixed), dataset.units_of(data, split, fixed))


class TrainPairs(Dataset[Sample]):
    """`pairs[(index, seed)]`: a generated image at an even index, a real one at an odd one."""

    def __init__(self, real: RealSamples, file: str) -> None:
        self.real, self.file = real, np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return 2 * max(len(self.real), len(self.file))

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        (index, is_real), seed = divmod(at[0], 2), at[1]
        if is_real:
            return _labelled(self.real.at(index, seed), 1.0)
        place = index % len(self.file)
        return _generated(self.real, self.file, place)


class FixedPairs(Dataset[Sample]):
    """Images of a held-out split, generated and real in turn, each at each log-SNR of `LEVELS`."""

    def __init__(self, real: RealSamples, file: str) -> None:
        self.real, self.file = real, np.load(file, mmap_mode="r")
        self.images = 2 * len(self.file)

    def __len__(self) -> int:
        return self.images * len(LEVELS)

    def unit(self, index: int) -> str:
        """The patient of a real image; a generated one goes with the real one of its number."""
        place = index // len(LEVELS) // 2
        return self.real.patients[self._spread(place)]

    def _spread(self, place: int) -> int:
        """Evenly over the real images, of which there are as many or more."""
        return place * len(self.real) // len(self.file)

    def __getitem__(self, index: int) -> Sample:
        image, level = divmod(index, len(LEVELS))
        place, is_real = divmod(image, 2)
        sample = (
            _labelled(self.real.at(self._spread(place)), 1.0)
            if is_real
            else _generated(self.real, self.file, place)
        )
        return {**sample, LEVEL: torch.tensor(level), BIN: torch.tensor(-1)}


def _generated(real: RealSamples, file: np.ndarray, place: int) -> Sample:
    return _labelled({**real.at(place), "image": torch.from_numpy(file[place].copy())}, 0.0)


def _labelled(sample: Sample, label: float) -> Sample:
    return {**sample, "label": torch.tensor(label)}


def train_pairs(
    settings: RejectionHeadSettings, prepared: Prepared, base: DiffusionSettings
) -> TrainPairs:
    real = _real(prepared.data, base, "train", settings)
    return TrainPairs(real, prepared.generated["train"])


def fixed_pairs(prepared: Prepared, base: DiffusionSettings, split: str) -> FixedPairs:
    return FixedPairs(_real(prepared.data, base, split), prepared.generated[split])
