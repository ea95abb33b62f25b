"""`python -m ray_jobs.evaluate CHECKPOINT [key=value ...]`: measure a checkpoint on a validation
set, without ray.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.verb import OK, cache_directory, finish, parser, run_verb, tell_data
from settings.systems import current_name

_DESCRIPTION = """\
  {command} runs/prefill/checkpoints/step-00000240
  {command} runs/prefill data.source=folder data.root=/data/bistro"""


MEASURING_KEYS = (
    *("data.*", "metric.*", "train.validation_batch_size", "train.precision"),
    "train.external",
)
"""What may differ from the training: the data, the measures, and how they are computed."""

WIDTH = 11
"""Of a number in six digits."""


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
    made.add_argument(
        "--test", action="store_true", help="on the test split, which no decision has looked at"
    )
    made.add_argument(
        "--no-references",
        action="store_true",
        help="leave out what needs no training, measured on the same samples",
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
    from trainables.reporting.references import measure_references
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
    split = "test" if arguments.test else "validation"
    columns = evaluate_checkpoint(system, settings, prepared, path, split)
    references = {}
    if not arguments.no_references:
        references = measure_references(system, settings, prepared, split)
    if arguments.json:
        extra = {"references": references} if references else {}
        print(json.dumps({"checkpoint": str(path), "step": meta["step"], **columns, **extra}))
        return OK
    print(f"{path} (step {meta['step']}), {split}")
    headers = ["checkpoint", *references]
    print(_line("", headers, headers))
    for key, value in columns.items():
        others = [reference.get(key) for reference in references.values()]
        print(_line(key, [_text(number) for number in (value, *others)], headers))
    if references:
        from ray_jobs.training.run import objective_of

        print(beside(columns, references, *objective_of(system, settings)))
    return OK


def beside(
    columns: Mapping[str, float | None],
    references: Mapping[str, Mapping[str, Any]],
    objective: str,
    mode: str,
) -> str:
    """Which references are ahead of the checkpoint by the system's first measure, the best first,
    among those that spend no more than it.
    """
    from metrics.paired import is_dearer

    own, sign = columns.get(objective), 1.0 if mode == "min" else -1.0
    if own is None:
        return f"the checkpoint has no value of {objective}"
    ahead: dict[str, float] = {}
    for name, measured in references.items():
        value, costs = measured.get(objective), measured["costs"]
        if value is None or sign * value >= sign * own:
            continue
        if not is_dearer([cost for cost in costs if cost != objective], measured, columns):
            ahead[name] = float(value)
    if not ahead:
        return f"no reference that costs no more is ahead of the checkpoint in {objective}"
    best_first = sorted(ahead, key=lambda name: sign * ahead[name])
    named = ", ".join(f"{name} ({ahead[name]:.6g})" for name in best_first)
    return f"ahead of the checkpoint in {objective}, at no more cost: {named}"


def _line(key: str, values: Sequence[str], headers: Sequence[str]) -> str:
    """A line of the table; a column is as wide as its header, or a number."""
    widths = [max(len(header), WIDTH) for header in headers]
    cells = (f"{value:<{width}}" for value, width in zip(values, widths, strict=True))
    return f"  {key:<34}{'  '.join(cells)}".rstrip()


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    finish(main())
