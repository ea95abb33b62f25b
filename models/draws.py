"""Random numbers of samples: functions of (seed of the sample, stream), wherever it is computed.

A training sees the same numbers by one worker or by many, with accumulation or without: a sample's
seed (`batch["seed"]`) does not depend on how a step is cut, where torch's generators belong to a
process. Counter-based, so that the numbers of a whole batch are made at once on the device: the
output of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) at the places 1, 2, ... of the sequence
that begins at a hash of seed and stream.

Shapes: B samples; seed int64 [B], whatever its values.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_LOW = (1 << 32) - 1
_MASK = (1 << 64) - 1


def hash63(*parts: int) -> int:
    """A 63-bit hash of whole numbers (splitmix64), equal on every machine and Python."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def draw_uniform(seed: Tensor, stream: str, shape: Sequence[int] = ()) -> Tensor:
    """Float32 [B, *shape], uniform in [0, 1).

    Args:
        stream: the name of what is drawn. Equal names give equal numbers.
        shape: of one sample's draw.
    """
    count = math.prod(shape)
    high, low = _halves(seed, stream, (count + 1) // 2)
    bits = torch.cat([high, low], dim=1)[:, :count]
    return ((bits >> 8).float() * 2.0**-24).view(len(seed), *shape)


def draw_normal(seed: Tensor, stream: str, shape: Sequence[int] = ()) -> Tensor:
    """Float32 [B, *shape], of the standard normal distribution up to 6.6 deviations (Box and
    Muller, from 32 bits each).

    Args:
        stream, shape: as for `draw_uniform`.
    """
    count = math.prod(shape)
    high, low = _halves(seed, stream, (count + 1) // 2)
    radius = high.add_(1).float().mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = low.float().mul_(2.0 * math.pi * 2.0**-32)
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both[:, :count].reshape(len(seed), *shape)


def draw_integers(seed: Tensor, stream: str, high: int, shape: Sequence[int] = ()) -> Tensor:
    """Int64 [B, *shape], each of 0, ..., high - 1 equally likely (to 1 in 2^32 / high).

    Args:
        stream, shape: as for `draw_uniform`.
        high: below 2^31.
    """
    count = math.prod(shape)
    bits, _ = _halves(seed, stream, count)
    return ((bits * high) >> 32).view(len(seed), *shape)


def _halves(seed: Tensor, stream: str, count: int) -> tuple[Tensor, Tensor]:
    """Two times 32 random bits, int64 [B, count] each."""
    places = torch.arange(1, count + 1, device=seed.device).mul_(_GAMMA)
    bits = _mixed((_mixed(seed + _start(stream)))[:, None] + places)
    return _shifted(bits, 32), bits & _LOW


@functools.lru_cache(maxsize=256)
def _start(stream: str) -> int:
    """What the name of a stream adds to a seed."""
    digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _mixed(state: Tensor) -> Tensor:
    """The finishing function of splitmix64, on a tensor that nobody else has."""
    state.bitwise_xor_(_shifted(state, 30)).mul_(_FIRST)
    state.bitwise_xor_(_shifted(state, 27)).mul_(_SECOND)
    return state.bitwise_xor_(_shifted(state, 31))


def _shifted(state: Tensor, places: int) -> Tensor:
    """Shifted to the right as a number without a sign."""
    return (state >> places).bitwise_and_((1 << (64 - places)) - 1)
