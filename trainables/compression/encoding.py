"""The latents of an autoencoder's data, with what is known of the images that they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.files import Float32
from data.latent_scale import constant_channels
from data.latents import LatentBatch, write_latents
from data.mri.dataset import DataSettings, Prepared, open_split, prepare
from data.mri.files import find_patients, read_depth
from data.mri.lesions import lesions_of
from models.autoencoders.interface import Autoencoder
from models.autoencoders.slicewise import Slicewise
from settings.flat import flatten, replace
from settings.mri import GROUPS, MASK
from settings.schema import SettingsError, own_leaves
from settings.warning import warn
from trainables.compression.settings import CompressionSettings

VOLUME_KEY = "data.volume_size"

_CROPPED_SHARE = 0.02  # of the slices, above which --volumes warns


def codec_of(model: Autoencoder, dims: int) -> Autoencoder | Slicewise:
    """The model, which takes volumes slice by slice where it is one of slices."""
    return Slicewise(model) if dims > model.settings.spatial_dims else model


class Moments:
    """Mean and deviation of latents [B, c, *s], over all numbers and over those of a channel.

    Sums are of differences from the first batch's means: a channel that holds one number has a
    deviation of exactly 0, which the difference of its mean square and its squared mean has not.
    """

    def __init__(self) -> None:
        self.samples, self.count = 0, 0
        self.first: np.ndarray | float = 0.0
        self.sums: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0

    def add(self, latent: Float32) -> None:
        by_channel = np.moveaxis(latent.astype(np.float64), 1, 0).reshape(latent.shape[1], -1)
        if not self.count:
            self.first = by_channel.mean(axis=1)
        away = by_channel - np.asarray(self.first)[:, None]
        self.samples += len(latent)
        self.count += away.shape[1]
        self.sums = self.sums + away.sum(axis=1)
        self.squares = self.squares + np.square(away).sum(axis=1)

    def facts(self) -> dict[str, Any]:
        away = np.asarray(self.sums) / self.count
        mean = np.asarray(self.first) + away
        variance = np.maximum(np.asarray(self.squares) / self.count - away**2, 0.0)
        shift = float(mean.mean())
        std = float(np.sqrt((variance + (mean - shift) ** 2).mean()))
        deviation = np.sqrt(variance)
        return {
            "shift": shift,
            "std": std,
            "scale_factor": 1.0 / std if std > 0.0 else None,
            "channel_mean": mean.tolist(),
            "channel_std": deviation.tolist(),
            "constant_channels": int(constant_channels(mean, deviation).sum()),
            "measured_samples": self.samples,
        }


def prepare_volumes(
    settings: CompressionSettings, cache: Path, given: Collection[str] = ()
) -> tuple[CompressionSettings, Prepared]:
    """The settings, and the data prepared, of whole volumes for a 2-D model: each slice of the
    size of the model's own images, and as many as the deepest patient has, unless
    `data.volume_size` is among the keys that were given. What it cuts off is in the warnings.

    Raises:
        SettingsError: the model is one of volumes.
    """
    if settings.model.spatial_dims != 2:
        raise SettingsError(
            "--volumes is for a 2-D autoencoder, which takes slices otherwise, and this one takes "
            "volumes anyway. Leave it out."
        )
    is_given = VOLUME_KEY in given
    depth = settings.data.volume_size[0] if is_given else _deepest(settings.data)
    side = settings.data.image_size
    settings = replace(settings, {VOLUME_KEY: (depth, side, side)})
    prepared = prepare(settings.data, cache, 3)
    lost = list(_lost(prepared, is_given))
    return settings, dataclasses.replace(prepared, warnings=[*prepared.warnings, *lost])


def _deepest(data: DataSettings) -> int:
    """The slices of the deepest patient, as far as `data.volume_size` may be set to them; of
    embedded patients, what the training had.
    """
    depths = [data.slices]
    if data.source == "folder":
        patients, _ = find_patients(Path(data.root).expanduser())
        first = GROUPS[data.group][0]  # all files of a patient lie on one grid
        everyone = [patient for split in patients.values() for patient in split]
        read = [read_depth(p.files[first]) for p in everyone if first in p.files]
        depths = [depth for depth in read if depth is not None]
    leaf = own_leaves(DataSettings)["volume_size"]
    return int(np.clip(max(depths, default=0), leaf.low, leaf.high))


def _lost(prepared: Prepared, is_given: bool) -> Iterator[str]:
    """A warning where more than a few slices lie outside of the depth."""
    counts, depth = prepared.counts, prepared.space[0]
    volumes = sum(
        count for name, count in counts.items() if name.split(".")[0] in ("samples", "left_out")
    )
    cropped = counts["cropped_slices"]
    slices = volumes * depth + cropped - counts["padded_slices"]
    if cropped > _CROPPED_SHARE * slices:
        remedy = (
            f"Leave out {VOLUME_KEY}, and D is the deepest patient's."
            if is_given
            else f"{VOLUME_KEY} allows no more: cut the scans of the deepest patients in two."
        )
        yield (
            f"--volumes with D = {depth} leaves {cropped} of {slices} slices "
            f"({cropped / slices:.1%}) without a latent. {remedy}"
        )


def unlike_its_training(
    model: Autoencoder, prepared: Prepared, data: DataSettings
) -> Iterator[str]:
    """A warning where the training images of these data decided otherwise about values below 0
    than those of the checkpoint did.
    """
    if model.signed is None or prepared.signed is None:
        return
    names = [name for name in GROUPS[data.group] if name != MASK]
    for kept, word in ((True, "kept"), (False, "set to 0")):
        unlike = [
            name
            for name in names
            if (name in model.signed) == kept and (name in prepared.signed) != kept
        ]
        if unlike:
            yield (
                f"values below 0 of {', '.join(unlike)} are {word} by the rule of this "
                "checkpoint's training, and are not here, by decision of the training images of "
                f"each. Set data.below_zero={'keep' if kept else 'clip'} to go by its rule."
            )


def encode_data(
    settings: CompressionSettings,
    model: Autoencoder,
    prepared: Prepared,
    splits: Sequence[str],
    source: Mapping[str, Any],
    output: Path | None,
) -> dict[str, Any]:
    """Encodes whole splits, measures the training latents, and writes a file of `data.latents`;
    without `output` it only measures. Returns the file's facts. A 2-D model takes volumes slice by
    slice, and their depth stays.

    Args:
        source: what the file says of the checkpoint.
    """
    if prepared.channels != model.channels:
        raise SettingsError(
            f"this {model.settings.kind} takes images of {model.channels} channels, and "
            f"data.group={settings.data.group} has {prepared.channels}. Choose a group as in its "
            "training."
        )
    for text in unlike_its_training(model, prepared, settings.data):
        warn(text)
    moments, samples = Moments(), dict.fromkeys(splits, 0)
    codec = codec_of(model, len(prepared.space))
    size = settings.train.validation_batch_size if codec is model else 1

    def batches() -> Iterator[LatentBatch]:
        for split in splits if "train" in splits else ("train", *splits):
            for batch in encoded(codec, prepared, split, size):
                if split == "train":
                    moments.add(batch.latent)
                if split in samples:
                    samples[split] += len(batch.latent)
                    yield batch

    def describe() -> dict[str, Any]:
        return {
            **_shapes(model, prepared),
            "group": settings.data.group,
            **moments.facts(),
            "checkpoint": dict(source),
            "data": flatten(settings.data),
            "patients": {split: list(prepared.patients.get(split, ())) for split in splits},
            "samples": samples,
            **{name: prepared.counts[name] for name in ("cropped_slices", "padded_slices")},
        }

    if output is not None:
        return dict(write_latents(output, batches(), describe))
    for batch in encoded(codec, prepared, "train", size):
        moments.add(batch.latent)
    return describe()


def _shapes(model: Autoencoder, prepared: Prepared) -> dict[str, Any]:
    """The shapes that go in and come out; the factor along the depth is 1 where a 2-D model takes
    a volume slice by slice.
    """
    network, space = model.settings, prepared.space
    return {
        "kind": network.kind,
        "spatial_dims": network.spatial_dims,
        "image_shape": [prepared.channels, *space],
        "latent_shape": list(codec_of(model, len(space)).latent_shape(space)),
        "factors": [*[1] * (len(space) - network.spatial_dims), *network.factors],
        "structured": _structure(model),
    }


def _structure(model: Autoencoder) -> dict[str, int] | None:
    """The numbers of leading channels that the latents were trained with; None where their
    channels have no order. Files of before do not say it.
    """
    node = model.settings.dcae.structured
    if not model.settings.draws_by_update:
        return None
    return {"min_channels": node.min_channels, "channel_step": node.channel_step}


@torch.no_grad()
def encoded(
    model: Autoencoder | Slicewise, prepared: Prepared, split: str, size: int
) -> Iterator[LatentBatch]:
    """The latents of all samples of a split, not augmented, `size` at a time."""
    samples: Any = open_split(prepared, split)
    device = next(model.parameters()).device
    table = samples.table
    for start in range(0, samples.count, size):
        rows = range(start, min(start + size, samples.count))
        batch = [samples.read(row) for row in rows]
        images = torch.stack([sample["image"] for sample in batch]).to(device)
        masks = np.stack([sample["mask"][0].numpy() > 0.5 for sample in batch])
        columns = {name: table[name][rows.start : rows.stop] for name in _TABLE}
        sizes = [
            lesions_of(mask, spacing.tolist(), prepared.least_lesion).diameters_mm
            if mask.any()
            else np.zeros(0)
            for mask, spacing in zip(masks, columns["spacing"], strict=True)
        ]
        yield LatentBatch(
            split,
            model.encode(images).float().cpu().numpy(),
            affine=np.stack([samples.affine(row) for row in rows]),
            mask=masks,
            lesions_mm=sizes,
            **columns,
        )


_TABLE = ("modality", "patient", "slice", "spacing", "inside")
