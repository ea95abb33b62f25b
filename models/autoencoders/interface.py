"""The interface of every autoencoder here, whatever its kind and its number of dimensions.

Shapes: B images, C channels, `*S` the space, (H, W) or (D, H, W); c and `*s` of the latent; K
codes. Images are in [0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.autoencoders.settings import PURE_WEIGHTS, ModelSettings

LARGEST_SYMBOL = 64
"""Latents are rounded to whole steps within +- this many; `symbols` of that size are counted as
clamped.
"""


class PretrainedError(OSError):
    """Weights to start from that are no readable folder and cannot be fetched."""


@torch.no_grad()
def round_latent(latent: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """A latent as whole numbers, and the latent that they stand for.

    symbols = round(latent / (step * rms)), within +- LARGEST_SYMBOL; rms is the root mean square
    over all values of the sample, one number that a decoder must be told as well.

    Args:
        step: in units of the sample's rms.

    Returns:
        symbols int64 [B, c, *s] and symbols * step * rms.
    """
    if not step > 0.0:
        raise ValueError(f"step must be above 0 (units of the latent's rms), not {step}.")
    axes = tuple(range(1, latent.ndim))
    unit = step * latent.float().square().mean(dim=axes, keepdim=True).sqrt()
    whole = (latent / unit.clamp_min(torch.finfo(torch.float32).tiny)).round()
    whole = whole.clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL)
    return whole.long(), whole * unit


class Autoencoder(nn.Module, ABC):
    """Computes in fp32, or in the precision of its weights (`pure_weights`), or under autocast;
    what it returns is fp32.

    Attributes:
        settings: what it was built from.
        channels: C.
        signed: the modalities in whose images values below 0 were kept, by decision of the data
            that it was trained on (`data.mri`); None where they decided nothing.
    """

    signed: Sequence[str] | None = None

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        super().__init__()
        self.settings, self.channels = settings, channels
        self.dtype: torch.dtype = getattr(torch, PURE_WEIGHTS[settings.pure_weights])

    @abstractmethod
    def forward(self, image: Tensor, seed: Tensor | None = None) -> dict[str, Tensor]:
        """Image [B, C, *S] -> `reconstruction` [B, C, *S], `latent` [B, c, *s] as it was decoded,
        `logits` [B, C, *S] in seg mode, and what the kind adds.

        Args:
            seed: int64 [B], from which a kind draws in training what is random about it: the
                samples' own, or one for all of them (`ModelSettings.draws_by_update`).
        """

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """[B, C, *S] -> [B, c, *s]: all channels, no randomness, no effect on the model."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """[B, c, *s] -> [B, C, *S]: the reconstruction, in seg mode its logits."""

    @abstractmethod
    def last_layer(self) -> list[nn.Parameter]:
        """The last trainable weights that the whole reconstruction passes through."""

    def latent_shape(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """(c, *s) of images of size `spatial`; see `ModelSettings.latent_shape`."""
        return self.settings.latent_shape(spatial)

    def to_image(self, decoded: Tensor) -> Tensor:
        """What `decode` returns, as an image: the sigmoid of logits."""
        return decoded.sigmoid() if self.settings.seg_mode else decoded

    def decoded(self, latent: Tensor) -> dict[str, Tensor]:
        """The `reconstruction` of a latent, and its `logits` in seg mode."""
        return self.with_logits(self.decode(latent))

    def with_logits(self, decoded: Tensor) -> dict[str, Tensor]:
        """What `decode` returned, under its names in a prediction."""
        prediction = {"reconstruction": self.to_image(decoded)}
        return {**prediction, "logits": decoded} if self.settings.seg_mode else prediction

    @torch.no_grad()
    def quantise(self, prediction: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
        """`symbols` of a prediction's latent, and `quantised_reconstruction`, made from them."""
        symbols, rounded = round_latent(prediction["latent"], step)
        image = self.to_image(self.decode(rounded))
        return {"symbols": symbols, "quantised_reconstruction": image}

    def needed(self, seed: Tensor | None) -> Tensor:
        """The seed, where a forward draws from it."""
        if seed is None:
            raise ValueError(
                f"a training {self.settings.kind} draws from the seeds of its samples: give them "
                "to its forward, or call eval() first."
            )
        return seed

    def check_image(self, image: Tensor) -> None:
        """Refuses images of other channels, dimensions or sides than the network divides."""
        if image.ndim != self.settings.spatial_dims + 2 or image.shape[1] != self.channels:
            raise ValueError(
                f"this {self.settings.kind} takes images [B, {self.channels}, "
                f"{self.settings.spatial_dims} sides], not {list(image.shape)}. Change data.group "
                "or model.spatial_dims."
            )
        self.latent_shape(image.shape[2:])


class Checkpointed(nn.Sequential):
    """The same layers, under the same names in the state dict, whose activations are recomputed in
    the backward pass.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        run: Callable[[Tensor], Tensor] = super().forward
        if not torch.is_grad_enabled():
            return run(input)
        prediction: Tensor = checkpoint(run, input, use_reentrant=False)
        return prediction


def checkpoint_stages(stages: nn.ModuleList) -> None:
    """Makes every stage, an `nn.Sequential`, recompute itself. BatchNorm within one counts each
    batch twice in its running statistics, as with a momentum of 0.19 instead of 0.1.
    """
    for index, stage in enumerate(stages):
        if not isinstance(stage, nn.Sequential):
            raise TypeError(f"a stage is an nn.Sequential, not {type(stage).__name__}.")
        stages[index] = Checkpointed(*stage)


def plain_autocast_off(x: Tensor) -> torch.autocast:
    """A context in which x's device computes in the precision of its inputs."""
    return torch.autocast(x.device.type, enabled=False)
