"""Windows of documents.

A sample, W tokens of one document:

    tokens  int64 [W], padded at the end with the separator
    mask    bool [W], the tokens that are real

The token at place t + 1 is what the one at t has to predict. Windows of a document that lie side
by side share one token, so that each token but the first separator is predicted once.
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


class TextWindows(Dataset[dict[str, Tensor]]):
    """One split; `windows[index]`, or `windows[(index, seed)]` in a training.

    An index is a window of a document, side by side with the next. With a seed the document is
    that of the index, so that long ones come as often as their length says, and the seed says
    where in it the window begins.
    """

    def __init__(
        self,
        path: Path,
        starts: Sequence[int],
        names: Sequence[str],
        window: int,
        separator: int,
        most: int = 0,
    ) -> None:
        """
        Args:
            path: .npy of the tokens.
            starts: of each document the place of the separator before it, then the last one.
            names: of the documents.
            window: W.
            most: an evenly spaced subset of at most so many windows; 0 takes all.
        """
        self.path, self.names, self.window, self.separator = path, names, window, separator
        self.starts = np.asarray(starts, dtype=np.int64)
        # of n tokens with both separators, n - 1 are predicted, W - 1 in each window
        counts = -(-np.diff(self.starts) // (window - 1))
        of = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        size = min(most, len(of)) if most else len(of)
        chosen = np.linspace(0, len(of) - 1, size).round().astype(np.int64)
        self.document, self.place = of[chosen], within[chosen]
        self._tokens: NDArray[Any] | None = None

    @property
    def tokens(self) -> NDArray[Any]:
        """A view of the file."""
        if self._tokens is None:
            self._tokens = np.load(self.path, mmap_mode="r")
        return self._tokens

    def __len__(self) -> int:
        return len(self.document)

    @property
    def units(self) -> list[str]:
        """The document of each window."""
        return [self.names[document] for document in self.document]

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path.name} has windows 0 .. {len(self) - 1}, not {index}")
        document = self.document[index]
        first, last = (int(self.starts[document + end]) for end in (0, 1))
        if seed is None:
            begin = first + int(self.place[index]) * (self.window - 1)
        else:
            free = max(0, last + 1 - first - self.window)
            begin = first + int(np.random.default_rng(seed % 2**64).integers(free + 1))
        real = self.tokens[begin : min(begin + self.window, last + 1)].astype(np.int64)
        tokens = np.full(self.window, self.separator, dtype=np.int64)
        tokens[: len(real)] = real
        mask = torch.arange(self.window) < len(real)
        return {"tokens": torch.from_numpy(tokens), "mask": mask}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokens": None}
