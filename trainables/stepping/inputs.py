"""What the loop adds to a batch, and the seeds that all randomness of a training comes from.

- `seed` int64 [B]: of a training sample its seed, of any other its index. A forward draws by it
  (`models.draws`), so that its numbers do not depend on how a step is cut.
- `update_seed` int64 [B], on the CPU, the same in all samples of an update, on every rank and in
  every micro-batch: for one draw of all of them (a number of layers, of channels), which the host
  can read. In training, where `Phase.draws_by_update` asks for it.
- `schedule.<key>` float32 [B]: the value of each of `Phase.schedules`; on the CPU those of
  `Phase.host_schedules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from losses.schedules import schedule_factor
from losses.terms import Tensors
from models.draws import hash63
from settings.schema import Settings, SettingsError
from trainables.parts import Loaders, Phase

SEED, UPDATE_SEED, SCHEDULE = "seed", "update_seed", "schedule."


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of torch's generators in a step (dropout); step -1 is the making of the
    modules, which is alike on every rank.
    """
    return hash63(seed, 3, step + 1, 0 if step < 0 else rank)


class Seeded(Dataset):
    """A data set that hands out its samples together with their seeds.

    Args:
        samples: of training, with keys (index, seed), or fixed, with keys that are indices.
    """

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, keys: Sequence[Any]) -> tuple[Any, list[int]]:
        """The samples as the data set fetches many, and the seed of each."""
        many = getattr(self.samples, "__getitems__", None)
        samples = many(keys) if many else [self.samples[key] for key in keys]
        return samples, [key[1] if isinstance(key, tuple) else key for key in keys]


class SeededCollate:
    """Makes a batch of what `Seeded` hands out. Samples may have their `seed` themselves."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any] | None) -> None:
        self.collate = collate or default_collate

    def __call__(self, fetched: Any) -> dict[str, Tensor]:
        samples, seeds = fetched
        try:
            batch: Mapping[str, Tensor] = self.collate(samples)
        except RuntimeError as error:
            shapes = _shapes(samples) if self.collate is default_collate else []
            if len(shapes) < 2:
                raise
            raise ValueError(
                f"samples of one batch have one shape, and these have {' and '.join(shapes)}: put "
                "training samples of one shape together by Loaders(order=grouped(shapes)), and "
                "validate by train.validation_batch_size=1, or give Loaders a `collate`."
            ) from error
        return {SEED: torch.from_numpy(np.array(seeds, dtype=np.int64)), **batch}


def _shapes(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The different shapes of samples, each once."""
    return sorted({str({k: list(np.shape(v)) for k, v in each.items()}) for each in samples})


def batch_of(loaders: Loaders, split: str, keys: Sequence[Any]) -> dict[str, Tensor]:
    """The batch of these samples of a split (`trainables.parts.SPLITS`), as its loader makes it.

    Args:
        keys: (index, seed) of training samples, the indices of others.
    """
    samples = Seeded(getattr(loaders, split))
    return SeededCollate(loaders.collate)(samples.__getitems__(keys))


@dataclass(frozen=True)
class Told:
    """What is added to every batch of an update; two that tell the same are equal.

    Attributes:
        values: of the schedules by name, for `schedule.<name>` float32 [B].
        of_update: for `update_seed` int64 [B]; None where there is none.
        on_host: the schedules whose value stays on the CPU.
    """

    values: tuple[tuple[str, float], ...]
    of_update: int | None = None
    on_host: tuple[str, ...] = ()

    def __call__(self, batch: Tensors) -> dict[str, Tensor]:
        added = dict(batch)
        if not self.values and self.of_update is None:
            return added
        size, device = len(batch[SEED]), batch[SEED].device
        for name, value in self.values:
            where = "cpu" if name in self.on_host else device
            added[SCHEDULE + name] = torch.full((size,), value, device=where)
        if self.of_update is not None:
            added[UPDATE_SEED] = torch.full((size,), self.of_update, dtype=torch.int64)
        return added


def in_training(phase: Phase, seed: int, step: int, steps: int) -> Told:
    """The values of the schedules at a step, and the seed of its draws."""
    of_update = hash63(seed, 5, step) if phase.draws_by_update else None
    values = tuple(schedule_values(phase, step, steps).items())
    return Told(values, of_update, phase.host_schedules)


def in_validation(phase: Phase) -> Told:
    """The final values of the schedules that validation knows: trials are measured alike wherever
    they are.
    """
    values = schedule_values(phase, 1, 1).items()
    heard = tuple(pair for pair in values if pair[0] not in phase.training_schedules)
    return Told(heard, on_host=phase.host_schedules)


def check_schedules(phases: Sequence[Phase], settings: Settings) -> None:
    """Refuses schedules that are not called by their settings keys, by which a space, a batch and
    a column find them.

    Raises:
        SettingsError: there is no such schedule in the settings, or it is another one.
    """
    for phase in phases:
        for key, node in phase.schedules.items():
            if _node(settings, key) != node:
                raise SettingsError(
                    f"phase {phase.name}: {key!r} in Phase.schedules is not the settings key of "
                    "that schedule. Use the dotted key of its ScheduleSettings in the settings' "
                    "tree, such as model.window."
                )
        for field in ("training_schedules", "host_schedules"):
            for key in sorted(set(getattr(phase, field)) - phase.schedules.keys()):
                raise SettingsError(
                    f"phase {phase.name}: {key!r} of Phase.{field} is not one of its "
                    "schedules. Name it in Phase.schedules, too."
                )


def _node(settings: Settings, key: str) -> object:
    node: Any = settings
    for name in key.split("."):
        node = getattr(node, name, None)
    return node


def schedule_values(phase: Phase, step: int, steps: int) -> dict[str, float]:
    """The value of each schedule of the phase at a step of `steps`."""
    return {name: schedule_factor(node, step, steps) for name, node in phase.schedules.items()}
