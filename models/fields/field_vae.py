"""The simulation VAE: a hierarchical 1-D convolutional autoencoder of fields over time, and its
frozen decoder, which turns predicted latents back into fields.

B samples, T time steps (the length of the convolutions), N mesh nodes (their channels), M numbers
of the main latent, K = levels - 1 hierarchical codes of h numbers each, deepest level first.

It differs from the source in three things. Its decoder ended one level early and never read the
last code; ours reads all K. It normalised right before the last tanh, which removes a sample's
amplitude. And the network corrects a linear path, the principal components, which it would need
thousands of steps to find by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.fields.components import Components
from models.fields.range_scaler import RangeScaler
from settings.schema import Settings, SettingsError, setting

LOG_VARIANCE_LIMIT = 30.0
"""Every log-variance is clamped to +- this, so that its exponential is finite."""

RESIDUAL_SCALE = 0.1

INITIAL_LOG_VARIANCE = -6.0
"""Start of the posteriors' log-variance: at 0 the noise would be as large as the signal."""

CHANNELS_PER_GROUP = 8
"""Channels per group of GroupNorm; 1 would remove each channel's mean over time from a sample."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """The network. The number of hierarchical codes is no setting: it is the levels less one."""

    filters: tuple[int, ...] = setting(
        (48, 32, 24, 16),
        "channels of the encoder's levels, the outermost first; all but the last emit one "
        "hierarchical code",
        low=4,
        high=8192,
    )
    main_size: int = setting(32, "numbers in the main latent", low=1, high=1024)
    hier_size: int = setting(8, "numbers in one hierarchical code", low=1, high=256)
    reach: float = setting(
        0.7, "fields and latents are scaled to +- this on the training split", low=0.1, high=0.95
    )
    linear: bool = setting(
        True,
        "the latents start as principal components of the training fields, and the network "
        "corrects what they leave; false is the source's network",
    )

    def check(self) -> None:
        if len(self.filters) < 2:
            raise SettingsError(
                "filters needs at least two levels (one hierarchical code and the main latent), "
                f"not {self.filters}."
            )

    @property
    def hier_shape(self) -> tuple[int, int]:
        """(K, h)."""
        return len(self.filters) - 1, self.hier_size


def _norm(channels: int) -> nn.GroupNorm:
    most = max(1, min(32, channels // CHANNELS_PER_GROUP))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


class Residual(nn.Module):
    """x + 0.1 * branch(x); branch: two convolutions over three time steps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=1),
            _norm(channels),
            nn.GELU(),
            nn.Conv1d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.branch(x)


def _level(inputs: int, outputs: int, kernel: int = 1) -> nn.Sequential:
    conv = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
    return nn.Sequential(conv, _norm(outputs), nn.GELU(), Residual(outputs))


class Encoder(nn.Module):
    """Scaled fields [B, N, T] -> mean and log-variance of the main latent [B, M], and the
    hierarchical codes [B, K, h]: with a linear path, corrections to it that start at 0.
    """

    def __init__(self, settings: ModelSettings, length: int, nodes: int) -> None:
        super().__init__()
        widths = (nodes, *settings.filters)
        sizes = [settings.hier_size] * settings.hier_shape[0] + [2 * settings.main_size]
        self.levels = nn.ModuleList(_level(*pair) for pair in pairwise(widths))
        heads = [
            nn.Linear(width * length, size)
            for width, size in zip(settings.filters, sizes, strict=True)
        ]
        self.heads = nn.ModuleList(heads)
        if settings.linear:
            _zero(*heads)
        _lower_bias(heads[-1], settings.main_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        emitted = []
        for level, head in zip(self.levels, self.heads, strict=True):
            x = level(x)
            emitted.append(head(x.flatten(1)))
        mean, log_variance = emitted.pop().float().chunk(2, dim=1)
        hier = torch.stack(emitted[::-1], dim=1).float()
        return mean, _limited(log_variance), hier


class CodeStep(nn.Module):
    """Layers by which one hierarchical code enters the decoder.

    The prior of z [B, h, T] comes from the running feature; the code and the feature give the
    posterior's residual to it: z ~ N(mu + delta_mu, sigma^2 * exp(delta_logvar)).
    """

    def __init__(self, width: int, outputs: int, size: int, length: int) -> None:
        super().__init__()
        self.size, self.length = size, length
        self.prior = nn.Conv1d(width, 2 * size, 1)
        self.spread = nn.Linear(size, size * length)
        self.posterior = nn.Conv1d(width + size, 2 * size, 1)
        _lower_bias(self.posterior, size)
        self.join = _level(width + size, outputs, kernel=3)

    def forward(
        self, x: Tensor, code: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mu, logvar = self.prior(x).float().chunk(2, dim=1)
        spread = self.spread(code).view(-1, self.size, self.length).to(x.dtype)
        both = torch.cat([x, spread], dim=1)
        delta_mu, delta_logvar = self.posterior(both).float().chunk(2, dim=1)
        logvar, delta_logvar = _limited(logvar), _limited(delta_logvar)
        z = mu + delta_mu
        if noise is not None:
            z = z + noise * torch.exp(0.5 * (logvar + delta_logvar))
        statistics = {
            "delta_mu": delta_mu,
            "delta_logvar": delta_logvar,
            "prior_logvar": logvar,
        }
        return self.join(torch.cat([x, z.to(x.dtype)], dim=1)), statistics


class Decoder(nn.Module):
    """Main latent [B, M] and codes [B, K, h] -> scaled fields [B, N, T]: tanh of the network,
    added to the linear path where there is one.
    """

    def __init__(self, settings: ModelSettings, length: int, nodes: int) -> None:
        super().__init__()
        self.size, self.length = settings.main_size, length
        widths = settings.filters[::-1]
        self.spread = nn.Linear(self.size, self.size * length)
        self.start = _level(self.size, widths[0], kernel=5)
        self.steps = nn.ModuleList(
            CodeStep(width, outputs, settings.hier_size, length)
            for width, outputs in pairwise(widths)
        )
        self.output = nn.Conv1d(widths[-1], nodes, 1)
        self.linear: Components | None = None
        if settings.linear:
            codes, size = settings.hier_shape
            self.linear = Components(self.size + codes * size, length, nodes)
            _zero(self.output)

    def forward(
        self, main: Tensor, hier: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Decodes the latents, with a sample of each code or with its mean.

        Args:
            noise: unit normal [B, K, h, T], or None for the means.

        Returns:
            The fields, and delta_mu, delta_logvar, prior_logvar [B, K, h, T].
        """
        x = self.start(self.spread(main).view(-1, self.size, self.length))
        levels: list[dict[str, Tensor]] = []
        for index, step in enumerate(self.steps):
            level_noise = None if noise is None else noise[:, index]
            x, statistics = step(x, hier[:, index], level_noise)
            levels.append(statistics)
        stacked = {key: torch.stack([level[key] for level in levels], dim=1) for key in levels[0]}
        scaled = torch.tanh(self.output(x).float())
        if self.linear is not None:
            scaled = scaled + self.linear.decode(torch.cat([main, hier.flatten(1)], dim=1))
        return scaled, stacked


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


@torch.no_grad()
def _lower_bias(layer: nn.Linear | nn.Conv1d, first: int) -> None:
    """Outputs from `first` on are log-variances."""
    if layer.bias is not None:
        layer.bias[first:] += INITIAL_LOG_VARIANCE


def _limited(log_variance: Tensor) -> Tensor:
    return log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)


class FieldVaeModel(nn.Module):
    """Encoder, decoder and the scaling of the fields, which is part of the checkpoint."""

    def __init__(self, settings: ModelSettings, length: int, nodes: int) -> None:
        super().__init__()
        self.settings, self.length, self.nodes = settings, length, nodes
        self.scaler = RangeScaler((), settings.reach)
        self.encoder = Encoder(settings, length, nodes)
        self.decoder = Decoder(settings, length, nodes)

    def fit(self, low: float, high: float, blocks: Callable[[], Iterable[Tensor]]) -> None:
        """Computes the constants of the training fields: their range, and with a linear path their
        principal components. `blocks()` yields the fields as [b, T, N], more than once.
        """
        self.scaler.fit_range(torch.tensor(low), torch.tensor(high))
        linear = self.decoder.linear
        if linear is not None:
            with torch.no_grad():
                linear.fit(lambda: (self._scaled(block) for block in blocks()))

    def encode(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """The means: field [B, T, N] in its own units -> main [B, M], hier [B, K, h]."""
        mean, _, hier = self._encode(self._scaled(field))
        return mean, hier

    def decode(self, main: Tensor, hier: Tensor) -> Tensor:
        """Unscaled latents -> field [B, T, N] in its own units, without any sampling."""
        return self.scaler.inverse(self.decoder(main, hier)[0].transpose(1, 2))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Samples with the batch's `noise_main` [B, M] and `noise_hier` [B, K, h, T]; takes the
        means where it has none.

        Returns:
            field [B, T, N] (own units); scaled and scaled_target [B, N, T]; main, main_logvar
            [B, M]; hier [B, K, h]; delta_mu, delta_logvar, prior_logvar [B, K, h, T].
        """
        target = self._scaled(batch["field"])
        main, logvar, hier = self._encode(target)
        noise = batch.get("noise_main")
        drawn = main if noise is None else main + noise * torch.exp(0.5 * logvar)
        scaled, statistics = self.decoder(drawn, hier, batch.get("noise_hier"))
        return {
            "field": self.scaler.inverse(scaled.transpose(1, 2)),
            "scaled": scaled,
            "scaled_target": target,
            "main": main,
            "main_logvar": logvar,
            "hier": hier,
            **statistics,
        }

    def _encode(self, scaled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        main, logvar, hier = self.encoder(scaled)
        linear = self.decoder.linear
        if linear is not None:
            size = main.shape[1]
            start = linear.encode(scaled)
            main = main + start[:, :size]
            hier = hier + start[:, size:].view_as(hier)
        return main, logvar, hier

    def _scaled(self, field: Tensor) -> Tensor:
        if field.shape[1:] != (self.length, self.nodes):
            raise ValueError(
                f"this VAE takes fields of {self.length} time steps x {self.nodes} nodes, not "
                f"{' x '.join(map(str, field.shape[1:]))}. Train one for these fields."
            )
        return self.scaler(field.float()).transpose(1, 2).contiguous()


class FrozenDecoder(nn.Module):
    """Scaled latents -> fields: inverse scaling, the VAE's decoder, inverse scaling.

    Nothing of it is trained; gradients reach the latents. All of it is in the state dict, so a
    checkpoint decodes by itself (000-M22: inverse scaling in NumPy cuts the graph).
    """

    def __init__(self, settings: ModelSettings, length: int, nodes: int) -> None:
        super().__init__()
        self.settings, self.length, self.nodes = settings, length, nodes
        self.main_scaler = RangeScaler((settings.main_size,), settings.reach)
        self.hier_scaler = RangeScaler(settings.hier_shape, settings.reach)
        self.field_scaler = RangeScaler((), settings.reach)
        self.decoder = Decoder(settings, length, nodes)
        self.requires_grad_(False)

    def decode(self, main: Tensor, hier: Tensor) -> Tensor:
        """Scaled main [B, M], hier [B, K, h] -> field [B, T, N] in its own units.

        Always in float32: the precision of a trial must not show in what it is measured by.
        """
        with torch.autocast(main.device.type, enabled=False):
            scaled, _ = self.decoder(
                self.main_scaler.inverse(main.float()), self.hier_scaler.inverse(hier.float())
            )
            return self.field_scaler.inverse(scaled.transpose(1, 2))

    def forward(self, main: Tensor, hier: Tensor) -> Tensor:
        return self.decode(main, hier)
