"""Mix-up, CutMix, mosaic and copy-paste of brain-MRI samples, as the collate function of a loader.

Each training sample is mixed or not by draws from its own `seed`, with others of its batch as they
were before: a batch is a function of its samples and their seeds alone, whichever process makes
it. Cut into other micro-batches, samples find other partners. A sample keeps its seed, mixed or
not, for terms that choose by it. Samples without one (validation) are never mixed, nor are masks
(data.group=seg), which would then no longer be masks (001-M26).

Partners have the same modality, so that `modality` stays true; a sample that finds none stays as
it is. What chooses pixels (CutMix, mosaic, copy-paste) chooses them for the mask, the size classes
and the numbers of lesions as well: they describe the image that comes out, each lesion with the
class it had in its own image. Mix-up keeps those of the sample, which is the stronger of the two.
Pixels keep their place and size, so millimetres stay true.

Shapes: *S the space, (H, W) or (D, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from settings.mri import MODALITIES
from settings.schema import Settings, setting

Sample = dict[str, Tensor]

_STREAM = 0x6D6978  # keeps these draws apart from others of the same seed
_SEG = len(MODALITIES)  # `modality` of a sample whose image is the mask
_MAPS = ("mask", "region")
_MOST_LESIONS = 255  # numbers are bytes


@dataclass(frozen=True, kw_only=True)
class BatchAugmentSettings(Settings):
    """`batch_augment.*`. Each change is drawn independently, so a sample may have several."""

    enabled: bool = setting(False, "mix samples of a batch; images only")
    mosaic_prob: float = setting(
        0.2, "of a sample whose four quarters come from four", low=0.0, high=1.0
    )
    cutmix_prob: float = setting(0.2, "of a sample with a box of another", low=0.0, high=1.0)
    copy_paste_prob: float = setting(
        0.3, "of a sample with the lesions of another", low=0.0, high=1.0
    )
    mixup_prob: float = setting(0.2, "of a sample blended with another", low=0.0, high=1.0)
    beta: float = setting(
        1.0,
        "shares of CutMix and mix-up are drawn from Beta(this, this); 1 is uniform",
        low=0.01,
        high=100.0,
    )


class BatchAugment:
    """Makes a batch of a list of samples: torch's default, after the mixing."""

    def __init__(self, settings: BatchAugmentSettings) -> None:
        self.settings = settings

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        mixed = samples
        if self.settings.enabled:
            mixed = [self._mixed(samples, i) if "seed" in s else s for i, s in enumerate(samples)]
        return default_collate(list(mixed))

    def _mixed(self, samples: Sequence[Sample], index: int) -> Sample:
        """Sample `index`, mixed by its own seed; the same number of draws for every sample."""
        settings, mixed = self.settings, samples[index]
        modality = int(mixed["modality"])
        if modality == _SEG:
            return mixed
        others = [s for i, s in enumerate(samples) if i != index and s["modality"] == modality]
        rng = np.random.default_rng((_STREAM, int(mixed["seed"])))
        mosaic, cutmix, paste, mixup = rng.random(4) < (
            settings.mosaic_prob,
            settings.cutmix_prob,
            settings.copy_paste_prob,
            settings.mixup_prob,
        )
        if mosaic and others:
            mixed = add_mosaic(mixed, others, rng)
        if cutmix and others:
            mixed = add_box(mixed, _one(others, rng), settings.beta, rng)
        with_lesions = [other for other in others if other["mask"].any()] if paste else []
        if with_lesions:
            other = _one(with_lesions, rng)
            mixed = pasted(mixed, other, other["mask"] > 0)
        if mixup and others:
            other = _one(others, rng)
            mixed = blended(mixed, other, float(rng.beta(settings.beta, settings.beta)))
        return mixed


def _one(samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
    return samples[int(rng.integers(len(samples)))]


def blended(sample: Sample, other: Sample, share: float) -> Sample:
    """Mix-up (Zhang et al., arXiv 1710.09412, eq. 1): λ·sample + (1 - λ)·other, λ the greater of
    `share` and 1 - `share`, so that the maps of the sample belong to the stronger image.
    """
    stronger = max(share, 1.0 - share)
    return {**sample, "image": stronger * sample["image"] + (1.0 - stronger) * other["image"]}


def pasted(sample: Sample, other: Sample, where: Tensor) -> Sample:
    """The sample with the pixels of another at `where` [1, *S], in its image and its maps. Copied
    lesions are numbered after those of the sample.

    With the other's lesions as `where` it is copy-paste (Ghiasi et al., arXiv 2012.07177).
    """
    names = [name for name in _MAPS if name in sample]
    chosen = {name: torch.where(where, other[name], sample[name]) for name in names}
    if "lesion" in sample:
        last = sample["lesion"].to(torch.int64).max()
        number = other["lesion"].to(torch.int64)
        number = torch.where(number > 0, (number + last).clamp(max=_MOST_LESIONS), number)
        chosen["lesion"] = torch.where(where, number.to(torch.uint8), sample["lesion"])
    return {**sample, **chosen, "image": torch.where(where, other["image"], sample["image"])}


def add_box(sample: Sample, other: Sample, beta: float, rng: np.random.Generator) -> Sample:
    """CutMix (Yun et al., arXiv 1905.04899, eq. 1 and 2): a box of the image's proportions with
    the share 1 - λ of its pixels, λ from Beta(beta, beta), about a uniform middle and cut off at
    the border.
    """
    space = sample["mask"].shape[1:]
    side = (1.0 - rng.beta(beta, beta)) ** (1.0 / len(space))
    where = torch.ones(1, *space, dtype=torch.bool)
    for axis, n in enumerate(space, 1):
        middle, half = rng.uniform(0.0, n), side * n / 2.0
        place = torch.arange(n) + 0.5
        inside = (place >= middle - half) & (place < middle + half)
        where &= inside.view([-1 if i == axis else 1 for i in range(where.dim())])
    return pasted(sample, other, where)


def add_mosaic(sample: Sample, others: Sequence[Sample], rng: np.random.Generator) -> Sample:
    """Mosaic (Bochkovskiy et al., arXiv 2004.10934) of four slices or volumes that meet in a
    corner, uniform in the middle half of H and W: three quarters come from partners, different
    ones where the batch has them, one stays. Unlike there, nothing is shrunk.
    """
    H, W = sample["mask"].shape[-2:]
    low = torch.arange(H)[:, None] >= round(rng.uniform(0.25, 0.75) * H)
    right = torch.arange(W) >= round(rng.uniform(0.25, 0.75) * W)
    quarters = [(low if a else ~low) & (right if b else ~right) for a in (0, 1) for b in (0, 1)]
    rest = rng.permutation(4)[1:]
    partners = rng.choice(len(others), 3, replace=len(others) < 3)
    changed = sample
    for quarter, partner in zip(rest, partners, strict=True):
        where = quarters[quarter].expand(sample["mask"].shape)
        changed = pasted(changed, others[partner], where)
    return changed
