"""Scans through a trained autoencoder and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.files import DataError
from data.mri.convert import below_zero_warnings, crop_warnings, decision_counts
from data.mri.inputs import Scan, find_inputs, read_scans
from data.mri.nifti_write import write_nifti
from metrics.by_modality import psnr
from metrics.compression import dice
from models.autoencoders.interface import Autoencoder
from settings.mri import GROUPS, MASK
from settings.warning import warn
from trainables.api import Measures, Request
from trainables.compression.encoding import codec_of
from trainables.compression.settings import CompressionSettings
from trainables.drawing import write_png

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
    shown = (torch.stack(images) for images in zip(*tally.shown, strict=True))
    write_png(target / FIGURE, draw(*shown))
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
