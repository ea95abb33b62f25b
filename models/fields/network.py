"""A residual CNN from an image to the latents of a simulation VAE: one trunk of stages, two heads.

Shapes: B samples, C input channels, S image side; M main latent size, K hierarchical codes of size
h; C_i, H_i, W_i channels and sides of stage i.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from settings.schema import Settings, SettingsError, setting

SMALLEST_MAP = 2
"""Pixels a side of the last stage's map: GroupNorm of one pixel and one channel is a constant."""

LEAST_REACH = 0.1
"""Of `model.reach`, as of `vae.reach`: below it tanh is a straight line."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The network; the source's widths are the default (1.268 M parameters at M 32, K 3, h 8)."""

    input_channels: int = setting(1, "channels of the image", low=1, high=16)
    filters: tuple[int, ...] = setting(
        (32, 64, 128, 256), "channels of each stage, one residual block a stage", low=4, high=2048
    )
    attention: str = setting(
        "soft",
        "squeeze-excite gate: soft is 0.5 + 0.5 sigmoid, hard is sigmoid",
        choices=("none", "soft", "hard"),
    )
    norm_groups: int = setting(
        32,
        "most groups of a GroupNorm; as many as channels make it forget each channel's mean",
        low=1,
        high=1024,
    )
    pool_size: int = setting(
        1,
        "cells a side of the last map's means that the heads see; 1, the global mean, forgets "
        "where things are",
        low=1,
        high=16,
    )
    reduction: int = setting(
        8,
        "channels of a stage per hidden unit of its squeeze-excite (one at least)",
        low=1,
        high=64,
    )
    dropout: float = setting(
        0.0, "share of channels dropped in a block, and of features in a trunk", low=0.0, high=0.9
    )
    spectral_norm: bool = setting(
        True,
        "every linear layer divided by its largest singular value; the second convolution of a "
        "block always is",
    )
    head_gain: float = setting(
        0.1,
        "Xavier gain of the heads' start. With model.spectral_norm it leaves the first output as "
        "it is and acts as a learning rate of these layers: 0.1 moves them 4 to 9 times further",
        low=0.01,
        high=1.0,
    )
    trunk_width: int = setting(
        0,
        "units of each head's first layer; 0 for as many as the main latent has numbers, the "
        "source's",
        low=0,
        high=4096,
    )
    head_width: int = setting(
        0,
        "units of each head's hidden layer, the most directions in which its latents can vary; 0 "
        "for half of its numbers, the source's",
        low=0,
        high=4096,
    )
    reach: float = setting(
        0.7,
        "the outputs are stretched so that the training targets end at +- this on tanh's scale; 0 "
        "for vae.reach, no stretching",
        low=0.0,
        high=0.95,
    )
    output_scale: float = setting(
        0.0,
        "start of a learnt factor before each tanh, for small first outputs; 0 for no factor",
        low=0.0,
        high=10.0,
    )

    def bound(self, targets_reach: float) -> float:
        """The largest output, in the units of targets that end at +- `targets_reach`."""
        return targets_reach / self.reach if self.reach else 1.0

    def check(self) -> None:
        if not 2 <= len(self.filters) <= 8:
            raise SettingsError(
                f"model.filters takes 2 to 8 stages, not {len(self.filters)}: {self.filters}."
            )
        if 0.0 < self.reach < LEAST_REACH:
            raise SettingsError(
                f"model.reach must be 0, for vae.reach, or at least {LEAST_REACH}, not "
                f"{self.reach:g}."
            )

    def widths(self, main_size: int, outputs: int) -> dict[str, int]:
        """The units of the layers that a head of `outputs` numbers passes through, each by what
        sets it.
        """
        pooled = self.filters[-1] * self.pool_size**2
        return {
            "the last of model.filters times model.pool_size squared": pooled,
            "model.trunk_width": self.trunk_width or main_size,
            "model.head_width": self.head_width or max(1, outputs // 2),
        }

    @property
    def stride(self) -> int:
        """Pixels of the image a side of one pixel of the last map: 2 in the stem and in every
        other stage.
        """
        return 2 ** (1 + (len(self.filters) + 1) // 2)

    @property
    def smallest_side(self) -> int:
        """The least side of an image, in pixels."""
        return SMALLEST_MAP * self.stride


def check_image(settings: ModelSettings, shape: tuple[int, ...]) -> None:
    """Refuses what is not a batch of square images of enough pixels and the right channels."""
    if len(shape) != 4 or shape[1] != settings.input_channels:
        raise ValueError(
            f"the conditioner takes images [B, {settings.input_channels}, S, S], not "
            f"{list(shape)}. Reshape them, or change model.input_channels."
        )
    if shape[2] != shape[3]:
        raise ValueError(
            f"the conditioner takes square images, not {shape[2]} x {shape[3]}. Pad or resize "
            "them (data.image_size)."
        )
    if shape[2] < settings.smallest_side:
        raise ValueError(
            f"{len(settings.filters)} stages need images of at least {settings.smallest_side} px "
            f"a side, not {shape[2]}. Raise data.image_size or shorten model.filters."
        )


def group_norm(channels: int, most: int) -> nn.GroupNorm:
    """GroupNorm with the largest number of groups up to `most` that divides the channels."""
    groups = max(n for n in range(1, most + 1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)


class SqueezeExcite(nn.Module):
    """x times a gate per channel, made from the means of all channels; layers without bias."""

    def __init__(self, channels: int, settings: ModelSettings) -> None:
        super().__init__()
        hidden = max(1, channels // settings.reduction)
        self.soft = settings.attention == "soft"
        self.squeeze = _linear(channels, hidden, settings, bias=False)
        self.excite = _linear(hidden, channels, settings, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.silu(self.squeeze(x.mean(dim=(2, 3))))).sigmoid()
        if self.soft:
            gate = 0.5 + 0.5 * gate
        return x * gate[:, :, None, None]


class Stage(nn.Module):
    """One residual block: conv - GN - SiLU - conv (spectrally normalised) - GN - squeeze-excite,
    added to the shortcut (1x1 conv - GN where the shape changes), SiLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, settings: ModelSettings) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.norm1 = group_norm(outputs, settings.norm_groups)
        self.dropout = nn.Dropout2d(settings.dropout)
        self.conv2 = spectral_norm(_conv(outputs, outputs, 3, 1))
        self.norm2 = group_norm(outputs, settings.norm_groups)
        attends = settings.attention != "none"
        self.attention = SqueezeExcite(outputs, settings) if attends else nn.Identity()
        same = stride == 1 and inputs == outputs
        projection = nn.Sequential(
            _conv(inputs, outputs, 1, stride), group_norm(outputs, settings.norm_groups)
        )
        self.shortcut = nn.Identity() if same else projection

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.silu(self.norm1(self.conv1(x))))
        hidden = self.attention(self.norm2(self.conv2(hidden)))
        return F.silu(hidden + self.shortcut(x))


class Head(nn.Module):
    """Trunk (linear - SiLU) and head (linear - SiLU - linear) of one kind of latent, then tanh
    times `bound`.

    With `model.output_scale` the last layer's output is multiplied by a learnt scalar before the
    tanh: small first outputs under spectral normalisation too, and the range stays as it is.
    """

    def __init__(
        self, main_size: int, outputs: int, settings: ModelSettings, bound: float
    ) -> None:
        super().__init__()
        self.bound = bound
        inputs, trunk, hidden = settings.widths(main_size, outputs).values()
        self.trunk = _linear(inputs, trunk, settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.hidden = _linear(trunk, hidden, settings, gain=settings.head_gain)
        self.output = _linear(hidden, outputs, settings, gain=settings.head_gain)
        start = settings.output_scale
        self.scale = nn.Parameter(torch.tensor([start])) if start else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.silu(self.trunk(x)))
        x = self.output(F.silu(self.hidden(x))).float()
        return self.bound * torch.tanh(x if self.scale is None else self.scale * x)


class ConditionerModel(nn.Module):
    """Image [B, C, S, S] -> `main` [B, M] and `hier` [B, K, h], float32 in (-bound, bound).

    Spectral normalisation advances its power iteration (buffers of the state dict) by one in every
    forward in training mode. So a second pass in a step (of a paired view, of another micro-batch)
    moves them too; one in eval mode does not.

    Args:
        main_size: M.
        hier_shape: (K, h).
        bound: `ModelSettings.bound` of the range that the targets are scaled to.
    """

    def __init__(
        self,
        settings: ModelSettings,
        main_size: int,
        hier_shape: tuple[int, int],
        bound: float = 1.0,
    ) -> None:
        super().__init__()
        self.settings, self.hier_shape = settings, tuple(hier_shape)
        widths = settings.filters
        self.stem = nn.Sequential(
            _conv(settings.input_channels, widths[0], 7, 2),
            group_norm(widths[0], settings.norm_groups),
            nn.SiLU(),
        )
        self.stages = nn.ModuleList(
            Stage(inputs, outputs, 1 + (index + 1) % 2, settings)
            for index, (inputs, outputs) in enumerate(pairwise((widths[0], *widths)))
        )
        codes, size = self.hier_shape
        self.main = Head(main_size, main_size, settings, bound)
        self.hier = Head(main_size, codes * size, settings, bound)

    def forward(self, image: Tensor, collect: bool = False) -> dict[str, Tensor]:
        """With `collect` also `feature_0` .. : each stage's output [B, C_i, H_i, W_i].

        The features are entries of their own; a block's output stays a tensor (000-M7: returned
        from the block they break every container).
        """
        check_image(self.settings, tuple(image.shape))
        x = self.stem(image)
        features = {}
        for index, stage in enumerate(self.stages):
            x = stage(x)
            features[f"feature_{index}"] = x
        pooled = F.adaptive_avg_pool2d(x, self.settings.pool_size).flatten(1)
        prediction = {
            "main": self.main(pooled),
            "hier": self.hier(pooled).unflatten(1, self.hier_shape),
        }
        return {**prediction, **features} if collect else prediction


def plain_model(module: nn.Module) -> ConditionerModel:
    """The network inside a wrapper (DDP, torch.compile)."""
    for inner in module.modules():
        if isinstance(inner, ConditionerModel):
            return inner
    raise ValueError(f"{type(module).__name__} holds no ConditionerModel. Pass the network.")


def shared_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The weights of the last stage, which both heads see: where a balancer measures gradients."""
    return [p for p in plain_model(module).stages[-1].parameters() if p.ndim > 1]


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    """Convolution without bias (a GroupNorm follows), He-initialised with fan_in, which keeps the
    variance of the forward pass (000-M16: the source takes fan_out).
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return conv


def _linear(
    inputs: int,
    outputs: int,
    settings: ModelSettings,
    *,
    bias: bool = True,
    gain: float | None = None,
) -> nn.Module:
    """Linear layer, He-initialised (fan_in), or Xavier with that gain; zero bias.

    The weight is drawn before it is normalised: the first singular vectors are then its own.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    if gain is None:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(layer.weight, gain=gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if settings.spectral_norm else layer
