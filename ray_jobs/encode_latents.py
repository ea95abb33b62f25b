"""`python -m ray_jobs.encode_latents --checkpoint DIR --output FILE.arrow`: the latents of an
autoencoder's data, with their scale and their source, without ray.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.verb import (
    OK,
    add_checkpoint,
    cache_directory,
    finish,
    parser,
    refuse_without,
    run_verb,
    tell_data,
)

_DESCRIPTION = """\
  {command} --checkpoint runs/vae --output latents.arrow
  {command} --checkpoint runs/vae --measure-only
  {command} --checkpoint runs/vae --output mine.arrow \\
      data.source=folder data.root=mine
  {command} --checkpoint runs/vae --output whole.arrow --volumes

Samples are encoded as they are, not augmented. Shift and scale are always those of the training
split: (latent - shift) x scale_factor has mean 0 and variance 1 there. `data.latents.read_latents`
opens the file."""

_SHOWN = (
    *("kind", "spatial_dims", "group", "image_shape", "latent_shape", "factors"),
    *("measured_samples", "shift", "std", "scale_factor", "channel_mean", "channel_std"),
    "constant_channels",
)
"""Facts, those that a system has, that are printed for people."""

_MOST_NUMBERS = 8  # of a list that is printed for people


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_encode, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("encode_latents", _DESCRIPTION)
    add = made.add_argument
    add_checkpoint(made)
    add("--output", metavar="FILE", help="the file to write, *.arrow")
    add("--measure-only", action="store_true", help="write nothing")
    add(
        "--split",
        default="train,validation,test",
        metavar="NAMES",
        help="which to write (default train,validation,test)",
    )
    add(
        "--volumes",
        action="store_true",
        help="of a 2-D autoencoder: whole patients slice by slice, latents [c, D, h, w]; D is the "
        "deepest patient's number of slices, or the first number of data.volume_size if that is "
        "given here",
    )
    add(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="of data.* (other data) and train.external",
    )
    add("--json", action="store_true", help="print one JSON object")
    return made


def _encode(arguments: Namespace) -> int:
    import torch

    from settings.flat import replace
    from trainables.checkpoints import checkpoint
    from trainables.checkpoints.external import KEY as EXTERNAL_KEY
    from trainables.checkpoints.restore import open_checkpoint

    output, splits = _output(arguments), _splits(arguments.split)
    overrides = _overrides(arguments.overrides)
    path = checkpoint.find(Path(arguments.checkpoint), best=not arguments.newest)
    opened = open_checkpoint(path, str(overrides.get(EXTERNAL_KEY, "")))
    system = opened.system
    refuse_without(system, "encode", f"{path} makes no latents of data")
    settings = replace(opened.settings, overrides)
    if arguments.volumes:
        settings, prepared = system.prepare_volumes(settings, cache_directory(), overrides)
    else:
        prepared = system.prepare(settings, cache_directory())
    loaders = system.loaders(settings, prepared)
    tell_data(loaders, sys.stderr if arguments.json else sys.stdout)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules = {name: module.to(device) for name, module in opened.modules.items()}
    source = checkpoint.source(path)
    with torch.no_grad():
        facts = system.encode(settings, modules, prepared, splits, source, output)
    _print(arguments, {**facts, "checkpoint": source}, output)
    return OK


def _output(arguments: Namespace) -> Path | None:
    from data.latents import SUFFIX
    from settings.schema import SettingsError

    if arguments.measure_only == bool(arguments.output):
        raise SettingsError("give either --output FILE, or --measure-only.")
    if arguments.measure_only:
        return None
    path = Path(arguments.output).expanduser()
    if path.suffix != SUFFIX:
        raise SettingsError(f"--output takes the name of a {SUFFIX} file, not {path.name!r}.")
    return path


def _splits(text: str) -> list[str]:
    from settings.schema import SettingsError
    from trainables.parts import SPLITS

    named = [name.strip() for name in text.split(",") if name.strip()]
    if not named or len(set(named)) < len(named) or not set(named) <= set(SPLITS):
        raise SettingsError(f"--split takes some of {','.join(SPLITS)}, each once, not {text!r}.")
    return named


def _overrides(given: Sequence[str]) -> Mapping[str, Any]:
    from settings.resolve import parse_overrides
    from settings.schema import SettingsError
    from trainables.checkpoints.external import KEY as EXTERNAL_KEY

    overrides = parse_overrides(given)
    for key in overrides:
        if not (key.startswith("data.") or key == EXTERNAL_KEY):
            raise SettingsError(
                f"{key} is part of what was trained; only data.* and {EXTERNAL_KEY} may be "
                "changed."
            )
    return overrides


def _print(arguments: Namespace, facts: Mapping[str, Any], output: Path | None) -> None:
    if arguments.json:
        print(json.dumps({**facts, "output": None if output is None else str(output)}))
        return
    checkpoint = facts["checkpoint"]
    print(f"{checkpoint['path']} (step {checkpoint['step']}, {checkpoint['fingerprint']})")
    for key in (key for key in _SHOWN if key in facts):
        print(f"  {key:<18}{_text(facts[key])}")
    if output is not None:
        written = ", ".join(f"{split} {count}" for split, count in facts["samples"].items())
        print(f"latents are in {output}: {written}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        more = f" ... ({len(value)})" if len(value) > _MOST_NUMBERS else ""
        return " ".join(map(_text, value[:_MOST_NUMBERS])) + more
    return format(value, ".6g") if isinstance(value, float) else str(value)


if __name__ == "__main__":
    finish(main())
