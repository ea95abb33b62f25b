"""A latent, its style, the style it is to get, and latents of that.

A sample:

    latent             float32 [C, H, W]
    style              int64, its own
    target             int64, the style to give it
    references         float32 [R, C, H, W] of the target style, none of them the latent itself:
                       with the source as reference nothing but the identity is learnt (002-M1),
                       which pairs.references_of=source shows
    pooled_references  as many of all styles, in a training that asks for them (002-M13)
    seed               int64, where one was given
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.files import Float32
from data.style.settings import DataSettings, PairSettings


class StyleSamples(Dataset[dict[str, Tensor]]):
    """One split; `samples[index]`, or `samples[(index, seed)]` in a training.

    What is drawn, the target (unless samples are pairs) and the references, is a function of the
    seed, or of the index where none is given, and of no other sample.

    Attributes:
        pairs: whether a sample is a pair of a latent and a target style, all targets of a latent
            in a row; else a latent.
        chosen: which samples there are, of all.
    """

    def __init__(
        self,
        path: Path,
        styles: Sequence[int],
        units: Sequence[str],
        names: Sequence[str],
        settings: DataSettings,
        drawn: PairSettings,
        *,
        pairs: bool = False,
        most: int = 0,
    ) -> None:
        """
        Args:
            path: .npy of all latents of the split [N, C, H, W].
            styles, units: of each of them.
            names: of the styles.
            drawn: what a training sample gets.
            most: an evenly spaced subset of at most so many samples; 0 takes all.
        """
        self.path, self.pairs, self.settings, self.drawn = path, pairs, settings, drawn
        self.styles, self.names, self._units = np.asarray(styles, np.int64), names, units
        self.members = [np.flatnonzero(self.styles == style) for style in range(len(names))]
        content = names.index(settings.content) if settings.content else None
        is_content = self.styles == content if content is not None else self.styles >= 0
        self.rows = np.flatnonzero(is_content)
        size = len(self.rows) * (len(names) - 1 if pairs else 1)
        count = min(most, size) if most else size
        self.chosen = np.linspace(0, size - 1, count).round().astype(np.int64)
        self._latents: Float32 | None = None

    @property
    def latents(self) -> Float32:
        """[N, C, H, W], a view of the file."""
        if self._latents is None:
            self._latents = np.load(self.path, mmap_mode="r")
        return self._latents

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path.name} has samples 0 .. {len(self) - 1}, not {index}")
        row, target = self._pair(index)
        of = (1, int(self.chosen[index])) if seed is None else (0, seed % 2**64)
        generator = np.random.default_rng(of)
        if target is None:
            target = self._drawn_target(row, generator)
        sample = {
            "latent": torch.from_numpy(np.array(self.latents[row])),
            "style": torch.tensor(int(self.styles[row])),
            "target": torch.tensor(target),
            "references": self._drawn(self.members[target], row, generator),
        }
        if self.drawn.pooled_references and seed is not None:
            everything = np.arange(len(self.styles))
            sample["pooled_references"] = self._drawn(everything, row, generator)
        if self.drawn.references_of == "source" and seed is not None:
            count = self.settings.references
            sample["references"] = sample["latent"].expand(count, -1, -1, -1).clone()
        return sample if seed is None else {**sample, "seed": torch.tensor(seed)}

    @property
    def targets(self) -> list[int]:
        """The target style of each sample, where samples are pairs: the strata of an order."""
        pairs = [self._pair(index)[1] for index in range(len(self))]
        found = [target for target in pairs if target is not None]
        if len(found) < len(pairs):
            raise ValueError(
                "the targets of these samples are drawn by their seeds, so no order can see them. "
                "Set pairs.target_by=pair."
            )
        return found

    @property
    def units(self) -> list[str]:
        """The content of each sample and, where samples are pairs, its target."""
        named = []
        for index in range(len(self)):
            row, target = self._pair(index)
            named.append(
                self._units[row] + ("" if target is None else f" as {self.names[target]}")
            )
        return named

    def _pair(self, index: int) -> tuple[int, int | None]:
        """The row of the latent and, where samples are pairs, the target."""
        place = int(self.chosen[index])
        if not self.pairs:
            return int(self.rows[place]), None
        row = int(self.rows[place // (len(self.names) - 1)])
        other = place % (len(self.names) - 1)
        return row, other + int(other >= self.styles[row])

    def _drawn_target(self, row: int, generator: np.random.Generator) -> int:
        if self.drawn.targets == "permuted":
            return int(self.styles[generator.integers(len(self.styles))])
        own = int(self.styles[row])
        if generator.random() < self.drawn.identity_share:
            return own
        other = int(generator.integers(len(self.names) - 1))
        return other + int(other >= own)

    def _drawn(
        self, members: NDArray[np.int64], row: int, generator: np.random.Generator
    ) -> Tensor:
        """R of those latents, not the one of that row."""
        others = members[members != row]
        rows = generator.choice(others, self.settings.references, replace=False)
        return torch.from_numpy(self.latents[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latents": None}
