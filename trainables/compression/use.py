"""The uses of a trained autoencoder: scans through it and back, and the latents of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.files import DataError, Float32
from data.latents import LatentBatch, write_latents
from data.mri.convert import below_zero_warnings, crop_warnings, decision_counts
from data.mri.dataset import Prepared, open_split, prepare
from data.mri.inputs import Scan, find_inputs, read_scans
from data.mri.nifti_write import write_nifti
from metrics.compression import dice, psnr
from models.autoencoders.interface import Autoencoder
from models.autoencoders.slicewise import Slicewise
from settings.flat import flatten, replace
from settings.mri import GROUPS, MASK
from settings.schema import SettingsError
from settings.warning import warn
from trainables.api import Measures, Request
from trainables.compression.settings import CompressionSettings

Draw = Callable[[Tensor, Tensor], Tensor]
"""(image, reconstruction) [B, C, H, W] -> a figure [3, H, W] in [0, 1]."""

FIGURE, LEFT_OUT = "figure.png", "left_out.txt"

_PICTURED = 8
"""Scans of which a slice is drawn."""


@dataclass
class Tally:
    """The outcome of the inputs; `scores` are measures of each scan, by name, `cropped` and
    `unlike` those of `data.mri.convert.Conversion`.
    """

    counts: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            (
                *("patients", "left_out", "scans", "slices", "cropped_slices"),
                *("negative_images", "clipped_images"),
            ),
            0.0,
        )
    )
    cropped: list[tuple[str, int, int]] = field(default_factory=list)
    unlike: list[tuple[Path, bool]] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    shown: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def warnings(self) -> Iterator[str]:
        """The same as a training says of its data."""
        yield from below_zero_warnings(self.counts, self.unlike)
        yield from crop_warnings(self.cropped, "Cut the files into parts of as many slices.")

    def measures(self) -> Measures:
        means = {name: (sum(values), len(values)) for name, values in self.scores.items()}
        return {**self.counts, **means}


def reconstruct(
    settings: CompressionSettings, model: Autoencoder, request: Request, draw: Draw
) -> Measures:
    """Writes `<patient>/<modality>.nii.gz` for every scan that was given, in [0, 1] and on the
    grid of the model (masks 0 and 1), and a figure; returns counts and means over scans. A 2-D
    model goes slice by slice. Values below 0 are treated as in the model's training.

    Raises:
        DataError: no patient is usable; otherwise the unusable ones are in `left_out.txt`.
    """
    tally, target, data = Tally(), request.target, settings.data
    images = [name for name in GROUPS[data.group] if name != MASK]
    tally.counts |= decision_counts(images, data.below_zero, model.signed)
    for place, files in find_inputs(request.given, data.group):
        try:
            scans = read_scans(files, data, settings.model.spatial_dims, model.signed)
        except DataError as error:
            tally.counts["left_out"] += 1
            tally.problems.append(str(error))
            continue
        tally.counts["patients"] += 1
        for scan in scans:
            tally.cropped.append((f"{place}/{scan.names[0]}", scan.cropped, scan.depth))
            tally.unlike += scan.unlike
            _one_scan(model, scan, target / place, tally)
    if not tally.counts["patients"]:
        raise DataError(tally.problems[0])
    if tally.problems:
        (target / LEFT_OUT).write_text("".join(f"{text}\n" for text in tally.problems))
    _write_figure(tally.shown, draw, target / FIGURE)
    for text in tally.warnings():
        warn(text)
    return tally.measures()


def _one_scan(model: Autoencoder, scan: Scan, folder: Path, tally: Tally) -> None:
    image = torch.from_numpy(scan.image)[:, scan.inside]
    output = round_trip(model, torch.from_numpy(scan.image))[:, scan.inside]
    masks = scan.names == (MASK,)
    for name, channel in zip(scan.names, output.numpy(), strict=True):
        volume = (channel > 0.5).astype(np.uint8) if masks else channel
        # X, Y, Z as NIfTI has them, from D, H, W.
        placed = scan.affine[:, [2, 1, 0, 3]]
        text = f"{name} through a {model.settings.kind}{'' if masks else ', in 0 .. 1'}"
        write_nifti(folder / f"{name}.nii.gz", volume.transpose(2, 1, 0), placed, text)
    tally.counts["scans"] += 1
    tally.counts["slices"] += image.shape[1]
    tally.counts["cropped_slices"] += scan.cropped
    tally.counts["negative_images"] += scan.negative
    tally.counts["clipped_images"] += scan.clipped
    for name, score in {"psnr_db": psnr, **({"dice": dice} if masks else {})}.items():
        tally.scores.setdefault(name, []).append(float(score(output[None], image[None])))
    if len(tally.shown) < _PICTURED:
        lesions = image.sum(dim=(0, 2, 3))
        at = int(lesions.argmax()) if masks else image.shape[1] // 2
        tally.shown.append((image[:, at], output[:, at]))


@torch.no_grad()
def round_trip(model: Autoencoder, volume: Tensor) -> Tensor:
    """A volume [C, D, H, W] in [0, 1] through the encoder and back, on the CPU and clipped."""
    codec = codec_of(model, 3)
    given = volume[None].to(next(model.parameters()).device)
    output = model.to_image(codec.decode(codec.encode(given)))
    return output[0].float().clamp(0.0, 1.0).cpu()


def codec_of(model: Autoencoder, dims: int) -> Autoencoder | Slicewise:
    """The model, which takes volumes slice by slice where it is one of slices."""
    return Slicewise(model) if dims > model.settings.spatial_dims else model


def _write_figure(shown: Sequence[tuple[Tensor, Tensor]], draw: Draw, path: Path) -> None:
    from PIL import Image

    image, output = (torch.stack(images) for images in zip(*shown, strict=True))
    pixels = draw(image, output).mul(255.0).round().byte().permute(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(path)


# Latents


class Moments:
    """Mean and deviation of latents [B, c, *s], over all numbers and over those of a channel."""

    def __init__(self) -> None:
        self.samples, self.count = 0, 0
        self.sums: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0

    def add(self, latent: Float32) -> None:
        by_channel = np.moveaxis(latent.astype(np.float64), 1, 0).reshape(latent.shape[1], -1)
        self.samples += len(latent)
        self.count += by_channel.shape[1]
        self.sums = self.sums + by_channel.sum(axis=1)
        self.squares = self.squares + np.square(by_channel).sum(axis=1)

    def facts(self) -> dict[str, Any]:
        mean = np.asarray(self.sums) / self.count
        second = np.asarray(self.squares) / self.count
        deviation = np.sqrt(np.maximum(second - mean**2, 0.0))
        shift = float(mean.mean())
        std = float(np.sqrt(max(second.mean() - shift**2, 0.0)))
        return {
            "shift": shift,
            "std": std,
            "scale_factor": 1.0 / std if std > 0.0 else None,
            "channel_mean": mean.tolist(),
            "channel_std": deviation.tolist(),
            "measured_samples": self.samples,
        }


def prepare_volumes(
    settings: CompressionSettings, cache: Path
) -> tuple[CompressionSettings, Prepared]:
    """The settings, and the data prepared, of whole volumes for a 2-D model: of as many slices as
    `data.volume_size` says, each slice of the size of the model's own images.

    Raises:
        SettingsError: the model is one of volumes.
    """
    if settings.model.spatial_dims != 2:
        raise SettingsError(
            "--volumes is for a 2-D autoencoder, which takes slices otherwise, and this one takes "
            "volumes anyway. Leave it out."
        )
    side = settings.data.image_size
    space = (settings.data.volume_size[0], side, side)
    settings = replace(settings, {"data.volume_size": space})
    return settings, prepare(settings.data, cache, len(space))


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
    }


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
        images = torch.stack([samples.read(row)["image"] for row in rows]).to(device)
        columns = {name: table[name][rows.start : rows.stop] for name in _TABLE}
        yield LatentBatch(split, model.encode(images).float().cpu().numpy(), **columns)


_TABLE = ("modality", "patient", "slice")
