"""What a training says of numbers that depend on how a step is cut into workers and micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from losses.terms import TermSettings
from trainables.parts import Phase
from trainables.stepping.train_settings import TrainSettings


def cut_warnings(
    phases: Sequence[Phase], modules: Mapping[str, nn.Module], train: TrainSettings, world: int
) -> Iterator[str]:
    """A warning for each cause, in words.

    Args:
        world: number of workers.
    """
    yield from _cut_sets(phases, train, world)
    yield from _dropout(modules, world)


def _cut_sets(phases: Sequence[Phase], train: TrainSettings, world: int) -> Iterator[str]:
    """Each term that is on and compares fewer samples than a step has (`Term.splits`)."""
    batch, step = train.batch_size, train.batch_size * train.accumulate * world
    if step == batch:
        return
    for phase in phases:
        for name, term in phase.composite.terms.items():
            node: TermSettings = getattr(phase.composite.settings, name)
            if term.splits and node.is_on:
                yield (
                    f"term {phase.composite.prefix}.{name} compares the {batch} samples of one "
                    f"worker's micro-batch, not the {step} of a step, which has the mean of "
                    f"{step // batch} such values (train.batch_size={batch}, train.accumulate="
                    f"{train.accumulate}, workers: {world}): {term.splits}. To compare all of "
                    f"them, train on one worker with train.batch_size={step}."
                )


def _dropout(modules: Mapping[str, nn.Module], world: int) -> Iterator[str]:
    """Dropout, which several workers draw from generators of their own."""
    parts = (part for module in modules.values() for part in module.modules())
    share = max((p.p for p in parts if isinstance(p, nn.modules.dropout._DropoutNd)), default=0.0)
    if world > 1 and share > 0.0:
        yield (
            f"dropout (of {share:g} at most) is drawn by each of the {world} workers from a "
            "generator of its own: the numbers of this training are not those of one worker, only "
            "their law is. Without dropout they are equal."
        )
