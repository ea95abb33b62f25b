"""Behind `solvers` and `optimal_steps`: a checkpoint whose samples are made of the same noise by
one solver and another.
"""

from __future__ import annotations

import dataclasses
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.verb import add_checkpoint, check_directory, refuse_without
from settings.flat import replace
from settings.option import positive, whole
from settings.schema import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.request import Request, Solver, Solvers


@dataclass(frozen=True)
class Timed:
    """Samples [N, ...], and what they took.

    Attributes:
        evaluations: of the network, a sample.
        seconds: a sample.
    """

    samples: Tensor
    evaluations: float
    seconds: float


def add_drawing_arguments(made: ArgumentParser, count: int, count_help: str) -> None:
    """What both verbs are asked: whose samples, how many, and where to."""
    add = made.add_argument
    add_checkpoint(made)
    add("--input", metavar="PATH", help="what to generate from, if the system takes inputs")
    add("--output", required=True, metavar="DIR", help="a folder for the files")
    how_many = f"{count_help} (default {count})"
    add("--count", type=positive, default=count, metavar="N", help=how_many)
    add("--seed", type=whole, default=0, metavar="N", help="of all that is drawn (default 0)")
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="samples that go through the model together (default: the system's)",
    )
    add(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="of train.external, and of the keys that generate takes",
    )
    add("--json", action="store_true", help="print JSON, one object a line")


class Drawer:
    """Makes samples of a checkpoint, the same noise for the same seeds.

    Attributes:
        path, step: of the checkpoint.
        solvers: those of the system, under the options that were given.
    """

    def __init__(self, arguments: Namespace) -> None:
        """
        Args:
            arguments: of `add_drawing_arguments`.

        Raises:
            SettingsError: a system without solvers, or options that it does not take.
        """
        import torch

        from ray_jobs import generation
        from settings.resolve import parse_overrides
        from trainables.checkpoints import checkpoint
        from trainables.checkpoints.external import KEY as EXTERNAL_KEY
        from trainables.checkpoints.restore import open_checkpoint
        from trainables.request import Request
        from trainables.system import load_system

        given = parse_overrides(arguments.overrides)
        moved = given.pop(EXTERNAL_KEY, "")
        check_directory(Path(arguments.output).expanduser(), "--output")
        self.path = checkpoint.find(Path(arguments.checkpoint), best=not arguments.newest)
        meta = checkpoint.read_meta(self.path)
        self.step: int = meta["step"]
        system = load_system(meta["system"])
        for member in ("solvers", "draw"):
            refuse_without(system, member, f"{self.path} makes no samples by solvers")
        source = Path(arguments.input).expanduser() if arguments.input else None
        asked = generation.Asked(source, arguments.count, arguments.seed, None, 1, given)
        generation.check(system, asked)
        options = generation.options_of(system, given)
        opened: Any = open_checkpoint(self.path, moved)
        self._given = tuple(given)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._modules = {name: m.to(self._device) for name, m in opened.modules.items()}
        self._opened = opened
        self._request = Request(
            target=Path(arguments.output),
            source=source,
            options=options,
            count=arguments.count,
            batch_size=arguments.batch_size or system.generates.batch_size,
        )
        self.solvers: Solvers = system.solvers(opened.settings, self._request)

    def refuse_given(self, keys: Collection[str], why: str) -> None:
        """Refuses options that the verb sets itself."""
        for key in self._given:
            if key in keys:
                raise SettingsError(f"{key} is {why}. Leave it out.")

    def draw(self, solver: Solver, number: float, seed: int) -> Timed:
        """The samples of this seed by so many steps, or this tolerance."""
        import torch

        request: Request = dataclasses.replace(
            self._request, options=replace(self._request.options, solver.at(number)), seed=seed
        )
        opened = self._opened
        began = time.perf_counter()
        with torch.no_grad():
            drawn = opened.system.draw(opened.settings, self._modules, request)
        seconds = time.perf_counter() - began  # the samples are on the CPU: the GPU has finished
        count = len(drawn.samples)
        return Timed(drawn.samples, drawn.evaluations / count, seconds / count)

    def reference(self, seed: int) -> Timed:
        """What the samples of this seed are compared with."""
        solvers = self.solvers
        return self.draw(solvers.reference, solvers.reference_number, seed)


def distances(samples: Tensor, reference: Tensor) -> Tensor:
    """Root mean square distance of each sample to its reference, float64 [N]."""
    difference = samples.double() - reference.double()
    return difference.flatten(1).square().mean(dim=1).sqrt()


def mean_with_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, which is NaN of one value."""
    import numpy as np

    of = np.asarray(values, np.float64)
    error = of.std(ddof=1) / np.sqrt(len(of)) if len(of) > 1 else np.nan
    return float(of.mean()), float(error)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of one set of columns; numbers as they are, so that they can be read back."""
    import csv

    from settings.atomic_file import atomic_file

    with atomic_file(path) as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
