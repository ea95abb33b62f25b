"""`python -m ray_jobs.generate --checkpoint DIR --input PATH --output DIR`: apply a trained model
to inputs of one's own, without ray, without the training data.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs.verb import OK, finish, parser, run_verb
from ray_jobs.which_trial import trial_number
from settings.command import command
from settings.paths import SweepPaths

_DESCRIPTION = """\
  {command} --checkpoint runs/winner --input images/ --output fields/
  {command} --from-sweep sweeps/NAME --input images/ --output fields/

What is read and written is the system's: see the system's `generate`."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_generate, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("generate", _DESCRIPTION)
    add = made.add_argument
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="a step-* folder, or a training, of which the best checkpoint is taken",
    )
    source.add_argument("--from-sweep", metavar="DIR", help="a sweep, of which a trial is taken")
    add(
        "--trial",
        metavar="best|ID",
        help="which trial of the sweep (default best)",
    )
    add("--newest", action="store_true", help="take the newest checkpoint, not the best")
    add("--input", required=True, metavar="PATH", help="what to generate from: a file or folder")
    add("--output", required=True, metavar="DIR", help="an empty or new folder for the results")
    add("overrides", metavar="key=value", nargs="*", help="of train.external only")
    add("--json", action="store_true", help="print one JSON object")
    return made


def _generate(arguments: Namespace) -> int:
    import torch

    from settings.resolve import parse_overrides
    from settings.schema import SettingsError
    from trainables.checkpoints import checkpoint
    from trainables.checkpoints.external import KEY as EXTERNAL_KEY
    from trainables.checkpoints.restore import open_checkpoint
    from trainables.system import load_system

    overrides = parse_overrides(arguments.overrides)
    for key in overrides.keys() - {EXTERNAL_KEY}:
        raise SettingsError(f"{key} is part of what was trained; generate takes {EXTERNAL_KEY}.")
    if arguments.trial is not None and not arguments.from_sweep:
        raise SettingsError("--trial belongs to a sweep: name it with --from-sweep DIR.")
    path = checkpoint.find(_training(arguments), best=not arguments.newest)
    name = checkpoint.read_meta(path)["system"]
    _refuse_without_generate(load_system(name), path)
    source = Path(arguments.input).expanduser()
    if not source.exists():
        raise SettingsError(f"--input {source} does not exist.")
    target = _empty_folder(Path(arguments.output).expanduser())
    opened = open_checkpoint(path, str(overrides.get(EXTERNAL_KEY, "")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules = {name: module.to(device) for name, module in opened.modules.items()}
    system: Any = opened.system
    began = time.perf_counter()
    with torch.no_grad():
        found = system.generate(opened.settings, modules, source, target)
    _print(arguments, path, opened.step, target, found, time.perf_counter() - began)
    return OK


def _training(arguments: Namespace) -> Path:
    """The folder of the training, or the checkpoint itself."""
    if arguments.checkpoint:
        return Path(arguments.checkpoint)
    sweep = Path(arguments.from_sweep)
    return SweepPaths(sweep).trial(trial_number(sweep, arguments.trial or "best")).root


def _refuse_without_generate(system: Any, path: Path) -> None:
    from settings.schema import SettingsError
    from trainables.system import offers

    if not offers(system, "generate"):
        raise SettingsError(
            f"{path} is of system {system.name}, which generates nothing: it has no member "
            f"`generate`. To measure it on data, use `{command('evaluate')}`."
        )


def _empty_folder(path: Path) -> Path:
    from settings.schema import SettingsError

    if path.is_dir() and any(path.iterdir()):
        raise SettingsError(f"--output {path} holds files already. Name another folder.")
    path.mkdir(parents=True, exist_ok=True)  # a file there raises, and is named
    return path


def _print(
    arguments: Namespace,
    path: Path,
    step: int,
    target: Path,
    found: dict[str, float],
    seconds: float,
) -> None:
    if arguments.json:
        whole = {"checkpoint": str(path), "step": step, "output": str(target), **found}
        print(json.dumps({**whole, "seconds": round(seconds, 4)}))
        return
    print(f"{path} (step {step})")
    for key, value in {**found, "seconds": seconds}.items():
        print(f"  {key:<34}{value:.6g}")
    print(f"results are in {target}")


if __name__ == "__main__":
    finish(main())
