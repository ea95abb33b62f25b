"""`python -m ray_jobs.evaluate CHECKPOINT [key=value ...]`: measure a checkpoint on a validation
set, without ray.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.verb import OK, cache_directory, finish, parser, run_verb, tell_data
from settings.systems import current_name

_DESCRIPTION = """\
  {command} runs/prefill/checkpoints/step-00000240
  {command} runs/prefill data.source=folder data.root=/data/bistro"""


MEASURING_KEYS = ("data.*", "metric.*", "train.validation_batch_size", "train.precision")
"""What may differ from the training: the data, the measures, and how they are computed."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_evaluate, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("evaluate", _DESCRIPTION)
    made.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a step-* folder, or a training with checkpoints/"
    )
    made.add_argument(
        "overrides", metavar="key=value", nargs="*", help="of data.* and metric.* only"
    )
    made.add_argument(
        "--system",
        metavar="NAME",
        type=current_name,
        help="of the checkpoint (default: the one it names)",
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _evaluate(arguments: Namespace) -> int:
    from settings.flat import replace
    from settings.match import matches
    from settings.resolve import parse_overrides
    from settings.schema import SettingsError
    from trainables.checkpoints import checkpoint
    from trainables.reporting.measure import evaluate_checkpoint
    from trainables.system import load_system

    path = checkpoint.find(Path(arguments.checkpoint))
    meta = checkpoint.read_meta(path)
    if arguments.system not in (None, meta["system"]):
        raise checkpoint.CheckpointError(
            f"{path} is a checkpoint of system {meta['system']!r}, not of {arguments.system!r}."
        )
    system = load_system(meta["system"])
    overrides = parse_overrides(arguments.overrides)
    for key in overrides:
        if not matches(key, MEASURING_KEYS):
            raise SettingsError(
                f"{key} is part of what was trained; evaluate takes {', '.join(MEASURING_KEYS)}."
            )
    settings = replace(replace(system.Settings(), meta["settings"]), overrides)
    prepared = system.prepare(settings, cache_directory())
    loaders = system.loaders(settings, prepared)
    tell_data(loaders, sys.stderr if arguments.json else sys.stdout)
    columns = evaluate_checkpoint(system, settings, prepared, path)
    if arguments.json:
        print(json.dumps({"checkpoint": str(path), "step": meta["step"], **columns}))
        return OK
    print(f"{path} (step {meta['step']})")
    for key, value in columns.items():
        print(f"  {key:<34}{'-' if value is None else format(value, '.6g')}")
    return OK


if __name__ == "__main__":
    finish(main())
