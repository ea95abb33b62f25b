"""Masks without loss in the shape of a latent, as integers, and as planes of 0 and 1.

A mask is cut into square blocks. The pixels of a block, row by row, are its bits, 32 to a word, so
a mask of H x W pixels becomes words [channels, H/block, W/block] with channels = block² / 32. A
256 x 256 mask has 65,536 bits: 2,048 words, as many numbers as the latents of a DC-AE hold.

The words are integers for storage, and nothing else. The source reads the same bits as float32
(001-M1): where bits 23 to 30 are all one, that is NaN or infinity, many of the others are
denormal, and a pass through bfloat16 changes them. A network is conditioned on `bit_planes`, or on
a learned encoder.

Shapes: H, W pixels; h = H / block, w = W / block; `..` any axes before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

WORD_BITS = 32

LAYOUTS: Mapping[str, int] = MappingProxyType({"f32": 32, "f64": 64, "f128": 128, "k8x8": 8})
"""Name -> side of a block in pixels. The first three have the shapes of the DC-AE latents of a
256 x 256 image: 32 x 8 x 8, 128 x 4 x 4 and 512 x 2 x 2; k8x8 has 2 x 32 x 32.
"""


def channels_of(layout: str) -> int:
    """Words per block."""
    return _block_of(layout) ** 2 // WORD_BITS


def encode(mask: Tensor, layout: str = "f32") -> Tensor:
    """Mask [.., H, W] bool -> words [.., channels, h, w] int32. Bit i of a word has weight 2^i;
    the highest is the sign.

    Raises:
        ValueError: the mask is not bool, or its sides are no multiples of the block.
    """
    bits = _blocks(mask, _block_of(layout))
    words = bits.unflatten(-1, (-1, WORD_BITS)).int() << _places(mask.device)
    # No overflow: a sum of different powers of two is their union, and that of all 32 is -1.
    return words.sum(dim=-1, dtype=torch.int32).movedim(-1, -3)


def decode(words: Tensor, layout: str = "f32") -> Tensor:
    """Words [.., channels, h, w] int32 -> mask [.., H, W] bool.

    Raises:
        ValueError: the words are not int32, or not as many as the layout has per block.
    """
    block = _block_of(layout)
    if words.dtype != torch.int32:
        raise ValueError(
            f"the words of a mask are int32, not {words.dtype}: read as floating-point numbers, "
            "those with all exponent bits set are NaN, and arithmetic changes the others. Keep "
            "the words as `encode` made them; what a network reads are `bit_planes`."
        )
    if words.dim() < 3 or words.shape[-3] != channels_of(layout):
        raise ValueError(
            f"words in the layout {layout} are [.., {channels_of(layout)}, h, w], not "
            f"{list(words.shape)}. Decode with the layout they were encoded with, one of "
            f"{', '.join(LAYOUTS)}."
        )
    bits = (words.movedim(-3, -1).unsqueeze(-1) >> _places(words.device)) & 1
    rows = bits.flatten(-2).bool().unflatten(-1, (block, block))  # [.., h, w, block, block]
    return rows.transpose(-3, -2).flatten(-4, -3).flatten(-2)


def bit_planes(mask: Tensor, block: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Mask [.., H, W] bool -> planes [.., block², h, w] of 0 and 1 by space-to-depth: plane
    block·y + x holds pixel (y, x) of every block. `models/autoencoders/bit_planes.py` reduces
    them.

    Raises:
        ValueError: the mask is not bool, or its sides are no multiples of the block.
    """
    if block < 1:
        raise ValueError(f"a block has at least 1 px a side, not {block}.")
    return _blocks(mask, block).movedim(-1, -3).to(dtype)


def _block_of(layout: str) -> int:
    if layout not in LAYOUTS:
        raise ValueError(f"a layout of masks is one of {', '.join(LAYOUTS)}, not {layout!r}.")
    return LAYOUTS[layout]


def _blocks(mask: Tensor, block: int) -> Tensor:
    """[.., H, W] -> [.., h, w, block²], the pixels of a block row by row."""
    if mask.dtype != torch.bool:
        raise ValueError(
            f"a mask is bool here, not {mask.dtype}: say what counts as inside, as in "
            "`mask > 0.5`."
        )
    if mask.dim() < 2 or any(size == 0 or size % block for size in mask.shape[-2:]):
        raise ValueError(
            f"both sides of a mask are multiples of the block's {block} px, and its shape is "
            f"{list(mask.shape)}. Pad it, or take a layout of smaller blocks."
        )
    height, width = mask.shape[-2:]
    split = mask.unflatten(-1, (width // block, block)).unflatten(-3, (height // block, block))
    return split.transpose(-3, -2).flatten(-2)


def _places(device: torch.device) -> Tensor:
    return torch.arange(WORD_BITS, dtype=torch.int32, device=device)
