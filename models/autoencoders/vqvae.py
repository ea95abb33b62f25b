"""Vector-quantised autoencoder: MONAI's VQVAE behind our interface.

The codes are no parameters of the optimizer. They are moving averages of what was assigned to
them, and move once an update, by all of its micro-batches on all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.autoencoders.cells import CellSample, kmeans
from models.autoencoders.interface import Autoencoder, plain_autocast_off
from models.autoencoders.settings import ModelSettings
from models.gathered import GathersOverUpdate
from models.monai_modules import monai_module

DOWN = (2, 4, 1, 1)
"""Stride, size, dilation and padding of a stage's convolution: it halves every side exactly."""

UP = (*DOWN, 0)
"""The same for the transposed convolution, without padding of its output."""

CELLS_PER_CODE = 16
"""Cells at most that k-means looks at."""


class Vqvae(Autoencoder, GathersOverUpdate):
    """Every cell of the latent is replaced by the nearest of K codes, with the gradient passed
    straight through.

    The average number of uses starts at one per code, not at MONAI's zero: its first update
    divides the random codes by a hundredth of their uses and by about epsilon where they have
    none, which moves most of the codebook out of reach of any encoder.

    With `start=kmeans` the first update puts the codes where its cells are, as SoundStream does
    (Zeghidour et al., arXiv 2107.03312); until then all uses are 0. With `revive=encoder` a code
    whose uses have fallen below a share of the mean begins anew at one of the update's cells
    ("random restart" of Jukebox: Dhariwal et al., arXiv 2005.00341; SoundStream). It begins with
    that share of the uses, so one that finds no cell is drawn anew after the next update. Cells
    are drawn by the seeds of their images.

    A cell that is not finite is nobody's use: it would stay in the averages for good.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        super().__init__(settings, channels)
        shape = settings.vqvae
        stages = len(shape.widths)
        self.network: Any = monai_module("networks.nets").VQVAE(
            spatial_dims=settings.spatial_dims,
            in_channels=channels,
            out_channels=channels,
            channels=shape.widths,
            num_res_channels=shape.widths,
            num_res_layers=shape.res_blocks,
            downsample_parameters=(DOWN,) * stages,
            upsample_parameters=(UP,) * stages,
            num_embeddings=shape.codes,
            embedding_dim=shape.code_width,
            decay=shape.decay,
            epsilon=shape.epsilon,
            use_checkpointing=settings.checkpointing,
        ).to(self.dtype)
        self._codebook.float()  # steps of 1 - decay vanish in half precision
        self._has_started = shape.start != "kmeans"
        self._codebook.ema_cluster_size.fill_(1.0 if self._has_started else 0.0)
        self._gathered: tuple[Tensor, Tensor] | None = None  # uses [K], sum of vectors [K, c]
        self._sample: CellSample | None = None

    @property
    def _codebook(self) -> Any:
        """MONAI's EMAQuantizer."""
        return self.network.quantizer.quantizer

    @property
    def codes(self) -> Tensor:
        """The codebook [K, c]."""
        return self._codebook.embedding.weight

    def forward(self, image: Tensor, seed: Tensor | None = None) -> dict[str, Tensor]:
        """Adds `unquantised` [B, c, *s], what the encoder made, and `codes` int64 [B, *s]."""
        unquantised = self._unquantised(image)
        codebook = self._codebook
        with plain_autocast_off(image):
            vectors, assigned, codes = codebook.quantize(unquantised)  # [n, c], [n, K], [B, *s]
            if self.training and self.is_heard:
                self._gather(vectors.detach(), assigned, seed)
            nearest = codebook.embed(codes)
        latent = unquantised + (nearest - unquantised).detach()
        return {
            **self.decoded(latent),
            "latent": latent,
            "unquantised": unquantised,
            "codes": codes,
        }

    @torch.no_grad()
    def _gather(self, vectors: Tensor, assigned: Tensor, seed: Tensor | None) -> None:
        is_sound = vectors.square().sum(dim=1).isfinite()
        vectors = torch.where(is_sound[:, None], vectors, 0.0)
        before = self._gathered or (0.0, 0.0)
        uses, sums = is_sound.float() @ assigned, assigned.t() @ vectors
        self._gathered = uses + before[0], sums + before[1]
        if size := self._sample_size():
            sample = CellSample.drawn(self.needed(seed), vectors, is_sound, size)
            self._sample = sample.joined(self._sample, size)

    def _sample_size(self) -> int:
        """How many cells of the update `take_in` needs; equal on every rank."""
        if not self._has_started:  # a checkpoint may have come in; the host waits until it has
            self._has_started = bool(self._codebook.ema_cluster_size.any())
        shape = self.settings.vqvae
        if not self._has_started:
            return CELLS_PER_CODE * shape.codes
        return shape.codes if shape.revive == "encoder" else 0

    @torch.no_grad()
    def take_in(self) -> None:
        """Moves the codes: van den Oord et al., arXiv 1711.00937, appendix A.1, with the uses
        smoothed as MONAI's `EMAQuantizer` does it in each forward.
        """
        if self._gathered is None:
            return
        (uses, sums), sample = self._gathered, self._sample
        self.forget()
        if sample is not None:
            sample = sample.over_ranks(self._sample_size())
        if not self._has_started and sample is not None:
            self._start(sample)
            return
        codebook = self._codebook
        codebook.distributed_synchronization(uses, sums)
        for average, new in ((codebook.ema_cluster_size, uses), (codebook.ema_w, sums)):
            average.mul_(codebook.decay).add_((1.0 - codebook.decay) * new)
        total, epsilon = codebook.ema_cluster_size.sum(), codebook.epsilon
        smoothed = (codebook.ema_cluster_size + epsilon) / (total + len(uses) * epsilon) * total
        codebook.embedding.weight.copy_(codebook.ema_w / smoothed[:, None])
        if sample is not None:
            self._revive(sample)

    def _start(self, sample: CellSample) -> None:
        """Puts the codes where the cells are, with a use each; without cells nothing begins."""
        cells = sample.cells()
        if len(cells):
            codes = kmeans(cells, self.codes)
            self._place(torch.ones_like(codes[:, 0], dtype=torch.bool), codes, codes.new_ones(()))
            self._has_started = True

    def _revive(self, sample: CellSample) -> None:
        """The first of the dead codes take the first of the cells, as many as there are."""
        uses = self._codebook.ema_cluster_size
        least = self.settings.vqvae.revive_below * uses.mean()
        is_dead = uses < least
        place = is_dead.cumsum(dim=0) - 1
        is_moved = is_dead & (place < (sample.keys >= 0).sum())
        self._place(is_moved, sample.vectors[place.clamp(0, len(sample.keys) - 1)], least)

    def _place(self, is_moved: Tensor, codes: Tensor, uses: Tensor) -> None:
        """Puts codes somewhere else, with so many uses there."""
        codebook, rows = self._codebook, is_moved[:, None]
        for kept, new in (
            (codebook.ema_cluster_size, uses.expand_as(is_moved)),
            (codebook.ema_w, codes * uses),
            (codebook.embedding.weight, codes),
        ):
            kept.copy_(torch.where(is_moved if kept.ndim == 1 else rows, new, kept))

    def forget(self) -> None:
        self._gathered = self._sample = None

    def encode(self, image: Tensor) -> Tensor:
        codes = self._nearest(self._unquantised(image))
        return self._codebook.embed(codes)

    def decode(self, latent: Tensor) -> Tensor:
        return self.network.decode(latent.to(self.dtype)).float()

    def last_layer(self) -> list[nn.Parameter]:
        return [self.network.decoder.blocks[-1].conv.weight]

    @torch.no_grad()
    def quantise(self, prediction: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
        """The numbers of the codes, and the reconstruction as it is: it was made of codes. `step`
        has no part in it.
        """
        return {
            "symbols": prediction["codes"][:, None],
            "quantised_reconstruction": prediction["reconstruction"],
        }

    def _unquantised(self, image: Tensor) -> Tensor:
        self.check_image(image)
        return self.network.encode(image.to(self.dtype)).float()

    def _nearest(self, latent: Tensor) -> Tensor:
        """The numbers of the nearest codes, int64 [B, *s]."""
        with plain_autocast_off(latent):
            return self._codebook.quantize(latent.float())[2]
