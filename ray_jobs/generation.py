"""Behind `generate`: what a system may be asked for, in this process or in several, and what they
have measured, put together.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from settings.schema import Settings, SettingsError
from trainables.request import Measures, Request
from trainables.system import System

Answer = dict[str, tuple[float, float] | float]


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; None where it says nothing."""

    source: Path | None
    count: int | None
    seed: int | None
    batch_size: int | None
    workers: int
    options: Mapping[str, str]
    prompt: str | None = None


def check(system: System, asked: Asked) -> None:
    """Refuses what the system does not take (`System.generates`).

    Raises:
        SettingsError: which option or key, why, and what to do instead.
    """
    takes, name = system.generates, system.name
    has_input = asked.source is not None or asked.prompt is not None
    if not has_input and takes.inputs and takes.needs_inputs:
        raise SettingsError(f"system {name} needs inputs: name {takes.inputs} by --input PATH.")
    if asked.source is not None and not takes.inputs:
        raise SettingsError(
            f"--input {asked.source}: system {name} takes no inputs, for it draws what it "
            "generates. Leave out --input; --count N says how many samples to draw."
        )
    if asked.source is not None and not asked.source.exists():
        raise SettingsError(f"--input {asked.source} does not exist.")
    if asked.prompt is not None and not takes.prompts:
        raise SettingsError(
            f"--prompt: system {name} goes on from no text. Leave out --prompt."
        )
    unheard = {
        "--count": asked.count if asked.count != 1 else None,
        "--seed": asked.seed,
        "--workers": asked.workers if asked.workers > 1 else None,
    }
    for option, value in unheard.items():
        if value is not None and not takes.draws:
            raise SettingsError(
                f"{option} {value}: system {name} draws nothing, there is one result for each "
                f"input, and one process that writes them. Leave out {option}."
            )
    if asked.batch_size is not None and not takes.batch_size:
        raise SettingsError(
            f"--batch-size {asked.batch_size}: system {name} takes its inputs one by one. Leave "
            "out --batch-size."
        )
    options_of(system, asked.options)


def options_of(system: System, options: Mapping[str, str]) -> Settings:
    """The tree of the system's options with these values."""
    from settings.flat import leaves, replace
    from trainables.checkpoints.external import KEY

    kind = system.generates.options
    known = leaves(kind)
    for key in options.keys() - known:
        why = "is part of what was trained" if key in leaves(system.Settings) else "is no setting"
        legal = [f"{name} ({leaf.range_text})" for name, leaf in known.items()]
        raise SettingsError(f"{key} {why}; generate takes {', '.join([KEY, *legal])}.")
    return replace(kind(), options)


def generate(
    system: System, path: Path, moved: str, asked: Asked, target: Path
) -> dict[str, float]:
    """Generates into `target` and returns counts and means.

    Args:
        path: of the checkpoint.
        moved: another `train.external` than the training's own.
    """
    world = asked.workers
    request = Request(
        target=target,
        source=asked.source,
        prompt=asked.prompt,
        options=options_of(system, asked.options),
        count=asked.count or 1,
        seed=asked.seed or 0,
        batch_size=asked.batch_size or system.generates.batch_size,
        world=world,
    )
    if world == 1:
        return merged([_answer(path, moved, request)])
    _check_gpus(world)
    return merged(_in_processes(path, moved, request))


def merged(answers: Sequence[Measures]) -> dict[str, float]:
    """The measures of all processes: counts are added up, and means are those over all; one of
    nothing is left out.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for answer in answers for name in answer):
        values = [answer[name] for answer in answers if name in answer]
        pairs = [value for value in values if isinstance(value, (tuple, list))]
        if not pairs:
            found[name] = float(sum(values))  # type: ignore[arg-type]  # numbers
        elif count := sum(pair[1] for pair in pairs):
            found[name] = sum(pair[0] for pair in pairs) / count
    return found


def _answer(path: Path, moved: str, request: Request) -> Answer:
    """What one process generates of a checkpoint, on its own GPU where there are some."""
    import torch

    from trainables.checkpoints.restore import open_checkpoint

    opened: Any = open_checkpoint(path, moved)
    device = torch.device(f"cuda:{request.rank}" if torch.cuda.is_available() else "cpu")
    modules = {name: module.to(device) for name, module in opened.modules.items()}
    with torch.no_grad():
        return dict(opened.system.generate(opened.settings, modules, request))


def _check_gpus(world: int) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < world:
        raise SettingsError(
            f"--workers {world}: each process takes a GPU of its own, and this machine has "
            f"{gpus}. Give at most --workers {gpus}."
        )


def _in_processes(path: Path, moved: str, request: Request) -> list[Answer]:
    """The answers of all ranks, each in a process of its own; all end with the first that fails,
    and with this one.

    Raises:
        RuntimeError: one has failed, or was killed; which, and why.
    """
    import torch
    from torch.multiprocessing import ProcessExitedException, start_processes

    with TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(request.world)]
        arguments = (path, moved, request, files, torch.get_num_threads())
        started = start_processes(
            _one_rank, arguments, nprocs=request.world, join=False, start_method="spawn"
        )
        try:
            while not started.join():
                pass
        except ProcessExitedException as error:
            at, why = error.error_index, str(error)
            if files[at].exists():
                why = files[at].read_text()
            raise RuntimeError(
                f"process {at} of {request.world} has failed, and the others were ended: {why}. "
                f"What they had written is in {request.target}."
            ) from error
        finally:
            for process in started.processes:
                process.kill()
                process.join()
        for rank, file in enumerate(files):
            if not file.exists():  # Ctrl-C that reached this one alone
                raise RuntimeError(f"process {rank} of {request.world} was interrupted.")
        return [json.loads(file.read_text()) for file in files]


def _one_rank(
    rank: int, path: Path, moved: str, request: Request, files: Sequence[Path], threads: int
) -> None:
    """Answers into its file, or says there why it could not, and ends with status 1."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As many as a single process has: the last digits depend on them.
    torch.set_num_threads(threads)
    try:
        answer = _answer(path, moved, dataclasses.replace(request, rank=rank))
        text = json.dumps(answer)
    except Exception as error:  # of a system: any
        files[rank].write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)
    files[rank].write_text(text)


def _end_with_parent() -> None:
    """Ends this process once its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
