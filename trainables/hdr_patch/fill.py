"""The use of a trained model: frames with holes in, filled frames out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.files import DataError
from data.hdr.files import INPUTS, FrameFiles, find_frames, read_planes, write_image
from metrics.hdr_measures import MetricSettings
from models.hdr.exposure import mu_law
from models.hdr.network import HdrPatchModel
from models.hdr.tiling import fill_frame
from settings.schema import Settings, SettingsError, setting
from trainables.api import Generates, Measures, Request
from trainables.drawing import write_png

LEFT_OUT = "left_out.txt"


@dataclass(frozen=True, kw_only=True)
class FillOptions(Settings):
    """The keys that `generate` takes of this system."""

    tile: int = setting(
        512,
        "side of the tiles in which a frame is filled, a multiple of 16; 0 takes it at once",
        unit="px",
        low=0,
        high=8192,
    )
    overlap: int = setting(
        64, "pixels that neighbouring tiles share, at most half of one", unit="px", low=1
    )
    png: bool = setting(True, "also write the warped and the filled frame as .png, by the mu-law")

    def check(self) -> None:
        if self.tile and (self.tile % 16 or self.tile < 32):
            raise SettingsError(
                "tile must be 0 or a multiple of 16 from 32 on (four halvings), not "
                f"{self.tile}. Take {max(round(self.tile / 16) * 16, 32)}."
            )
        if self.tile and 2 * self.overlap > self.tile:
            raise SettingsError(
                f"overlap must be at most half of tile={self.tile}, not {self.overlap}. Take "
                f"overlap={self.tile // 2}, or a larger tile."
            )


GENERATES = Generates(
    "a folder with warp_hole/ and hole/, or one with such folders",
    batch_size=0,
    options=FillOptions,
)


def fill_folder(settings: Any, model: HdrPatchModel, request: Request) -> Measures:
    """Writes `filled-<id>.exr` (linear radiance, fp32) for every frame that is given, and, where
    they are asked for, `warped-<id>.png` and `filled-<id>.png`, in the frame's own sub-folder.

    Returns:
        counts; `hole_share`, the mean over frames; with tiles `tile_seam_nat`
        (`models.hdr.tiling.Filled.seam`), over all values of all frames.

    Raises:
        DataError: no frame is usable; otherwise the unusable ones are in `left_out.txt`.
    """
    names = ("frames", "left_out", "unrecognised_files", "negative_values", "values_in_holes")
    counts = dict.fromkeys(names, 0.0)
    holes, seams, problems = 0.0, np.zeros(2), list[str]()
    entries, strangers = find_frames(request.given, INPUTS)
    counts["unrecognised_files"] = float(len(strangers))
    required = (*INPUTS, *(p for p in settings.model.fed if p not in model.network.lacking))
    for entry in entries:
        try:
            planes, repairs = read_planes(entry, required)
            if planes["hole"].all():
                raise DataError(
                    f"{entry.files['hole']}: expected a valid pixel (value 0) to guess from, "
                    "found holes alone."
                )
        except DataError as error:
            problems.append(str(error))
            continue
        counts["frames"] += 1
        counts["negative_values"] += repairs.negative_values
        counts["values_in_holes"] += repairs.values_in_holes
        holes += float(planes["hole"].mean())
        frame = {part: torch.from_numpy(plane)[None] for part, plane in planes.items()}
        seams += _one_frame(settings, model, entry, frame, request)
    counts["left_out"] = float(len(problems))
    if not counts["frames"]:
        raise DataError(problems[0])
    if problems:
        (request.target / LEFT_OUT).write_text("".join(f"{text}\n" for text in problems))
    return {
        **counts,
        "hole_share": (holes, counts["frames"]),
        "tile_seam_nat": (float(seams[0]), float(seams[1])),
    }


def _one_frame(
    settings: Any,
    model: HdrPatchModel,
    entry: FrameFiles,
    frame: dict[str, Tensor],
    request: Request,
) -> tuple[float, float]:
    """Fills a frame, writes it, and returns its seam."""
    options: FillOptions = request.options
    scale, warped = settings.data.scale, frame["warped"]
    device = next(model.parameters()).device
    given = {part: plane.to(device) for part, plane in {**frame, "warped": warped / scale}.items()}
    filled = fill_frame(model, model.completed(given), options.tile, options.overlap)
    radiance, changed = filled.radiance.cpu(), filled.changed.cpu()
    folder = request.target / entry.sequence
    folder.mkdir(parents=True, exist_ok=True)
    # What is not changed is the file's own, whatever the scale has rounded.
    whole = torch.where(changed, radiance * scale, warped)
    write_image(folder / f"filled-{entry.id}.exr", whole[0].permute(1, 2, 0).numpy())
    if options.png:
        shown: MetricSettings = settings.metric
        for name, image in (("warped", given["warped"].cpu()), ("filled", radiance)):
            drawn = mu_law(image, shown.mu, shown.exposure)[0]
            write_png(folder / f"{name}-{entry.id}.png", drawn)
    return filled.seam
