"""A gated U-Net that predicts the log residual of a warped HDR patch; with the head, the model.

Shapes: B samples, C channels, H and W pixels; images [B, 3, H, W], masks [B, 1, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hdr.head import HeadSettings, LogDomainHead
from settings.schema import Settings, setting

WIDTH_FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)
"""Channels of the five levels, in units of the width."""

STRIDE = 2 ** (len(WIDTH_FACTORS) - 1)
"""Pixels a side of one cell at the coarsest level."""

SMALLEST_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The network; its five levels have 1, 1.5, 2, 3 and 4 times `width` channels."""

    width: int = setting(24, "channels of the finest level", low=4, high=128)
    group_size: int = setting(16, "channels per group of GroupNorm, about", low=1, high=128)
    boundary_gate: float = setting(
        0.5, "start of w_b, the weight of edges in every gate", low=0.0, high=4.0
    )
    bottleneck_gate: float = setting(
        0.5, "weight of the gates over H, W and channels", low=0.0, high=4.0
    )
    use_occlusion: bool = setting(False, "feed the occlusion mask as a channel")
    use_motion: bool = setting(False, "feed the motion of the pixels as two channels")
    motion_in_holes: bool = setting(
        False, "feed it in holes too, whose surface the view before has not seen"
    )

    @property
    def fed(self) -> tuple[str, ...]:
        """What is fed beside image and hole."""
        used = {"occlusion": self.use_occlusion, "motion": self.use_motion}
        return tuple(part for part, is_fed in used.items() if is_fed)

    @property
    def channels(self) -> int:
        """Input channels: image, hole, and what else is fed."""
        return 4 + int(self.use_occlusion) + 2 * int(self.use_motion)


def check_side(height: int, width: int) -> None:
    """Refuses sizes that cannot be halved four times, or of which that leaves a single cell."""
    if height % STRIDE or width % STRIDE or min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"the sides of a patch must be multiples of {STRIDE} and at least {SMALLEST_SIDE} px, "
            f"not {height} x {width}. Change data.crop, or pad the image."
        )


def group_count(channels: int, group_size: int) -> int:
    """The divisor of the channels whose groups come nearest, as a ratio, to `group_size`."""
    divisors = [count for count in range(1, channels + 1) if channels % count == 0]
    return min(divisors, key=lambda count: abs(math.log(channels / count / group_size)))


def laplacian(image: Tensor) -> Tensor:
    """4 x - its four neighbours, the border repeated so that it is no edge itself. [B, 1, H, W]"""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows, columns = padded[:, :, :, 1:-1], padded[:, :, 1:-1, :]
    return 4.0 * image - rows[:, :, :-2] - rows[:, :, 2:] - columns[..., :-2] - columns[..., 2:]


def boundary_map(image: Tensor, hole: Tensor) -> Tensor:
    """sigmoid(|Lap(grey)|) + 0.3 * sigmoid(0.5 * |Lap(hole)|), in [0.65, 1.3]. [B, 1, H, W]

    The source also limits it to 2, which its range never reaches.
    """
    grey = image.mean(dim=1, keepdim=True)
    return laplacian(grey).abs().sigmoid() + 0.3 * (0.5 * laplacian(hole).abs()).sigmoid()


class GatedConv(nn.Module):
    """LeakyReLU(feature) * sigmoid(gate) * (1 + w_b * boundary); both from one convolution."""

    def __init__(self, inputs: int, outputs: int, boundary_gate: float, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 2 * outputs, 3, stride=stride, padding=1)
        self.boundary_weight = nn.Parameter(torch.tensor([boundary_gate]))

    def forward(self, x: Tensor, boundary: Tensor) -> Tensor:
        feature, gate = self.conv(x).chunk(2, dim=1)
        edges = (1.0 + self.boundary_weight * boundary).to(feature.dtype)
        return F.leaky_relu(feature, 0.2) * gate.sigmoid() * edges


class ResidualBlock(nn.Module):
    """x + gated(norm(gated(norm(x))))."""

    def __init__(self, channels: int, settings: ModelSettings) -> None:
        super().__init__()
        groups = group_count(channels, settings.group_size)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = GatedConv(channels, channels, settings.boundary_gate)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = GatedConv(channels, channels, settings.boundary_gate)

    def forward(self, x: Tensor, boundary: Tensor) -> Tensor:
        hidden = self.conv1(self.norm1(x), boundary)
        return x + self.conv2(self.norm2(hidden), boundary)


class SeparableGate(nn.Module):
    """x * (1 + weight * gate_H * gate_W * gate_C), gates of x averaged over the other axes."""

    def __init__(self, channels: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.along_height = nn.Conv1d(channels, channels, 3, padding=1)
        self.along_width = nn.Conv1d(channels, channels, 3, padding=1)
        self.over_channels = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height = self.along_height(x.mean(dim=3)).sigmoid()[:, :, :, None]
        width = self.along_width(x.mean(dim=2)).sigmoid()[:, :, None, :]
        channel = self.over_channels(x.mean(dim=(2, 3))).sigmoid()[:, :, None, None]
        return x * (1.0 + self.weight * height * width * channel)


class UpStep(nn.Module):
    """Convolution and pixel shuffle to twice the size, joined with the skip, one block."""

    def __init__(self, inputs: int, outputs: int, settings: ModelSettings) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, 4 * outputs, 1)
        self.fuse = GatedConv(2 * outputs, outputs, settings.boundary_gate)
        self.block = ResidualBlock(outputs, settings)

    def forward(self, x: Tensor, skip: Tensor, boundary: Tensor) -> Tensor:
        larger = F.pixel_shuffle(self.expand(x), 2)
        return self.block(self.fuse(torch.cat([larger, skip], dim=1), boundary), boundary)


class GatedUNet(nn.Module):
    """Normalised patch -> raw residual [B, 3, H, W].

    The output is linear: squashing is the head's, once (004-M8: a tanh here and one there reach
    tanh(1) = .762 only). It starts near 0, so that an untrained model returns the prefilled patch.

    Args:
        lacking: of "occlusion" and "motion" what some frames of the data lack. Of those that are
            fed, one channel more says where they are known.
    """

    def __init__(self, settings: ModelSettings, lacking: Sequence[str] = ()) -> None:
        super().__init__()
        self.settings = settings
        self.lacking = tuple(part for part in settings.fed if part in lacking)
        gate = settings.boundary_gate
        widths = [round(settings.width * factor) for factor in WIDTH_FACTORS]
        pairs = list(pairwise(widths))
        self.stem = GatedConv(settings.channels + len(self.lacking), widths[0], gate)
        self.blocks = nn.ModuleList(ResidualBlock(width, settings) for width in widths)
        self.down = nn.ModuleList(
            GatedConv(fine, coarse, gate, stride=2) for fine, coarse in pairs
        )
        self.bottleneck = SeparableGate(widths[-1], settings.bottleneck_gate)
        self.up = nn.ModuleList(UpStep(coarse, fine, settings) for fine, coarse in reversed(pairs))
        self.output = nn.Conv2d(widths[0], 3, 1)
        for parameter, deviation in zip(self.output.parameters(), (1e-2, 0.0), strict=True):
            nn.init.normal_(parameter, std=deviation)

    def forward(
        self,
        image: Tensor,
        hole: Tensor,
        occlusion: Tensor | None = None,
        motion: Tensor | None = None,
        known: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """The raw residual.

        Args:
            image: `image` of the head's `prepare`.
            occlusion: [B, 1, H, W], needed with `use_occlusion`.
            motion: [B, 2, H, W] in pixels, needed with `use_motion`; fed in cells of the coarsest
                level, as 0 in holes unless `motion_in_holes`.
            known: "occlusion" or "motion" -> 1 where a sample has it and 0 where it has zeros in
                its place, [B, 1, 1, 1]; all have what is not named.
        """
        check_side(image.shape[-2], image.shape[-1])
        parts = [image, hole]
        if self.settings.use_occlusion:
            parts.append(_present("occlusion", occlusion))
        if self.settings.use_motion:
            moves = _present("motion", motion) / STRIDE
            parts.append(moves if self.settings.motion_in_holes else moves * (1.0 - hole))
        parts += self._where_known(hole, known)

        boundary = [boundary_map(image, hole)]
        for _ in self.down:
            boundary.append(F.avg_pool2d(boundary[-1], 2))
        x = self.blocks[0](self.stem(torch.cat(parts, dim=1), boundary[0]), boundary[0])
        skips = []
        for level, down in enumerate(self.down, start=1):
            skips.append(x)
            x = self.blocks[level](down(x, boundary[level]), boundary[level])
        x = self.bottleneck(x)
        for level, up in zip(reversed(range(len(skips))), self.up, strict=True):
            x = up(x, skips[level], boundary[level])
        return self.output(x)

    def _where_known(self, hole: Tensor, known: Mapping[str, Tensor]) -> list[Tensor]:
        for part in self.settings.fed:
            if part in known and part not in self.lacking:
                raise ValueError(
                    f"some frames have no {part}, and this network was built where all have it: "
                    f"it cannot tell. Leave these frames out, or train with model.use_{part}=true "
                    "on data that lacks some."
                )
        whole = torch.ones_like(hole)
        return [whole * known[part] if part in known else whole for part in self.lacking]


def _present(name: str, channel: Tensor | None) -> Tensor:
    if channel is None:
        raise ValueError(
            f"model.use_{name} is true, but the batch has no {name!r}. Switch it off or supply it."
        )
    return channel


class HdrPatchModel(nn.Module):
    """Network and head in one module: DDP and EMA see one forward with all parameters. `lacking`
    is that of `GatedUNet`.
    """

    def __init__(
        self, model: ModelSettings, hdr: HeadSettings, lacking: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.network = GatedUNet(model, lacking)
        self.head = LogDomainHead(hdr)

    @property
    def no_decay(self) -> frozenset[str]:
        """Names of parameters that must get no weight decay."""
        gates = {name for name, _ in self.named_parameters() if name.endswith("boundary_weight")}
        return frozenset(gates | {f"head.{name}" for name in self.head.no_decay})

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The prediction as `LogDomainHead.forward` describes it. `<part>_known` [B, 1, 1, 1] in
        the batch says where some samples lack occlusion or motion.
        """
        prepared = self.head.prepare(batch)
        return self.head(self.raw(prepared, batch), prepared)

    def raw(self, prepared: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The network's output on what the head has prepared of a batch. [B, 3, H, W]"""
        parts = {part: batch.get(part) for part in ("occlusion", "motion")}
        known = {part: batch[f"{part}_known"] for part in parts if f"{part}_known" in batch}
        return self.network(prepared["image"], prepared["hole"], **parts, known=known)

    def completed(self, frame: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A frame's parts, with zeros for what is fed and it lacks, and word of it, where this
        network can be told.
        """
        made, hole = dict(frame), frame["hole"]
        for part in self.network.lacking:
            if part not in frame:
                made[part] = torch.zeros_like(hole).repeat(1, 2 if part == "motion" else 1, 1, 1)
                made[f"{part}_known"] = torch.zeros_like(hole[:, :, :1, :1])
        return made
