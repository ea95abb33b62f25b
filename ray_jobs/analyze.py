"""`python -m ray_jobs.analyze DIR`: the leaderboard, what mattered, the frames as Parquet, and a
page.

Reads a finished, running or crashed sweep alike, without Ray. In a notebook:
`from ray_jobs.analyze import load_references, load_reports, load_sweep`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray_jobs.verb import lasting_output
from ray_jobs.verb import parser as verb_parser
from settings.command import command
from settings.option import positive

if TYPE_CHECKING:
    import pandas as pd

    from results.directory import History, Sweep
    from results.frame import load_reports, load_sweep
    from results.importance import Importance
    from results.references import load_references

__all__ = ["load_references", "load_reports", "load_sweep", "main"]


def __getattr__(name: str) -> Any:
    """The loaders on first use, so that `--help` does not wait for pandas."""
    if name in __all__:
        import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 if the sweep was read but its `analysis/` could not be written; 2 if it
    cannot be read.
    """
    arguments = make_parser().parse_args(argv)
    from results.store import SweepError
    from settings.schema import SettingsError

    with lasting_output():
        try:
            return _analyze(arguments)
        except (SweepError, SettingsError, OSError) as error:
            if arguments.debug:
                raise
            print(f"analyze: {' '.join(str(error).split())}", file=sys.stderr)
            return 2


def make_parser() -> argparse.ArgumentParser:
    """The verb's options."""
    parser = verb_parser("analyze")
    parser.add_argument("directory", metavar="DIR", help="the sweep's directory")
    parser.add_argument(
        "--top",
        type=positive,
        default=10,
        metavar="N",
        help="trials to list (default %(default)s)",
    )
    parser.add_argument(
        "--reference-point",
        metavar="COLUMN=X,...",
        help="the worst values that count for the hypervolume, a number for each objective; "
        "sweeps compare at the same one (default: the sweep's own)",
    )
    parser.add_argument("--no-page", action="store_true", help="do not write the HTML page")
    parser.add_argument(
        "--export-schedule",
        metavar="FILE",
        help="write the settings of a trial over its steps, whose weights it took over included, "
        f"for {command('train')} --settings FILE",
    )
    parser.add_argument("--trial", metavar="best|ID", help="of --export-schedule (default best)")
    return parser


def _analyze(arguments: argparse.Namespace) -> int:
    from results.directory import read_history, read_sweep, with_reference_point
    from results.frame import compact, load_sweep
    from results.importance import importance
    from settings.schema import SettingsError

    if arguments.trial is not None and arguments.export_schedule is None:
        raise SettingsError(
            "--trial belongs to a schedule: name its file with --export-schedule FILE."
        )
    sweep = read_sweep(arguments.directory)
    if arguments.reference_point is not None:
        sweep = with_reference_point(sweep, arguments.reference_point)
    problem = files = None
    try:
        files = compact(sweep.path)
    except OSError as error:  # a directory that is someone else's can still be read
        problem = error
    history = read_history(sweep)
    frame = load_sweep(sweep.path)
    _print_leaderboard(sweep, history, frame, arguments.top)
    if arguments.export_schedule is not None:
        _export_schedule(sweep, arguments.trial or "best", arguments.export_schedule)
    for position, objective in enumerate(sweep.objectives):
        _print_importance(
            importance(sweep, history, frame, objective.metric if position else None)
        )
    if files is not None:
        print(f"\nTrials   {files[0]}\nReports  {files[1]}")
        if not arguments.no_page:
            problem = _write_page(sweep, history)
    if problem is not None:
        print(f"analyze: nothing could be written below {sweep.path}: {problem}", file=sys.stderr)
    return 0 if problem is None else 1


def _print_leaderboard(sweep: Sweep, history: History, frame: pd.DataFrame, top: int) -> None:
    from results.front import hypervolumes, reference_text
    from results.headline import headline
    from results.leaderboard import leaderboard, leaderboard_rows, legend_of, plain_table
    from results.reports import missing_reports
    from settings.warning import warn

    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(leaderboard(frame, sweep, top))
    else:
        headers, rows = leaderboard_rows(frame, sweep, top)
        print(plain_table(headers, rows))
        if legend := legend_of(rows):
            print(legend)
    counts = ", ".join(
        f"{count} {state}" for state, count in frame["state"].value_counts().items()
    )
    volumes = hypervolumes(sweep, history, frame)
    told = headline(frame, sweep, volumes)
    print(f"\n{told}\nSweep {history.state}: {counts or 'no trial yet'}.")
    if volumes is not None and not volumes.course.empty:
        _print_hypervolume(volumes.course["hypervolume"])
        if sweep.reference_point and not volumes.course["hypervolume"].any():
            warn(
                "the hypervolume is 0 throughout: no complete trial is better in every objective "
                f"than the reference point, {reference_text(volumes.reference)}. Name a worse one "
                "with --reference-point."
            )
    lost = missing_reports(sweep.path, history)
    if lost:
        print(
            f"No reports of trial {', '.join(map(str, lost))}, although the log has their steps: "
            "reports/*.jsonl were deleted; their values are the log's, their curves are lost."
        )


def _export_schedule(sweep: Sweep, trial: str, file: str) -> None:
    from ray_jobs.which_trial import trial_number
    from results.lineage import export_schedule

    number = trial_number(sweep.path, trial)
    stages = export_schedule(sweep.path, number, file)
    lives = ", ".join(f"trial {stage.trial} to step {stage.to_step}" for stage in stages)
    print(f"Schedule of trial {number} ({lives}): {file}")


def _print_hypervolume(volumes: pd.Series) -> None:
    """At a quarter, half, three quarters and all of the complete trials."""
    marks = sorted({-(-len(volumes) * quarter // 4) for quarter in (1, 2, 3, 4)})
    told = ", ".join(f"{volumes.iloc[mark - 1]:.5g} after {mark}" for mark in marks)
    print(f"Hypervolume by complete trials: {told}.")


def _print_importance(result: Importance) -> None:
    print(f"\nImportance for {result.metric}: {result.note}")
    for key, share in result.shares.items():
        print(f"  {share:6.1%}  {key}")


def _write_page(sweep: Sweep, history: History) -> OSError | None:
    from results.frame import load_reports, load_sweep
    from results.page import write_page

    frame = load_sweep(sweep.path, all_settings=True)
    try:
        path = write_page(sweep, history, frame, load_reports(sweep.path))
    except OSError as error:
        return error
    print(f"Page     {path}")
    return None


if __name__ == "__main__":
    raise SystemExit(main())
