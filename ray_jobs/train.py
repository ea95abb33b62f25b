"""`python -m ray_jobs.train SYSTEM [key=value ...] --dir DIR`: one training, or a chain of them,
here or on a worker group.
"""

from __future__ import annotations

import shlex
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.training import run, stages
from ray_jobs.training.begun import (
    check_begun,
    check_length,
    check_network,
    newest,
    nothing_to_resume,
)
from ray_jobs.verb import (
    ALL_FAILED,
    OK,
    SOME_FAILED,
    add_settings_arguments,
    check_directory,
    finish,
    parser,
    print_error,
    run_verb,
)
from settings.command import command
from settings.option import number_from_0, positive, positive_number
from settings.paths import SweepPaths, TrainingPaths

if TYPE_CHECKING:
    from trainables.run import Budget

_DESCRIPTION = """\
  {command} hdr_patch --show         every setting: value, range, unit, origin
  {command} hdr_patch --preset prefill --dir runs/prefill
  {command} --from-sweep sweeps/NAME train.steps=5000 --dir runs/winner
  {command} hdr_patch --dir runs/prefill --resume
  {command} compression --stages data.image_size=64,128,256 train.patience=5 \\
      train.report_every=10 --dir runs/progressive

With --stages, DIR/stage-1 is trained first, and each later stage begins with the best weights of
the one before. A stage ends at train.steps, or after train.patience validations without a better
objective. DIR/stages.json says what has happened; --resume goes on where it was."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    arguments = make_parser().parse_intermixed_args(argv)
    return run_verb(_train, arguments)


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("train", _DESCRIPTION)
    add_settings_arguments(made, system_required=False)
    add = made.add_argument
    add("--dir", metavar="DIR", help="where checkpoints, reports and TensorBoard files go")
    add("--resume", action="store_true", help="go on from the newest readable checkpoint in --dir")
    add(
        "--stages",
        metavar="KEY=V1,V2,...",
        action="append",
        help="train in stages, with these values of a setting one after another; several times "
        "for several settings",
    )
    add("--from-sweep", metavar="DIR", help="start from the settings of a sweep's trial")
    add(
        "--trial",
        default="best",
        metavar="best|ID",
        help="which trial of the sweep (default best)",
    )
    _add_group(made)
    add(
        "--time-budget",
        type=positive_number,
        metavar="SECONDS",
        help="stop, resumable, at the last report within this time",
    )
    add(
        "--no-ray",
        action="store_true",
        help="the plain loop, without ray; also runs where ray is not installed",
    )
    add("--force", action="store_true", help="train although the pre-flight finds it hopeless")
    add("--show", action="store_true", help="print every setting and exit")
    return made


def _add_group(made: ArgumentParser) -> None:
    add = made.add_argument
    add(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="workers of a Ray Train group (default 1: this process)",
    )
    add(
        "--cpus",
        type=positive_number,
        default=1.0,
        metavar="X",
        help="CPUs of a worker of a group (default 1)",
    )
    add(
        "--gpus",
        type=number_from_0,
        default=0.0,
        metavar="X",
        help="GPUs of a worker of a group (default 0)",
    )
    add(
        "--address",
        metavar="ADDRESS",
        help="of a running Ray cluster, for --workers of 2 and more",
    )


def _train(arguments: Namespace) -> int:
    began = time.time()  # imports take seconds

    from settings.schema import SettingsError
    from trainables.run import Budget

    budget = Budget.of(arguments.time_budget, began)
    if arguments.dir:
        check_directory(Path(arguments.dir))
    chain = stages.read(Path(arguments.dir or ".")) if arguments.resume else None
    if arguments.resume and arguments.stages:
        raise SettingsError("--resume goes on with the stages as they are: leave out --stages.")
    name, given = _given(arguments, chain)
    if arguments.stages:
        chain = stages.Chain(name, stages.parse(arguments.stages))
    elif chain is not None:
        chain, given = _overridden(chain, given)
    if chain is None:
        return _train_once(arguments, name, given, budget)
    return _train_chain(arguments, chain, given, budget)


def _overridden(chain: stages.Chain, given: dict[str, Any]) -> tuple[stages.Chain, dict[str, Any]]:
    """The chain and `given` of a resume: an override of what differs between the stages goes to
    every stage that waits, the others stay where they are.
    """
    texts = {text.partition("=")[0].strip(): text for text in given["overrides"]}
    own = {key for stage in chain.waiting for key in stage.settings} & texts.keys()
    values = {key: texts[key].partition("=")[2].strip() for key in own}
    rest = [text for text in given["overrides"] if text.partition("=")[0].strip() not in own]
    return chain.overridden(values), {**given, "overrides": rest}


def _train_once(
    arguments: Namespace, name: str, given: Mapping[str, Any], budget: Budget
) -> int:
    from settings.resolve import resolve
    from settings.stop_reasons import STOP_REASON
    from trainables.system import load_system

    system = load_system(name)
    resolved = resolve(system.Settings, name, refused=system.refused, **given)
    if arguments.show:
        _show(resolved)
        return OK
    directory = _directory(arguments)
    if arguments.resume:
        check_length(resolved.settings, directory)
        check_network(system, resolved.settings, directory)
    ready = run.made_ready(system, resolved, arguments.force)
    report = run.train(_place(arguments), ready, directory, arguments.resume, budget)
    run.print_report(report, system, resolved.settings, directory)
    if run.is_cut(resolved.settings, report):
        at = f"at step {report['step']}"
        return _stopped(arguments, directory, at)
    if report.get(STOP_REASON):
        print(f"\nended by itself at step {report['step']}: {report[STOP_REASON]}")
    print(f"\ncheckpoints, reports and TensorBoard files are in {directory}")
    failure = run.why_failed(system, resolved.settings, report)
    if failure:
        print_error(failure)
    return ALL_FAILED if failure else OK


def _train_chain(
    arguments: Namespace, chain: stages.Chain, given: Mapping[str, Any], budget: Budget
) -> int:
    """Trains a chain; all its stages that have not ended are checked before the first begins."""
    from settings.files import write_settings
    from settings.flat import flatten
    from trainables.checkpoints.checkpoint import at_stage
    from trainables.system import load_system

    system = load_system(chain.system)
    root = Path(arguments.dir or ".").resolve()
    given = {**given, "refused": system.refused}
    plan = [stages.resolved(system, chain, stage, root, given) for stage in chain.waiting]
    trees = [resolved.settings for resolved in plan]
    for stage, tree in zip(chain.waiting, trees, strict=True):
        chain = chain.with_stage(stages.planned(stage, flatten(tree)))
    if arguments.show:
        _show(plan[0])
        print(*stages.lines(chain, trees), sep="\n")
        return OK
    directory = _directory(arguments)
    for stage, tree in zip(chain.waiting, trees, strict=True):
        check_length(tree, at_stage(directory, stage.number))
        check_network(system, tree, at_stage(directory, stage.number))
    ready, shapes = [], []
    for line, resolved in zip(stages.lines(chain, trees), plan, strict=True):
        print(line, flush=True)
        ready.append(run.made_ready(system, resolved, arguments.force))
        if not arguments.resume:  # a chain that has begun was checked then
            built = system.build(resolved.settings, ready[-1].prepared)  # for this alone
            shapes.append(stages.shapes(built))
    stages.check_fit(chain.waiting, shapes)
    directory.mkdir(parents=True, exist_ok=True)
    # The chain last: with it the directory holds a training.
    write_settings(TrainingPaths(directory).settings, flatten(trees[0]), timeline=plan[0].timeline)
    stages.write(directory, chain)
    return _run_chain(arguments, chain, ready, directory, budget)


def _run_chain(
    arguments: Namespace,
    chain: stages.Chain,
    ready: Sequence[Any],
    directory: Path,
    budget: Budget,
) -> int:
    from trainables.checkpoints.checkpoint import at_stage

    report: Any = {}
    failure = ""
    for stage, one in zip(chain.waiting, ready, strict=True):
        print(f"\nstage {stage.number} of {len(chain.stages)}: {stage.line}", flush=True)
        folder = at_stage(directory, stage.number)
        report = run.train(_place(arguments), one, folder, resume=True, budget=budget)
        settings = one.resolved.settings
        if run.is_cut(settings, report):
            at = f"in stage {stage.number} at step {report['step']}"
            return _stopped(arguments, directory, at)
        column = run.objective_of(one.system, settings)[0]
        failure = run.why_failed(one.system, settings, report)
        stage = stage.ended(report, stages.best(folder, column), failure)
        chain = chain.with_stage(stage)
        stages.write(directory, chain)
        print(f"stage {stage.number} ended at step {stage.step}{stages.why(stage)}", flush=True)
        if failure:
            print_error(failure)
        if not stage.finished and stage.number < len(chain.stages):
            print("The later stages have not begun.")
            return SOME_FAILED
        if budget.is_over and stage.number < len(chain.stages):
            at = f"before stage {stage.number + 1}"
            return _stopped(arguments, directory, at)
    run.print_report(report, one.system, settings, folder)
    print(f"\neach stage is a training of its own in {directory}; {stages.FILE} has their ends")
    return SOME_FAILED if failure else OK


def _stopped(arguments: Namespace, directory: Path, at: str) -> int:
    place, force = _place(arguments), arguments.force
    return run.stopped(place, arguments.time_budget, directory, at, force)


def _show(resolved: Any) -> None:
    from ray_jobs.training import timeline
    from settings.show import print_settings

    print_settings(resolved, type(resolved.settings))
    timeline.print_timeline(resolved.timeline)


def _place(arguments: Namespace) -> run.Place:
    return run.Place(
        workers=arguments.workers,
        cpus=arguments.cpus,
        gpus=arguments.gpus,
        address=arguments.address,
        ray=not arguments.no_ray,
    )


def _directory(arguments: Namespace) -> Path:
    """Where the results go, once nothing speaks against it."""
    from settings.schema import SettingsError

    if not arguments.dir:
        raise SettingsError("name a directory for the results: --dir DIR.")
    if arguments.workers > 1 and arguments.no_ray:
        raise SettingsError("--workers needs ray: leave out --no-ray, or start one process.")
    directory = Path(arguments.dir).resolve()
    check_begun(directory, arguments.resume)
    return directory


def _given(arguments: Namespace, chain: stages.Chain | None) -> tuple[str, dict[str, Any]]:
    """The system's name, and what `resolve` is told of its settings; with --from-sweep those of
    its trial are the base.

    Args:
        chain: of the training that is resumed, where it has stages.
    """
    from settings.schema import SettingsError

    overrides = list(arguments.overrides)
    if arguments.system and "=" in arguments.system:
        overrides.insert(0, arguments.system)
        arguments.system = None
    file, name = arguments.settings, arguments.system
    if arguments.from_sweep:
        if file or arguments.preset:
            raise SettingsError(
                "--from-sweep brings its own settings: leave out --settings and --preset."
            )
        file, name = _trial_settings(arguments)
    elif arguments.resume:
        if file or arguments.preset:
            raise SettingsError(
                "--resume goes on with the training's own settings: leave out --settings and "
                "--preset."
            )
        directory = Path(arguments.dir or ".")
        stored = TrainingPaths(directory).settings
        if not stored.exists():
            raise nothing_to_resume(directory)
        file, name = str(stored), _resumed_system(directory, name, chain)
    if not name:
        example = f"{command('train')} hdr_patch --dir runs/first"
        raise SettingsError(f"name a system, as in: {example}.")
    given = {"preset": arguments.preset, "file": file, "overrides": overrides}
    return name, {**given, "with_timeline": True, "stored": file != arguments.settings}


def _resumed_system(directory: Path, named: str | None, chain: stages.Chain | None) -> str | None:
    """The system that the training's stages or its newest readable checkpoint name; `named` where
    there is none.
    """
    from settings.schema import SettingsError

    own = chain.system if chain else newest(directory)[1].get("system")
    if own and named not in (None, own):
        raise SettingsError(f"{directory} is a training of {own}, not of {named}.")
    return own or named


def _trial_settings(arguments: Namespace) -> tuple[str, str]:
    from ray_jobs.which_trial import trial_number
    from results.directory import read_sweep
    from results.lineage import lineage
    from settings.schema import SettingsError

    sweep = read_sweep(arguments.from_sweep)
    if arguments.system not in (None, sweep.system):
        raise SettingsError(
            f"{sweep.path} is a sweep of {sweep.system}, not of {arguments.system}."
        )
    number = trial_number(sweep.path, arguments.trial)
    path = SweepPaths(sweep.path).trial(number).settings
    if not path.exists():
        raise SettingsError(f"trial {number} has not started: {path} does not exist.")
    print(f"settings of trial {number} of {sweep.path}")
    if len(lineage(sweep.path, number)) > 1:
        print(
            "They are its last ones: it changed them on the way. To train its schedule:\n"
            f"  {command('analyze')} {shlex.quote(str(sweep.path))} --trial {number} "
            "--export-schedule FILE\n"
            "and then --settings FILE"
        )
    return str(path), sweep.system


if __name__ == "__main__":
    finish(main())
