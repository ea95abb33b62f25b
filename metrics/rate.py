"""Rate of a compressed image: the entropy of its quantised latent, in bits per pixel.

The number of values in a latent separates nothing (the document's f32, f64 and f128 all have 2,048
per image), so they are counted by the bits that an ideal order-0 coder spends on them:

    rate = (sum over channels of positions x H_channel + 32 x images) / pixels

H is the entropy of the symbols of one latent channel over the whole validation set; for a VQ-VAE
the symbols are the codes. The 32 bits are the rms of each image's latent, by which it is divided
before it is rounded to steps of `metric.rate_step`; a VQ-VAE has none.

The entropy of n samples is too small by (m - 1) / (2n) nat in first order, m the symbols that
occur (Miller 1955). That would favour latents with many channels of few positions, so it is
added; the sum is at most the logarithm of the number of symbols. Not in the rate: the tables of
the coder, which are the model's, and what a coder with context would save.

Shapes: `symbols` [B, c, *s] whole numbers in +-LARGEST_SYMBOL, of a VQ-VAE [B, 1, *s] in
0 .. K - 1; `image` [B, C, *S].
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from metrics.codebook import AutoencoderTree, entropy_bits, histogram
from metrics.metric import Metric, Tensors
from models.autoencoders.interface import LARGEST_SYMBOL

SCALE_BITS = 32
"""Bits for the rms of an image's latent, a float32."""

READS = ("metric.rate_step",)

Measured = tuple[Tensor, Tensor]


def is_rounded(settings: AutoencoderTree) -> bool:
    """Whether the symbols are rounded numbers; those of a VQ-VAE are codes."""
    return settings.model.kind != "vqvae"


def bins_of(settings: AutoencoderTree) -> int:
    """The number of symbols that a channel may have."""
    return 2 * LARGEST_SYMBOL + 1 if is_rounded(settings) else settings.model.vqvae.codes


def symbol_counts(prediction: Tensors, batch: Tensors, settings: AutoencoderTree) -> Measured:
    """(how often each symbol occurs in each channel, flat [c * bins], and last the bits spent on
    scales; pixels)
    """
    bins, symbols = bins_of(settings), prediction["symbols"].long()
    rounded = is_rounded(settings)
    places = symbols + LARGEST_SYMBOL if rounded else symbols
    counts = histogram(places.transpose(0, 1).flatten(1), bins)
    image = batch["image"]
    scales = counts.new_tensor([len(image) * SCALE_BITS if rounded else 0.0])
    pixels = counts.new_tensor(image[:, 0].numel())
    return torch.cat([counts.flatten(), scales]), pixels


def corrected_entropy_bits(counts: Tensor) -> Tensor:
    """Entropy of each row [.., bins] with the first-order term of its bias (Miller 1955)."""
    samples = counts.sum(dim=-1).clamp(min=1.0)
    bias = ((counts > 0).sum(dim=-1) - 1).clamp(min=0) / (2.0 * samples * math.log(2.0))
    return (entropy_bits(counts) + bias).clamp(max=math.log2(counts.shape[-1]))


def bits_per_pixel(bins: int, sums: Tensor, pixels: float) -> float:
    if pixels == 0:
        return math.nan
    counts, scales = sums[:-1].view(-1, bins), float(sums[-1])
    bits = float((counts.sum(dim=-1) * corrected_entropy_bits(counts)).sum())
    return (bits + scales) / pixels


def share_at_limit(bins: int, sums: Tensor, pixels: float) -> float:
    """Share of the symbols at either end of their range, where they were clamped."""
    counts = sums[:-1].view(-1, bins)
    total = float(counts.sum())
    return float(counts[:, [0, -1]].sum()) / total if total else math.nan


def rate_metrics(settings: AutoencoderTree) -> tuple[Metric, ...]:
    """`rate_bpp`, smaller is better; how many symbols are clamped, where they are rounded."""
    bins = bins_of(settings)
    rate = Metric(
        "rate_bpp",
        "bit/px",
        "min",
        symbol_counts,
        "entropy of the quantised latent per pixel, over the whole validation set",
        functools.partial(bits_per_pixel, bins),
        READS,
    )
    if not is_rounded(settings):
        return (rate,)
    clamped = Metric(
        "rate_limit_share",
        "",
        None,
        symbol_counts,
        f"share of the symbols at +-{LARGEST_SYMBOL}, where they are clamped",
        functools.partial(share_at_limit, bins),
        READS,
    )
    return rate, clamped
