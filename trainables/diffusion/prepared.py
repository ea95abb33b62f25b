"""What trials of diffusion share: the samples, and the moments by which they are standardised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.cache import cached_by
from data.mri import dataset
from data.mri.dataset import open_split
from models.diffusion.spaces import SPACES, STATISTICS, Space, SpaceSettings, build_space
from settings.schema import SettingsError
from trainables.diffusion.latent.latents import PreparedLatents, from_checkpoint, from_file
from trainables.diffusion.latent.modules import space_of
from trainables.diffusion.settings import DiffusionSettings

FORMAT = 1
"""Version of the moments; part of their name."""

_BATCH = 64

Moments = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
"""Kind of space -> statistics -> (shift, scale)."""


@dataclass(frozen=True)
class Prepared:
    """What a trial is given.

    Attributes:
        data: the samples.
        moments: of the training split (001-M13), in every space that its size allows.
        latents: where they are diffused; `data` has no images then if they came from a file.
        affine: [4, 4] of a training sample in the middle, from an index (d, h, w) to mm; the grid
            of what is generated.
    """

    data: dataset.Prepared
    moments: Moments
    affine: Sequence[Sequence[float]]
    latents: PreparedLatents | None = None

    def space(self, settings: SpaceSettings) -> Space:
        """The space of these settings, standardised; of latents with their autoencoder."""
        if settings.is_latent:
            latents = self.needed_latents()
            dims = len(self.data.space)
            space: Space = space_of(latents.meta, dims, latents.weights)
            moments = latents.moments
        else:
            space = build_space(settings, len(self.data.space), self.data.channels)
            moments = self.moments[settings.kind]
        deviations = torch.tensor(moments["voxels"][1])
        if settings.statistics == "none":
            shift, scale = torch.zeros_like(deviations), torch.ones_like(deviations)
        else:
            shift, scale = (torch.tensor(part) for part in moments[settings.statistics])
        space.standardise(shift, scale / settings.input_scale, deviations)
        return space

    def needed_latents(self) -> PreparedLatents:
        if self.latents is None:
            raise SettingsError(
                "space.kind=latent needs latents, and none were made when the data were prepared: "
                "set space.kind and space.latents in the fixed settings, not in a space."
            )
        return self.latents


def prepare(settings: DiffusionSettings, cache: Path) -> Prepared:
    """Converts the data, and measures it once."""
    if not settings.space.has_images:
        latents, data = from_file(settings, cache)
        return Prepared(data, {}, latents.affine().tolist(), latents)
    data = dataset.prepare(settings.data, cache, settings.model.spatial_dims)

    def make(scratch: Path) -> dict[str, Any]:
        samples = open_split(data, "train")
        return {
            "moments": _moments(data),
            "affine": samples.affine(len(samples) // 2).tolist(),
        }

    key = (FORMAT, Path(data.folder).name)
    _, index = cached_by(cache, "diffusion-moments", key, make)
    made = from_checkpoint(settings, data, cache) if settings.space.is_latent else None
    return Prepared(data, index["moments"], index["affine"], made)


def _moments(data: dataset.Prepared) -> dict[str, Any]:
    found = {}
    for kind, space_class in SPACES.items():
        space = space_class(len(data.space), data.channels)
        try:
            space.size_of(data.space)
        except ValueError:  # odd sides, which the settings refuse in this space
            continue
        by_statistics = (space.moments(_batches(data), name) for name in STATISTICS)
        found[kind] = {
            name: [shift.tolist(), scale.tolist()]
            for name, (shift, scale) in zip(STATISTICS, by_statistics, strict=True)
        }
    return found


def _batches(data: dataset.Prepared) -> Iterator[Tensor]:
    samples = open_split(data, "train")
    for first in range(0, len(samples), _BATCH):
        last = min(first + _BATCH, len(samples))
        yield torch.stack([samples.read(index)["image"] for index in range(first, last)])
