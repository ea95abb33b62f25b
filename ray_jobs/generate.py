"""`python -m ray_jobs.generate --checkpoint DIR [--input PATH] --output DIR`: apply a trained
model to inputs of one's own, or to draws, without ray, without the training data.
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
from settings.option import positive, whole
from settings.paths import SweepPaths

_DESCRIPTION = """\
  {command} --checkpoint runs/winner --input images/ --output fields/
  {command} --from-sweep sweeps/NAME --input images/ --output fields/
  {command} --checkpoint runs/flow --count 1000 --seed 1 --output samples/ --workers 4

What is read and written, and whether a system takes inputs, draws, or has keys of its own here
(a solver, its steps), is the system's: see the system's `generate`. Every sample has a seed of its
own, made of --seed and its number: the files are equal for equal seeds and --batch-size, whatever
--workers, and equal up to rounding for another --batch-size."""


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
    given = made.add_mutually_exclusive_group()
    given.add_argument(
        "--input", metavar="PATH", help="what to generate from, if the system takes inputs"
    )
    given.add_argument(
        "--prompt", metavar="TEXT", help="a text to go on from, if the system takes one"
    )
    add("--output", required=True, metavar="DIR", help="an empty or new folder for the results")
    add(
        "--count",
        type=positive,
        metavar="N",
        help="samples to draw; with --input or --prompt, of each (default 1)",
    )
    add("--seed", type=whole, metavar="N", help="of all that is drawn (default 0)")
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="samples that go through the model together (default: the system's)",
    )
    add(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes on this machine, each with a GPU of its own where there are some "
        "(default 1)",
    )
    add(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="of train.external, and of the keys that the system has for this",
    )
    add("--json", action="store_true", help="print one JSON object")
    return made


def _generate(arguments: Namespace) -> int:
    from ray_jobs import generation
    from settings.resolve import parse_overrides
    from settings.schema import SettingsError
    from trainables.checkpoints import checkpoint
    from trainables.checkpoints.external import KEY as EXTERNAL_KEY
    from trainables.system import load_system

    options = parse_overrides(arguments.overrides)
    moved = options.pop(EXTERNAL_KEY, "")
    if arguments.trial is not None and not arguments.from_sweep:
        raise SettingsError("--trial belongs to a sweep: name it with --from-sweep DIR.")
    path = checkpoint.find(_training(arguments), best=not arguments.newest)
    meta = checkpoint.read_meta(path)
    system = load_system(meta["system"])
    _refuse_without_generate(system, path)
    asked = generation.Asked(
        source=Path(arguments.input).expanduser() if arguments.input else None,
        prompt=arguments.prompt,
        count=arguments.count,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        options=options,
    )
    generation.check(system, asked)
    target = _empty_folder(Path(arguments.output).expanduser())
    began = time.perf_counter()
    found = generation.generate(system, path, moved, asked, target)
    _print(arguments, path, meta["step"], target, found, time.perf_counter() - began)
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
