"""`python -m ray_jobs.profile compression [key=value ...] --size 64,128 --kinds vae,dcae`: what a
training step takes, for each kind of model and each size of image, without ray.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from ray_jobs.verb import (
    OK,
    SOME_FAILED,
    add_settings_arguments,
    finish,
    parser,
    refuse_without,
    resolved_settings,
    run_verb,
)
from settings.option import positive

_DESCRIPTION = """\
  {command} compression --size 64,128
  {command} compression --preset document_dcae --size 128 --kinds dcae
  {command} compression model.spatial_dims=3 train.batch_size=1 --size 32,16x64x64
  {command} diffusion train.batch_size=1 --size 32,64 --kinds unet,dit-S/4,dit-S/8,hdit-S/8

Each case has a process of its own. On a CPU the peak is what that process grew by, on a GPU the
most that tensors took; kept is what a forward leaves for its backward. Images are noise: time and
memory do not depend on what they show."""

_COLUMNS = {
    "kind": ("kind", "{}"),
    "size": ("size", "{}"),
    "batch_size": ("batch", "{}"),
    "parameters": ("params [M]", "{:.4g}"),
    "critic_parameters": ("critic [M]", "{:.4g}"),
    "latent": ("latent", "{}"),
    "tokens": ("tokens", "{}"),
    "step_seconds": ("step \\[s]", "{:.4g}"),
    "activations_mb": ("kept [MB]", "{:.4g}"),
    "peak_mb": ("peak [MB]", "{:.0f}"),
}

_WIDEST = 1000
"""Characters of a line, beyond what any table needs."""

_OPTIONAL = ("critic_parameters", "tokens", "activations_mb")
"""Columns that are shown where a case has something in them."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_profile, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("profile", _DESCRIPTION)
    add_settings_arguments(made)
    add = made.add_argument
    add(
        "--size",
        default="",
        metavar="N,N",
        help="sides of the images, or DxHxW of volumes (default: those of the settings)",
    )
    add("--kinds", default="", metavar="NAMES", help="of models (default: that of the settings)")
    add("--steps", type=positive, default=5, metavar="N", help="steps to time (default 5)")
    add("--json", action="store_true", help="print one JSON object a case")
    return made


def _profile(arguments: Namespace) -> int:
    rows = []
    for case, values in _cases(arguments):
        row = {**case, **_alone(arguments.system, values, arguments.steps)}
        rows.append(row)
        if arguments.json:
            print(json.dumps(row), flush=True)
    if not arguments.json:
        _table(rows)
    return SOME_FAILED if any("error" in row for row in rows) else OK


def _cases(arguments: Namespace) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every kind with every size, checked before the first one runs, and its flat settings."""
    from settings.flat import flatten
    from trainables.system import load_system

    system = load_system(arguments.system)
    for member in ("profile_cases", "profile_step"):
        refuse_without(system, member, "what a step of it takes is unknown")
    settings = resolved_settings(arguments, system)
    cases = system.profile_cases(settings, _named(arguments.kinds), _named(arguments.size))
    return [(case, flatten(found)) for case, found in cases]


def _named(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _measured(name: str, values: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """What a step of the system of that name takes, with these flat settings."""
    from settings.flat import replace
    from trainables.system import load_system

    system = load_system(name)
    return dict(system.profile_step(replace(system.Settings(), values), steps))


def _alone(name: str, values: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The measures of one case from a process of its own, or the `error` that ended it."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, name, values, steps).result()
        except BrokenProcessPool:
            return {"error": "the process was ended, as the system does where memory runs out"}
        except (RuntimeError, MemoryError, OSError) as error:  # as of a GPU that is too small
            return {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    device = next((row["device"] for row in rows if "device" in row), "none")
    named = {name for row in rows for name, value in row.items() if value}
    names = [name for name in _COLUMNS if name not in _OPTIONAL or name in named]
    table = Table(title=f"A training step on {device}", title_justify="left", box=None)
    for name in names:
        justify: Any = "left" if name in ("kind", "size") else "right"
        table.add_column(_COLUMNS[name][0], justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, names))
    console = Console()
    needed = table.__rich_measure__(console, console.options.update(max_width=_WIDEST)).maximum
    console.width = max(console.width, needed)  # a line that wraps is read, one that is cut is not
    console.print(table)
    for row in rows:
        if "error" in row:
            print(f"{row['kind']} {row['size']}: {row['error']}")


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """What a case has of these columns, as text; parameters in millions."""
    shown = {k: v / 1e6 if "parameters" in k else v for k, v in row.items()}
    if "latent" in shown:
        shown["latent"] = "x".join(map(str, shown["latent"]))
    if "tokens" in shown:
        shown["tokens"] = " ".join(map(str, shown["tokens"]))
    return [_COLUMNS[k][1].format(shown[k]) if k in shown else "-" for k in names]


if __name__ == "__main__":
    finish(main())
