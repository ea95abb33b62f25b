"""Conditions that are no images: the mode (which modality), and how many lesions of each size.
Each has a learned value of its own for "not given", which is what guidance compares with.

Shapes: B samples; K bins of sizes; E the width of a network's embedding (`embedding_width`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.draws import draw_uniform
from settings.mri import MODALITIES
from settings.schema import Settings, SettingsError, setting

DEVIATION = 0.02
"""Of the embeddings of modes at the start."""

NULL_SHARE = -1.0
"""What a map of counts begins with where none is given: counts lie in [0, 1] there."""


@dataclass(frozen=True, kw_only=True)
class ModeSettings(Settings):
    """The modality as a condition."""

    dropout: float = setting(
        0.2, "share of the training samples whose mode is not given", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class SizeBinSettings(Settings):
    """Counts of lesions by size as a condition."""

    edges_mm: tuple[float, ...] = setting(
        (0.0, 3.0, 6.0, 10.0, 15.0, 20.0, 30.0),
        "lower edges of the bins, ascending; the last has no upper one",
        unit="mm",
        low=0.0,
        high=1000.0,
    )
    largest: int = setting(10, "larger counts are taken for this one", low=1, high=1000)
    enters: str = setting(
        "film",
        "as scale and shift of the time embedding, added to it, or as maps beside the image, one "
        "for each bin",
        choices=("film", "add", "maps"),
    )
    entry_width: int = setting(
        32, "film and add: numbers in the embedding of one count", low=1, high=1024
    )
    dropout: float = setting(
        0.15, "share of the training samples whose counts are not given", low=0.0, high=1.0
    )
    null: str = setting(
        "token",
        "what stands for counts that are not given: a learned token, or zeros, the document's "
        "form, which is also what an image without lesions has (001-M10)",
        choices=("token", "zeros"),
    )

    def check(self) -> None:
        if not self.edges_mm or any(low >= high for low, high in pairwise(self.edges_mm)):
            raise SettingsError(
                f"edges_mm needs one edge or more, each above the one before, not {self.edges_mm}."
            )

    @property
    def bins(self) -> int:
        """K."""
        return len(self.edges_mm)


class Condition(nn.Module):
    """What conditions share: in training a share of the samples, by their seeds, is not given."""

    def __init__(self, name: str, dropout: float) -> None:
        super().__init__()
        self.name, self.dropout = name, dropout

    def nulls(self, count: int, seed: Tensor | None, is_null: Tensor | None) -> Tensor | None:
        """Bool [B] of the samples whose condition is not given; None where all are.

        Args:
            count: B.
            seed: int64 [B], the samples' own; read in training alone.
            is_null: bool [B], which are not given whatever is drawn.
        """
        if not self.training or self.dropout == 0.0:
            return is_null
        if seed is None or len(seed) != count:
            raise ValueError(
                f"the dropout of {self.name} draws from the seeds of its {count} samples in "
                "training: give them, or call eval() first."
            )
        drawn = draw_uniform(seed, f"condition.{self.name}") < self.dropout
        return drawn if is_null is None else drawn | is_null


class ModeEmbedding(Condition):
    """Ids of modes [B], by their place in `MODALITIES`, -> embedding [B, E]; the last row of the
    table is the null token.
    """

    def __init__(self, settings: ModeSettings, width: int) -> None:
        super().__init__("mode", settings.dropout)
        self.modes = len(MODALITIES)
        self.table = nn.Embedding(self.modes + 1, width)
        nn.init.normal_(self.table.weight, std=DEVIATION)

    def forward(
        self, ids: Tensor, seed: Tensor | None = None, is_null: Tensor | None = None
    ) -> Tensor:
        """ids: int64 [B], 0 ... 3; seed and is_null as in `nulls`."""
        nulls = self.nulls(len(ids), seed, is_null)
        return self.table(ids if nulls is None else torch.where(nulls, self.modes, ids))


class SizeBinEmbedding(Condition):
    """Counts [B, K] -> (scale, shift) [B, 2, E] of the time embedding, or [B, E] to be added: a
    table of vectors for each bin, side by side through two linear layers, of which the last begins
    with zeros.

    "Not given" is a token of its own in the place of all vectors: counts of zero say that there is
    no lesion, which is something else (001-M10). With `null=zeros` it is just that.
    """

    def __init__(self, settings: SizeBinSettings, width: int) -> None:
        super().__init__("size_bins", settings.dropout)
        self.largest, self.is_film = settings.largest, settings.enters == "film"
        bins, entry = settings.bins, settings.entry_width
        self.tables = nn.ModuleList(nn.Embedding(self.largest + 1, entry) for _ in range(bins))
        by_token = settings.null == "token"
        self.null = nn.Parameter(torch.randn(bins * entry)) if by_token else None
        last = nn.Linear(width, 2 * width if self.is_film else width)
        self.layers = nn.Sequential(nn.Linear(bins * entry, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self, counts: Tensor, seed: Tensor | None = None, is_null: Tensor | None = None
    ) -> Tensor:
        """counts: int64 [B, K]; seed and is_null as in `nulls`."""
        nulls = self.nulls(len(counts), seed, is_null)
        counts = _checked(counts, len(self.tables)).clamp(max=self.largest)
        if nulls is not None and self.null is None:
            counts = torch.where(nulls[:, None], 0, counts)
        columns = counts.unbind(dim=1)
        vectors = [table(column) for table, column in zip(self.tables, columns, strict=True)]
        entries = torch.cat(vectors, dim=1)
        if nulls is not None and self.null is not None:
            entries = torch.where(nulls[:, None], self.null.to(entries.dtype), entries)
        output = self.layers(entries)
        return output.unflatten(1, (2, -1)) if self.is_film else output


class SizeBinMaps(Condition):
    """Counts [B, K] -> maps [B, K, *S] that are constant over the image: count / largest, or a
    learned number for each bin where the counts are not given (001-M10); with `null=zeros` 0.
    """

    def __init__(self, settings: SizeBinSettings) -> None:
        super().__init__("size_bins", settings.dropout)
        self.largest = settings.largest
        self.bins, by_token = settings.bins, settings.null == "token"
        self.null = nn.Parameter(torch.full((self.bins,), NULL_SHARE)) if by_token else None

    def forward(
        self,
        counts: Tensor,
        size: Sequence[int],
        seed: Tensor | None = None,
        is_null: Tensor | None = None,
    ) -> Tensor:
        """counts: int64 [B, K]; size: `*S`; seed and is_null as in `nulls`."""
        shares = _checked(counts, self.bins).clamp(max=self.largest) / self.largest
        nulls = self.nulls(len(counts), seed, is_null)
        if nulls is not None:
            null = shares.new_zeros(()) if self.null is None else self.null
            shares = torch.where(nulls[:, None], null, shares)
        return shares.view(*shares.shape, *[1] * len(size)).expand(*shares.shape, *size)


def _checked(counts: Tensor, bins: int) -> Tensor:
    if counts.ndim != 2 or counts.shape[1] != bins or counts.is_floating_point():
        raise ValueError(
            f"counts are whole numbers [B, {bins}], one for each bin of sizes, not "
            f"{counts.dtype} {list(counts.shape)}."
        )
    return counts
