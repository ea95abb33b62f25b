"""What a system's `generate` takes, and what it is asked for; and by which solvers its samples are
made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.draws import hash63
from settings.schema import Settings, SettingsError

_STREAM = 7
"""Of the seeds of samples; those of a training have other numbers (`trainables.stepping`)."""

Measures = Mapping[str, float | tuple[float, float]]
"""Counts, which are added up over processes, and means as (sum, count), by name."""


@dataclass(frozen=True, kw_only=True)
class NoOptions(Settings):
    """Of a system whose `generate` has no settings of its own."""


@dataclass(frozen=True)
class Generates:
    """What a system's `generate` takes. The verb refuses everything else before it loads anything.

    Attributes:
        inputs: what `--input` names, in words; "" for a system that takes none.
        needs_inputs: whether there is nothing to generate without them.
        draws: whether its samples are draws, each from a seed of its own, in any number. Every
            sample (or batch) is then a file that is named by its index, or its input, for several
            processes may write into the folder. Otherwise there is one process, and one result for
            each input.
        batch_size: samples that go through the modules together, unless the user says otherwise; 0
            for a system that takes its inputs one by one.
        options: settings of its own, `key=value` of the verb: a solver, its steps, a guidance.
        prompts: what `--prompt` says in place of an input, in words; "" for a system that goes on
            from no text.
    """

    inputs: str = "a file or folder"
    needs_inputs: bool = True
    draws: bool = False
    batch_size: int = 32
    options: type[Settings] = NoOptions
    prompts: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one process is asked to generate: its share of all samples.

    Attributes:
        target: an existing folder for the results, empty but for those of the other processes.
        source: the path of the user's inputs; None where there are none.
        prompt: a text in their place; None where there is none.
        options: the tree of `Generates.options`.
        count: samples, of each input where there are inputs.
        seed: of the seeds of all samples.
        rank, world: of the processes, which know nothing of each other.
    """

    target: Path
    source: Path | None = None
    prompt: str | None = None
    options: Any = field(default_factory=NoOptions)
    count: int = 1
    seed: int = 0
    batch_size: int = 32
    rank: int = 0
    world: int = 1

    @property
    def given(self) -> Path:
        """The path of inputs that the system cannot do without."""
        if self.source is None:
            raise SettingsError("there is nothing to generate from: name it by --input PATH.")
        return self.source

    def batches(self, inputs: int = 1) -> Iterator[tuple[range, Tensor]]:
        """The samples of this process, batch by batch: their indices and, int64 [B] on the CPU,
        their seeds, from which all that is random about them is drawn (`models.draws`).

        Sample i is of input i // count. Its seed depends on (`seed`, i) alone, and the batches are
        dealt out whole, so that the numbers are the same for any number of processes.

        Args:
            inputs: how many there are; 1 without inputs.
        """
        samples, step = inputs * self.count, self.batch_size
        for first in range(self.rank * step, samples, self.world * step):
            indices = range(first, min(first + step, samples))
            seeds = [hash63(self.seed, _STREAM, index) for index in indices]
            yield indices, torch.tensor(seeds, dtype=torch.int64)


# Solvers


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A way from noise to samples, more exact with more work.

    Attributes:
        name: as it is shown.
        options: of `Generates.options`, beside what varies.
        varies: the keys that get the number of steps, or the tolerance.
        by_tolerance: whether that is a tolerance, to which it chooses its steps itself.
        draws: whether it draws noise on the way: what it makes is then another sample than that of
            a solver without, and its distance to it is no error.
    """

    name: str
    options: Mapping[str, Any]
    varies: tuple[str, ...]
    by_tolerance: bool = False
    draws: bool = False

    def at(self, number: float) -> dict[str, Any]:
        """Its options with so many steps, or with this tolerance."""
        return {**self.options, **dict.fromkeys(self.varies, number)}


@dataclass(frozen=True, kw_only=True)
class Solvers:
    """Those of a system.

    Attributes:
        reference: what the others are compared with, by `reference_number` steps.
        each: all that can be compared.
        chosen: the one that the options ask for.
    """

    reference: Solver
    reference_number: int
    each: tuple[Solver, ...]
    chosen: Solver


@dataclass(frozen=True)
class Drawn:
    """Samples that a system has made.

    Attributes:
        samples: float32 [N, ...] on the CPU, not cut to the range of the data.
        evaluations: of its network, over all samples.
    """

    samples: Tensor
    evaluations: int
