"""The latents that a training diffuses: made once of every split by the autoencoder of a
checkpoint, or read from a file, and measured; and masks through an encoder of their own.

Rows are those of the file of latents (`data.latents`), over all splits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.array_file import ArrayWriter
from data.cache import cached_by, file_states
from data.files import DataError, Float64
from data.latent_scale import constant_channels
from data.latents import Latents, read_latents
from data.mri import dataset
from losses.diffusion_terms import LATENT
from models.autoencoders.settings import ModelSettings
from models.diffusion.latent_space import Cells
from models.diffusion.spaces import STATISTICS, ChannelMoments
from settings.flat import flatten, replace
from settings.mri import MASK, channels_of
from settings.schema import SettingsError
from trainables.diffusion.latent import autoencoder
from trainables.diffusion.latent.autoencoder import Meta, Opened
from trainables.diffusion.settings import DiffusionSettings
from trainables.external import External, external_file, fingerprint

FORMAT = 1
"""Version of what is made here; part of its name."""

MASK_LATENT = "mask_latent"
"""Of a sample, beside its `LATENT`: what the encoder of masks made of its mask."""

_FILE, _WEIGHTS, _MASKS = "latents.arrow", "autoencoder.safetensors", "masks.npy"

_NEEDED = ("spacing", "affine", "mask")

_BATCH = {2: 16, 3: 1}
"""Masks that are encoded at once, by their axes."""

Scale = Mapping[str, Sequence[Sequence[float]]]
"""Statistics -> (shift, scale)."""


@dataclass(frozen=True)
class EncodedMasks:
    """Masks as latents of their own encoder; small and picklable.

    Attributes:
        file: float32 [rows, c, *s].
        meta: what makes the encoder again, with its `cells` and its `moments`.
    """

    file: str
    weights: External
    meta: Meta


@dataclass(frozen=True)
class PreparedLatents:
    """Small and picklable.

    Attributes:
        file: of `data.latents`.
        moments: of the training split (001-M13).
        weights: of the autoencoder; None where the latents came from a file.
        masks: None where masks enter otherwise, or not.
        meta: what makes the space again: `channels` and `factors` of the latents, the `source`
            of the latents, and the `autoencoder` where it is known.
    """

    file: str
    moments: Scale
    weights: External | None
    masks: EncodedMasks | None
    meta: Meta

    @functools.cached_property
    def latents(self) -> Latents:
        return read_latents(Path(self.file))

    def rows(self, split: str) -> list[int]:
        """The rows of a split in the order of its samples."""
        return np.flatnonzero(self.latents.column("split") == split).tolist()

    def affine(self) -> Float64:
        """[4, 4] of a training sample in the middle."""
        rows, affines = self.rows("train"), self.latents.affine
        if affines is None:
            raise DataError(f"{self.file}: expected the affine of every sample, found none.")
        return affines[rows[len(rows) // 2]]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "latents"}


class WithLatents(Dataset[dict[str, Tensor]]):
    """Samples of images with the latents of the same; never augmented."""

    def __init__(
        self, samples: Dataset[dict[str, Tensor]], prepared: PreparedLatents, rows: Sequence[int]
    ) -> None:
        """Args: rows: of each sample."""
        self.samples, self.prepared, self.rows = samples, prepared, rows

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def _masks(self) -> np.ndarray | None:
        masks = self.prepared.masks
        return None if masks is None else np.load(masks.file, mmap_mode="r", allow_pickle=False)

    def __getitem__(self, at: int | tuple[int, int]) -> dict[str, Tensor]:
        row = self.rows[at[0] if isinstance(at, tuple) else at]
        # copies, for both files are read-only
        added = {LATENT: torch.from_numpy(self.prepared.latents.latent(row).copy())}
        if self._masks is not None:
            added[MASK_LATENT] = torch.from_numpy(np.array(self._masks[row]))
        return {**self.samples[at], **added}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_masks"}


def from_checkpoint(
    settings: DiffusionSettings, data: dataset.Prepared, cache: Path
) -> PreparedLatents:
    """Encodes every split of the data by the autoencoder of `space.latents`, or finds what the
    same weights made of the same data.
    """
    dims = len(data.space)
    opened = autoencoder.open_autoencoder(settings.space.latents, dims, "space.latents")
    model = opened.codec.model
    check_structure(settings, _structure(model.settings), model.settings.latent_channels)
    masks = _mask_encoder(settings, opened.codec.factors, data.space)

    def make(scratch: Path) -> None:
        opened.codec.to(autoencoder.device())
        of_data = _data_for(opened, settings, dims)
        opened.system.encode(
            of_data, opened.modules, data, dataset.SPLITS, opened.source, scratch / _FILE
        )
        opened.codec.cpu()
        autoencoder.write_weights(opened.codec, scratch / _WEIGHTS)

    key = FORMAT, Path(data.folder).name, dims, fingerprint(opened.codec.state_dict())
    folder, _ = cached_by(cache, "diffusion-latents", key, make)
    cells = Cells(model.settings.latent_channels, opened.codec.factors)
    return _prepared(
        settings, folder / _FILE, cells, cache, masks, external_file(folder / _WEIGHTS), opened
    )


def from_file(
    settings: DiffusionSettings, cache: Path
) -> tuple[PreparedLatents, dataset.Prepared]:
    """The latents of the file `space.latents`, and what it says of the data that they are of,
    which has no images.
    """
    path = Path(settings.space.latents).expanduser()
    if not path.is_file():
        raise SettingsError(
            f"space.latents={settings.space.latents} names a file of latents, and there is none. "
            "Write it by encode_latents, or name the checkpoint of the autoencoder."
        )
    latents = read_latents(path)
    latents.need(*_NEEDED)
    _check_file(settings, latents)
    facts = latents.facts
    cells = Cells(facts["latent_shape"][0], tuple(facts["factors"]))
    check_structure(settings, facts.get("structured"), cells.channels)
    space = settings.data.space(settings.model.spatial_dims)
    data = dataset.Prepared(
        folder="",
        channels=channels_of(facts["group"]),
        space=space,
        patients=facts["patients"],
        counts={f"samples.{split}": count for split, count in facts["samples"].items()},
        warnings=(),
        validation_samples=settings.data.validation_samples,
        least_lesion=dataset.least_lesion(settings.data, settings.model.spatial_dims),
        signed=None,
    )
    masks = _mask_encoder(settings, cells.factors, space)
    return _prepared(settings, path.absolute(), cells, cache, masks), data


def check_structure(
    settings: DiffusionSettings, structured: Mapping[str, int] | None, channels: int
) -> None:
    """Structured latents are diffused with the masks that they were made with, and only so.

    Args:
        structured: `min_channels` and `channel_step` of the autoencoder; None where its channels
            have no order.
        channels: c.

    Raises:
        SettingsError: they are not.
    """
    node = settings.augmented_diffusion
    here = {"min_channels": node.min_channels, "channel_step": node.channel_step}
    if structured is not None and (not node.enabled or here != dict(structured)):
        is_now = f"{here}" if node.enabled else "augmented_diffusion.enabled=false"
        asked = " ".join(f"augmented_diffusion.{name}={structured[name]}" for name in here)
        raise SettingsError(
            "the latents are structured (model.dcae.structured of their autoencoder, "
            f"{dict(structured)}), and are diffused with the same numbers of leading channels, "
            f"not with {is_now}. Set augmented_diffusion.enabled=true {asked}."
        )
    if node.enabled and node.min_channels >= channels:
        raise SettingsError(
            "augmented_diffusion.min_channels must be below the channels of the latents, not "
            f"{node.min_channels} of {channels}: nothing would ever be left out. Lower it, or set "
            "augmented_diffusion.enabled=false."
        )


def _structure(network: ModelSettings) -> dict[str, int] | None:
    """What is structured in the latents of an autoencoder with these settings."""
    node = network.dcae.structured
    if not network.draws_by_update:
        return None
    return {"min_channels": node.min_channels, "channel_step": node.channel_step}


def _data_for(opened: Opened, settings: DiffusionSettings, dims: int) -> Any:
    """The settings of the autoencoder's training with the data of this one."""
    changes = {f"data.{key}": value for key, value in flatten(settings.data).items()}
    if dims > opened.codec.model.settings.spatial_dims:  # its slices are those of the volumes
        changes["data.image_size"] = settings.data.volume_size[1]
    return replace(opened.settings, changes)


def _check_file(settings: DiffusionSettings, latents: Latents) -> None:
    facts, dims = latents.facts, settings.model.spatial_dims
    size = "image_size" if dims == 2 else "volume_size"
    pairs = {
        "model.spatial_dims": (dims, len(facts["image_shape"]) - 1),
        "data.group": (settings.data.group, facts["group"]),
        f"data.{size}": (list(settings.data.space(dims)), list(facts["image_shape"][1:])),
    }
    for key, (here, there) in pairs.items():
        if here != there:
            raise SettingsError(
                f"{latents.path} has latents of {key.partition('.')[2]} {there}, and {key} says "
                f"{here}. Set {key} to that, or write the file anew."
            )
    absent = {"train", "validation"} - set(latents.column("split"))
    if absent:
        raise DataError(
            f"{latents.path}: expected latents of the splits train and validation, found none of "
            f"{' and '.join(sorted(absent))}. Write the file with all splits."
        )


def _prepared(
    settings: DiffusionSettings,
    file: Path,
    cells: Cells,
    cache: Path,
    masks: Opened | None,
    weights: External | None = None,
    opened: Opened | None = None,
) -> PreparedLatents:
    latents = read_latents(file)
    _, moments = cached_by(
        cache,
        "diffusion-latent-moments",
        (FORMAT, file_states([file])),
        lambda scratch: _moments(_training_rows(latents)),
    )
    meta = {
        "channels": cells.channels,
        "factors": list(cells.factors),
        "source": latents.facts["checkpoint"],
        **({} if opened is None else {"autoencoder": opened.codec.meta(opened.source)}),
    }
    encoded = None if masks is None else _encode_masks(latents, masks, cache)
    return PreparedLatents(str(file), moments, weights, encoded, meta)


def _training_rows(latents: Latents) -> Iterator[Tensor]:
    chosen, start = latents.column("split") == "train", 0
    for block in latents.blocks:
        yield torch.from_numpy(block[chosen[start : start + len(block)]])
        start += len(block)


def _moments(batches: Iterator[Tensor]) -> dict[str, list[list[float]]]:
    """A channel that is the same number throughout is shifted alone, as `data.latent_scale` does:
    to divide by its deviation would make noise of rounding.
    """
    moments = ChannelMoments()
    for batch in batches:
        if len(batch):
            moments.add(batch)
    is_constant = torch.from_numpy(
        constant_channels(moments.mean.numpy(), moments.deviation.numpy())
    )
    scales = dict(zip(STATISTICS, (moments.deviation, moments.deviation_of_means), strict=True))
    return {
        name: [moments.mean.tolist(), torch.where(is_constant, 1.0, scale).tolist()]
        for name, scale in scales.items()
    }


# Masks


def _mask_encoder(
    settings: DiffusionSettings, factors: Sequence[int], space: Sequence[int]
) -> Opened | None:
    """The encoder of masks where they enter through one; its cells are those of the latents."""
    mask = settings.condition.mask
    if not (mask.enabled and mask.enters == "encoder"):
        return None
    key = "condition.mask.encoder"
    opened = autoencoder.open_autoencoder(mask.encoder, len(space), key)
    if opened.group != MASK:
        raise SettingsError(
            f"{key} is an autoencoder of masks, trained with data.group={MASK}, and that of "
            f"{mask.encoder} was trained with {opened.group}. Name one of masks, or set "
            "condition.mask.enters=bit_planes."
        )
    if tuple(opened.codec.factors) != tuple(factors):
        raise SettingsError(
            f"masks enter beside the latents cell by cell: a cell of {key} has "
            f"{' x '.join(map(str, opened.codec.factors))} pixels, and one of the latents "
            f"{' x '.join(map(str, factors))}. Take an encoder of the same factor, or set "
            "condition.mask.enters=bit_planes."
        )
    return opened


def _encode_masks(latents: Latents, opened: Opened, cache: Path) -> EncodedMasks:
    def make(scratch: Path) -> Scale:
        codec = opened.codec.to(autoencoder.device())
        space = latents.facts["image_shape"][1:]
        model = opened.codec.model.settings
        sides = (s // f for s, f in zip(space, opened.codec.factors, strict=True))
        path, shape = scratch / _MASKS, (model.latent_channels, *sides)
        with ArrayWriter(path, shape) as file:
            for part in _mask_batches(latents, _BATCH[len(space)]):
                with torch.no_grad():
                    values = codec.encode(part.to(autoencoder.device()))
                file.append(values.float().cpu().numpy())
        opened.codec.cpu()
        autoencoder.write_weights(opened.codec, scratch / _WEIGHTS)
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        train = np.flatnonzero(latents.column("split") == "train")
        return _moments(torch.from_numpy(np.array(values[row]))[None] for row in train)

    key = FORMAT, file_states([latents.path]), fingerprint(opened.codec.state_dict())
    folder, moments = cached_by(cache, "diffusion-masks", key, make)
    meta = {**opened.codec.meta(opened.source), "moments": moments["voxels"]}
    return EncodedMasks(str(folder / _MASKS), external_file(folder / _WEIGHTS), meta)


def _mask_batches(latents: Latents, size: int) -> Iterator[Tensor]:
    for start in range(0, len(latents), size):
        rows = range(start, min(start + size, len(latents)))
        masks = [latents.mask(row) for row in rows]
        yield torch.from_numpy(np.stack([m for m in masks if m is not None])).float()[:, None]
