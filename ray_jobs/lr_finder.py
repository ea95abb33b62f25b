"""`python -m ray_jobs.lr_finder SYSTEM [key=value ...] --dir DIR`: a learning-rate range test, on
the training loop itself, without ray.
"""

from __future__ import annotations

import dataclasses
import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.training.range_test import Found, Range, range_test
from ray_jobs.verb import (
    OK,
    add_settings_arguments,
    cache_directory,
    check_directory,
    finish,
    parser,
    resolved_settings,
    run_verb,
    tell_data,
)
from settings.option import positive, positive_number

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_DESCRIPTION = """\
  {command} hdr_patch --dir runs/first
  {command} compression --preset document_dcae --high 1 --phase critic --dir runs/critic

The rate grows from --low to --high, the loss is smoothed, and the test ends where that is above
4 times its best, or not finite. Suggested is a tenth of the rate at which it ends, or of that with
the lowest loss where this is smaller; beside it stands the rate at which the loss falls most
steeply, which says little where it hardly falls. The loss is the weighted training loss of the
first phase, or of --phase: with other weights, or another balancer, other rates come out. Written
are DIR/lr_finder.json and DIR/lr_finder.png, in place of older ones; a training in DIR is not
touched."""

DATA, PICTURE = "lr_finder.json", "lr_finder.png"

WIDTH, HEIGHT = 760, 380
LEFT, TOP, RIGHT, BOTTOM = 70, 30, 740, 340
"""The frame of the picture. All lengths are in pixels."""

RAW, SMOOTHED, SUGGESTED, STEEPEST = "#b8b8b8", "#1f77b4", "#d62728", "#ff7f0e"


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_find, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("lr_finder", _DESCRIPTION)
    add_settings_arguments(made)
    add = made.add_argument
    add("--dir", required=True, metavar="DIR", help=f"where {DATA} and {PICTURE} go")
    add(
        "--low",
        type=positive_number,
        default=Range.low,
        metavar="RATE",
        help=f"the first rate (default {Range.low:g})",
    )
    add(
        "--high",
        type=positive_number,
        default=Range.high,
        metavar="RATE",
        help=f"the last rate (default {Range.high:g})",
    )
    add(
        "--steps",
        type=positive,
        default=Range.steps,
        metavar="N",
        help=f"updates from the one to the other (default {Range.steps})",
    )
    add(
        "--phase",
        default="",
        metavar="NAME",
        help="change the rate of this phase alone, and look at its loss (default: the rates of "
        "all, and the loss of the first)",
    )
    return made


def _find(arguments: Namespace) -> int:
    from settings.atomic_file import atomic_file
    from trainables.system import load_system

    directory = Path(arguments.dir).expanduser()
    check_directory(directory)
    system = load_system(arguments.system)
    settings = resolved_settings(arguments, system)
    prepared = system.prepare(settings, cache_directory())
    tell_data(system.loaders(settings, prepared))
    asked = Range(arguments.low, arguments.high, arguments.steps, arguments.phase)
    found = range_test(system, settings, prepared, asked)
    with atomic_file(directory / DATA) as scratch:
        scratch.write_text(json.dumps(_document(arguments, asked, found), indent=1) + "\n")
    with atomic_file(directory / PICTURE) as scratch:
        picture(found).save(scratch, format="PNG")
    _print(found, asked)
    print(f"{directory / DATA}\n{directory / PICTURE}")
    return OK


def _document(arguments: Namespace, asked: Range, found: Found) -> dict[str, Any]:
    """What the file holds; a loss that is not finite is null."""
    rows = [
        {key: value if math.isfinite(value) else None for key, value in row.items()}
        for row in map(dataclasses.asdict, found.rows)
    ]
    overrides = {"preset": arguments.preset, "overrides": arguments.overrides}
    range_of = {**dataclasses.asdict(asked), "phase": found.phase}
    names = ("suggestion", "steepest", "lowest", "diverged_at")
    ends = {key: getattr(found, key) for key in names}
    return {"system": arguments.system, **overrides, **range_of, **ends, "rows": rows}


def _print(found: Found, asked: Range) -> None:
    last = found.rows[-1]
    if found.diverged_at is None:
        print(f"the loss of phase {found.phase} has not diverged up to {asked.high:g}")
    else:
        print(
            f"phase {found.phase} diverged at {found.diverged_at:.3g} (step {last.step} of "
            f"{asked.steps})"
        )
    print(f"  lowest      {found.lowest:.3g}")
    if found.suggestion is None:
        print("  suggestion  -  (the loss still falls: raise --high)")
    else:
        print(f"  suggestion  {found.suggestion:.3g}  (a tenth of the smaller)")
    steepest = "-" if found.steepest is None else f"{found.steepest:.3g}"
    print(f"  steepest    {steepest}")
    print("The loss is the weighted one of the training: other weights have other rates.")


def picture(found: Found) -> Any:
    """A Pillow image: the loss over the logarithm of the rate, as it is and smoothed."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    frame = _Frame.around(found)
    frame.draw_axes(draw)
    for colour, name in ((RAW, "loss"), (SMOOTHED, "smoothed")):
        values = [(row.rate, getattr(row, name)) for row in found.rows]
        points = [frame.place(*pair) for pair in values if math.isfinite(pair[1])]
        draw.line(points, fill=colour, width=2 if name == "smoothed" else 1)
    for row, (colour, name) in enumerate(((SUGGESTED, "suggestion"), (STEEPEST, "steepest"))):
        rate = getattr(found, name)
        if rate is not None:
            x = frame.place(max(rate, frame.rates[0]), frame.losses[0])[0]
            draw.line([(x, TOP), (x, BOTTOM)], fill=colour)
            draw.text((LEFT + 8, TOP + 6 + 14 * row), f"{name} {rate:.3g}", fill=colour)
    draw.text((LEFT, 8), f"weighted training loss of phase {found.phase}", fill="black")
    return image


@dataclasses.dataclass(frozen=True)
class _Frame:
    """From the least to the greatest rate, logarithmically, and of the losses that are drawn."""

    rates: tuple[float, float]
    losses: tuple[float, float]

    @classmethod
    def around(cls, found: Found) -> _Frame:
        """Room for the smoothed loss down to its lowest, and half as much above that; what goes
        beyond is cut.
        """
        smoothed = [row.smoothed for row in found.rows if math.isfinite(row.smoothed)]
        low = min(smoothed)
        before = max(smoothed[: smoothed.index(low) + 1])
        high = min(max(smoothed), before + 0.5 * (before - low)) if before > low else max(smoothed)
        edge = 0.05 * (high - low) or 1.0
        return cls((found.rows[0].rate, found.rows[-1].rate), (low - edge, high + edge))

    def place(self, rate: float, loss: float) -> tuple[float, float]:
        """The pixel."""
        first, last = map(math.log, self.rates)
        low, high = self.losses
        across = (math.log(rate) - first) / (last - first)
        up = min(max((loss - low) / (high - low), 0.0), 1.0)
        return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)

    def draw_axes(self, draw: ImageDraw) -> None:
        """The frame, a tick at each decade of the rate, and the least and greatest loss."""
        draw.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline="black")
        first, last = (math.log10(rate) for rate in self.rates)
        for decade in range(math.ceil(first), math.floor(last) + 1):
            x, _ = self.place(10.0**decade, self.losses[0])
            draw.line([(x, BOTTOM), (x, BOTTOM + 5)], fill="black")
            draw.text((x - 12, BOTTOM + 8), f"1e{decade}", fill="black")
        for loss, y in zip(self.losses, (BOTTOM, TOP), strict=True):
            draw.text((8, y - 5), f"{loss:.4g}", fill="black")


if __name__ == "__main__":
    finish(main())
