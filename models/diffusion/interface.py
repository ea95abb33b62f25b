"""The interface of every network of the diffusion, whatever its kind and its number of dimensions,
and what all of them do with a time and an embedding.

Shapes: B samples, C channels, `*S` the space that is diffused, (H, W) or (D, H, W) of it; E the
width of the embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.diffusion.settings import ModelSettings

PLACES = ("encoder", "middle", "decoder")
"""Of the features within a network: on the way down, in the middle, on the way up; in a network
without levels before, at and behind its middle block.
"""

Perturb = Callable[[str, Tensor], Tensor]
"""What a training does to features: (one of `PLACES`, features [B, ...]) -> the same shape. A
network calls it at every place, after each block or level; skip connections carry what was there
before.
"""


def unperturbed(place: str, features: Tensor) -> Tensor:
    """The features themselves."""
    return features


class DiffusionNetwork(nn.Module, ABC):
    """Predicts a velocity, noise or an image from a noisy image and its time: which of them is a
    matter of the training. It keeps no state beside its weights.

    Attributes:
        dimensions: of `*S`, 2 or 3.
        in_channels: of x, those of a condition that is concatenated to the noisy image included.
        out_channels: of the prediction.
        size: `*S` where the network takes this one alone (it has positions), or None.
        divisors: by which the sides of `*S` must be divisible, one for each axis.
        embedding_width: E.
        context_channels: of the condition image that is given as `context`, or 0 where the network
            takes none.
        checkpointing: whether activations are recomputed in the backward pass.
        takes_context: whether a network of this kind can be given a `context`.
    """

    dimensions: int
    in_channels: int
    out_channels: int
    size: tuple[int, ...] | None
    divisors: tuple[int, ...]
    embedding_width: int
    context_channels: int
    checkpointing: bool

    takes_context: ClassVar[bool] = False

    def describe(
        self,
        settings: ModelSettings,
        in_channels: int,
        out_channels: int,
        context_channels: int,
        *,
        size: tuple[int, ...] | None,
        embedding_width: int,
    ) -> None:
        """Sets the attributes, at the beginning of a network.

        Raises:
            ValueError: a context for a network that takes none.
        """
        if context_channels and not self.takes_context:
            raise ValueError(
                f"a {settings.kind} takes a condition image as channels of its input alone."
            )
        self.dimensions, self.size = settings.spatial_dims, size
        self.in_channels, self.out_channels = in_channels, out_channels
        self.context_channels, self.embedding_width = context_channels, embedding_width
        self.divisors, self.checkpointing = settings.divisors, settings.checkpointing

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        time: Tensor,
        embedding: Tensor | None = None,
        context: Tensor | None = None,
        perturb: Perturb = unperturbed,
    ) -> Tensor:
        """x [B, in_channels, *S] -> [B, out_channels, *S], in x's dtype.

        Args:
            time: float32 [B] in [0, 1]. The network multiplies it by `models.sinusoids.TIME_SCALE`
                itself.
            embedding: of modes, sizes of lesions, transformations; [B, E] is added to the time
                embedding e, [B, 2, E] modulates it (`conditioned`).
            context: the condition image [B, context_channels, *S].
            perturb: of the features.
        """

    def check_input(
        self, x: Tensor, time: Tensor, embedding: Tensor | None, context: Tensor | None
    ) -> None:
        """Refuses inputs of other shapes than the network was built for."""
        size = tuple(x.shape[2:])
        fits = len(size) == self.dimensions and (
            size == self.size if self.size is not None else _is_divisible(size, self.divisors)
        )
        if not fits or x.shape[1] != self.in_channels:
            sides = _by(self.size or [f"a multiple of {n}" for n in self.divisors])
            raise ValueError(
                f"this network takes images [B, {self.in_channels}, {sides}], not "
                f"{list(x.shape)}. Change the images, or build the network for theirs."
            )
        if time.shape != x.shape[:1]:
            raise ValueError(f"time has one number a sample, [{len(x)}], not {list(time.shape)}.")
        widths = ((len(x), self.embedding_width), (len(x), 2, self.embedding_width))
        if embedding is not None and tuple(embedding.shape) not in widths:
            raise ValueError(
                f"the embedding is {list(widths[0])}, or {list(widths[1])} for scale and shift, "
                f"not {list(embedding.shape)}: make it with the network's embedding_width."
            )
        expected = (len(x), self.context_channels, *size) if self.context_channels else None
        if (None if context is None else tuple(context.shape)) != expected:
            raise ValueError(
                f"the context of this network is {expected or 'nothing'}, not "
                f"{'nothing' if context is None else tuple(context.shape)}. A condition is given "
                "as context with conditioning=cross_attn, and otherwise as channels of x."
            )

    def run(self, part: nn.Module, *inputs: Tensor | Sequence[Tensor] | None) -> Any:
        """What a part of the network makes of its inputs; recomputed in the backward pass with
        `checkpointing`.
        """
        if not (self.checkpointing and torch.is_grad_enabled()):
            return part(*inputs)
        return checkpoint(part, *inputs, use_reentrant=False)


def conditioned(time_embedding: Tensor, embedding: Tensor | None) -> Tensor:
    """The time embedding e [B, E] under an embedding: e + embedding for [B, E], and
    e (1 + scale) + shift (FiLM, arXiv 1709.07871) for (scale, shift) [B, 2, E].
    """
    if embedding is None:
        return time_embedding
    embedding = embedding.to(time_embedding.dtype)
    if embedding.ndim == 2:
        return time_embedding + embedding
    scale, shift = embedding.unbind(dim=1)
    return time_embedding * (1.0 + scale) + shift


def combined(embeddings: Sequence[Tensor]) -> Tensor | None:
    """Several embeddings, [B, E] or [B, 2, E] each, as one: e (1 + sum of scales) + sum of shifts,
    so that their order does not matter; None of none.
    """
    shifts = [embedding for embedding in embeddings if embedding.ndim == 2]
    films = [embedding for embedding in embeddings if embedding.ndim == 3]
    if not films:
        return torch.stack(shifts).sum(dim=0) if shifts else None
    scales, more = torch.stack(films).sum(dim=0).unbind(dim=1)
    return torch.stack([scales, torch.stack([more, *shifts]).sum(dim=0)], dim=1)


def joined(
    noisy: Tensor, condition: Tensor | None, network: DiffusionNetwork
) -> tuple[Tensor, Tensor | None]:
    """(x, context) of a noisy image and its condition image, as the network takes them."""
    if condition is None or network.context_channels:
        return noisy, condition
    return torch.cat([noisy, condition.to(noisy.dtype)], dim=1), None


def _is_divisible(size: Sequence[int], divisors: Sequence[int]) -> bool:
    return all(
        side > 0 and side % divisor == 0 for side, divisor in zip(size, divisors, strict=True)
    )


def _by(sides: Sequence[object]) -> str:
    return ", ".join(map(str, sides))
