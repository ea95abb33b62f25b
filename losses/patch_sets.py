"""Sets of patches that `losses.style.terms.swd` compares: of a sample and its references, or
of several samples together.

Shapes: B samples (of sets made together 1), R references, C channels, D = C k^2, n patches of a
latent (of sets made together of all samples), P directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from losses.patches import drawn, patches, taken, without_means
from losses.sliced_wasserstein import sliced_wasserstein, unit
from losses.terms import Tensors
from models.draws import draw_normal, draw_uniform

FIXED_SEED = 0
"""Of the directions of validation, the same for every sample, report and trial."""


class SwdNode(Protocol):
    """What is read of the term's settings."""

    @property
    def padding(self) -> str: ...

    @property
    def mean_removed(self) -> bool: ...

    @property
    def projections(self) -> int: ...

    @property
    def directions(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def max_samples(self) -> int: ...

    @property
    def draws(self) -> str: ...


@dataclass(frozen=True)
class PatchSets:
    """Patches of both sides, [B, D, n] and [B, R, D, n], and the keys by which some are drawn,
    [B, n] and [B, R, n].
    """

    x: Tensor
    y: Tensor
    x_keys: Tensor
    y_keys: Tensor

    @classmethod
    def of(
        cls, x1: Tensor, references: Tensor, seed: Tensor, node: SwdNode, size: int
    ) -> PatchSets:
        """All patches of [B, C, H, W] and [B, R, C, H, W]."""
        x = patches(x1, size, node.padding)
        y = patches(references.flatten(0, 1), size, node.padding)
        y = y.unflatten(0, references.shape[:2])
        seed, count = seed.to(x.device), x.shape[-1]
        x_keys = draw_uniform(seed, f"swd.patches_{size}", (count,))
        y_keys = draw_uniform(seed, f"swd.references_{size}", (y.shape[1], count))
        return cls(x, y, x_keys, y_keys)

    def chosen(self, at: Tensor) -> PatchSets:
        """Those of some samples."""
        return PatchSets(self.x[at], self.y[at], self.x_keys[at], self.y_keys[at])

    def together(self) -> PatchSets:
        """One set of the patches of all samples."""
        parts = self.x, self.y, self.x_keys, self.y_keys
        return PatchSets(*(part.movedim(0, -2).flatten(-2)[None] for part in parts))

    def drawn(self, most: int, shared: bool) -> tuple[Tensor, Tensor]:
        """[B, D, min(n, most)], and of all references together [B, D, min(R n, most)].

        Args:
            most: 0 for all.
            shared: the references' patches are those at the places of the sample's, R times as
                many.
        """
        y, y_keys = self.y.movedim(1, -2).flatten(-2), self.y_keys.flatten(1)
        x, count, references = self.x, self.x.shape[-1], self.y.shape[1]
        if shared and 0 < most < count:
            places = drawn(self.x_keys, most)
            by_reference = places[:, None].expand(-1, references, -1)
            return taken(x, places), taken(self.y, by_reference).movedim(1, -2).flatten(-2)
        if 0 < most < count:
            x = taken(x, drawn(self.x_keys, most))
        if 0 < most < count * references and not shared:
            y = taken(y, drawn(y_keys, most))
        return x, y

    def distance(self, node: SwdNode, directions: Tensor) -> Tensor:
        """SW_2^2 of each pair of sets, [B]."""
        x, y = self.drawn(node.max_samples, node.draws == "shared")
        return sliced_wasserstein(x, y, directions)


def directions(node: SwdNode, batch: Tensors, size: int, x1: Tensor) -> Tensor:
    """Unit vectors of R^D: [P, D], or each sample's own [B, P, D]. Only a batch of training has an
    `update_seed` (`Phase.draws_by_update`); without one they are the fixed ones.
    """
    is_fixed = node.directions == "fixed" or "update_seed" not in batch
    is_own = not is_fixed and node.directions == "sample" and node.group == "sample"
    seed = batch["seed"] if is_own else torch.tensor([FIXED_SEED])
    if not (is_fixed or is_own):
        seed = batch["update_seed"][:1]
    channels = x1.shape[1]
    shape = (node.projections, channels * size**2)
    normals = draw_normal(seed.to(x1.device), f"swd.directions_{size}", shape)
    along = unit(normals.to(x1.dtype))
    if node.mean_removed and size > 1:
        along = without_means(along, channels)
    return along if is_own else along[0]
