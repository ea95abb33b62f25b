"""`python -m ray_jobs.check SYSTEM [key=value ...]`: the contract of a system and of its terms,
rule by rule, without ray. SYSTEM is one of ours, or your own as module:attribute.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.verb import OK, add_settings_arguments, finish, parser, run_verb

_DESCRIPTION = """\
  PYTHONPATH=/path/to/it {command} my_module:MySystem
  {command} my_module:MySystem data.count=16

Its members and settings, data and modules, terms and metrics on a first batch, and trainings of a
few steps, under the system's own small settings. Nothing is left behind.
Exit status: 0 every rule holds, 1 and a line for each fault; 2 it cannot be looked at."""

FAULTY = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_check, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("check", _DESCRIPTION)
    add_settings_arguments(made)
    made.add_argument("--quiet", action="store_true", help="print the faults alone")
    return made


def _check(arguments: Namespace) -> int:
    from settings.flat import flatten
    from settings.resolve import resolve
    from settings.words import worded
    from trainables.contract.check import RULES, check
    from trainables.contract.examined import Examined, short_of
    from trainables.system import load_system

    system = load_system(arguments.system)
    resolved = resolve(
        system.Settings,
        arguments.system,
        preset=arguments.preset,
        file=arguments.settings,
        fixed=("small", short_of(system)),
        overrides=arguments.overrides,
        refused=system.refused,
    )

    def say(rule: str) -> None:
        if not arguments.quiet:
            print(f"  {rule}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        faults = check(Examined(system, Path(folder), flatten(resolved.settings)), say)
    for fault in faults:
        print(f"fault: {fault}")
    if not arguments.quiet:
        print(f"{system.name}: {len(faults) or 'no'} {worded(len(faults), 'fault')}")
        print(f"{len(RULES)} rules; those of terms are asked of every term")
    return FAULTY if faults else OK


if __name__ == "__main__":
    finish(main())
