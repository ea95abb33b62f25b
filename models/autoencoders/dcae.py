"""Deep compression autoencoder behind our interface: the network of `dcae_2d` or `dcae_3d`, with
phases of training and structured latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.autoencoders import dcae_2d, dcae_3d
from models.autoencoders.interface import Autoencoder, checkpoint_stages
from models.autoencoders.settings import ModelSettings
from models.autoencoders.structured_latent import draw, keep_leading, project_in, project_out


class Dcae(Autoencoder):
    """Deterministic: no sampling, no KL. Images go through the network in [-1, 1], the range of
    the published weights.

    Phases of training (`phase`, the paper's three): 1 all parameters; 2 adapts the latent, so the
    coarsest stages of both sides and the layers between them; 3 only the decoder's head: its
    finest stage, the norm and the last layer. The others require no gradient and stay as they
    are, running statistics included.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        super().__init__(settings, channels)
        shape = settings.dcae
        self.encoder: Any
        self.decoder: Any
        self.encoder, self.decoder = self._parts.networks(shape, channels)
        if settings.checkpointing:
            checkpoint_stages(self.encoder.down_blocks)
            checkpoint_stages(self.decoder.up_blocks)
        enabled = shape.structured.enabled
        self.options = shape.structured.options(shape.latent_channels) if enabled else ()
        self.to(self.dtype)
        if settings.phase != 1:
            self.requires_grad_(False)
            for module in self._learning():
                module.requires_grad_(True)
            self.train()

    @property
    def _parts(self) -> Any:
        """The Python module with the networks; no attribute, because a module cannot be copied."""
        return dcae_2d if self.settings.spatial_dims == 2 else dcae_3d

    def train(self, mode: bool = True) -> Dcae:
        """Keeps parts that do not learn in eval mode: their normalisation keeps its statistics."""
        super().train(mode)
        if mode and self.settings.phase != 1:
            self.encoder.eval()
            self.decoder.eval()
            for module in self._learning():
                module.train()
        return self

    def forward(self, image: Tensor, seed: Tensor | None = None) -> dict[str, Tensor]:
        """With structured latents, in training, only a random number of leading channels is used;
        `latent` holds zeros for the others.
        """
        if not (self.training and self.options):
            latent = self.encode(image)
            return {**self.decoded(latent), "latent": latent}
        count = draw(self.options, self.needed(seed))
        if not self.settings.dcae.adaptive_layers:
            latent = keep_leading(self.encode(image), count)
            return {**self.decoded(latent), "latent": latent}
        leading = self._encode_leading(image, count)
        missing = self.settings.latent_channels - count
        rest = leading.new_zeros(leading.shape[0], missing, *leading.shape[2:])
        return {
            **self.with_logits(self._decode_leading(leading)),
            "latent": torch.cat([leading, rest], dim=1),
        }

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(self._prepared(image)).float()

    def decode(self, latent: Tensor) -> Tensor:
        return self._finished(self.decoder(latent.to(self.dtype)))

    def last_layer(self) -> list[nn.Parameter]:
        if self.settings.phase == 2:
            stage = self.decoder.up_blocks[-1]
            return [[weight for weight in stage.parameters() if weight.ndim > 1][-1]]
        last = self.decoder.conv_out
        return [last.weight if hasattr(last, "weight") else last.conv.weight]

    def _prepared(self, image: Tensor) -> Tensor:
        self.check_image(image)
        return (2.0 * image - 1.0).to(self.dtype)

    def _finished(self, decoded: Tensor) -> Tensor:
        """The decoder's output as an image in [0, 1], or as logits."""
        return decoded.float() if self.settings.seg_mode else 0.5 * (decoded.float() + 1.0)

    def _encode_leading(self, image: Tensor, count: int) -> Tensor:
        encoder = self.encoder
        x = encoder.conv_in(self._prepared(image))
        for stage in encoder.down_blocks:
            x = stage(x)
        return project_out(x, encoder.conv_out, self.settings.latent_channels, count).float()

    def _decode_leading(self, leading: Tensor) -> Tensor:
        decoder, shape = self.decoder, self.settings.dcae
        x = leading.to(self.dtype)
        x = project_in(x, decoder.conv_in, shape.latent_channels, shape.widths[-1])
        for stage in reversed(decoder.up_blocks):
            x = stage(x)
        return self._finished(self._parts.head(decoder, x))

    def _learning(self) -> Iterable[nn.Module]:
        """The modules that the phase trains."""
        encoder, decoder = self.encoder, self.decoder
        if self.settings.phase == 2:
            around = (encoder.down_blocks[-1], encoder.conv_out)
            return (*around, decoder.conv_in, decoder.up_blocks[-1])
        finest = next(stage for stage in decoder.up_blocks if len(stage))
        return finest, decoder.norm_out, decoder.conv_out
