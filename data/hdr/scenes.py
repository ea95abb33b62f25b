"""Embedded HDR data: layered scenes under a moving camera, with the holes that parallax opens.

A shot is a stack of layers, far to near. Each layer is a periodic picture of log-normal radiance
(the spread of natural scenes, about 1e-4 to 1e3 with highlights) and a mask of shapes. The camera
translates, a layer moves by its disparity, and the nearest layer that covers a pixel is seen.
Everything is a function of the seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.files import Float32, Float64
from data.hdr.files import Frame, write_frame
from settings.words import counted

LOWEST, HIGHEST = 1e-4, 1e3
"""The range of radiance, in the unit in which a white wall by daylight is about 1."""

LIGHT_DRIFT = 0.01
"""Largest relative change of a surface's radiance between two frames."""

FRAMES_PER_SHOT = 3
"""Short, so that a small sequence has many scenes."""

_FOREGROUND_LAYERS = 4
_CANVAS_MARGIN = 1.25  # period of a layer over the size of a frame
_SHAPES_PER_LAYER = 3


@dataclass(frozen=True)
class _Layer:
    """radiance [3, h, w] and mask [h, w], both periodic; disparity in pixels per pixel of the
    nearest layer.
    """

    radiance: Float32
    mask: NDArray[np.bool_]
    disparity: float
    phase: float


@dataclass(frozen=True)
class View:
    """radiance [3, H, W]; layer [H, W], index of the layer seen, 0 the farthest."""

    radiance: Float32
    layer: NDArray[np.int8]


def sequence(frames: int, height: int, width: int, seed: int) -> Iterator[Frame]:
    """The frames of one sequence: shots of `FRAMES_PER_SHOT` frames, each shot another scene."""
    for index in range(math.ceil(frames / FRAMES_PER_SHOT)):
        count = min(FRAMES_PER_SHOT, frames - index * FRAMES_PER_SHOT)
        yield from shot(index, count, height, width, seed)


def write_sequence(
    root: Path, frames: int, height: int, width: int, seed: int, suffix: str = ".exr"
) -> None:
    """Writes the sequence in the layout that `data.hdr.files` reads, ids from 0."""
    for number, frame in enumerate(sequence(frames, height, width, seed)):
        write_frame(root, number, frame, suffix)


def shot(index: int, count: int, height: int, width: int, seed: int) -> Iterator[Frame]:
    """The `count` frames of the shot of a sequence with that index; a function of nothing else."""
    rng = np.random.default_rng((seed, index))
    layers = _make_layers(height, width, rng)
    angle = rng.normal(0.0, 0.4) + rng.choice([0.0, math.pi])  # cameras mostly move sideways
    step = rng.uniform(0.05, 0.09) * width * np.array([math.sin(angle), math.cos(angle)])
    jitter = rng.normal(0.0, 0.1, (count + 1, 2)) * np.abs(step).max()
    camera = np.arange(count + 1)[:, None] * step + jitter
    # Whole pixels: a warped pixel is then a pixel of the first view, and only the holes differ.
    disparity = np.array([layer.disparity for layer in layers])
    # [view, layer, (y, x)]
    shifts = np.rint(camera[:, None] * disparity[:, None]).astype(np.int64)
    before = _render(layers, shifts[0], 0, height, width)
    for time in range(1, count + 1):
        after = _render(layers, shifts[time], time, height, width)
        yield warp_forward(before, after, shifts[time] - shifts[time - 1])
        before = after


def warp_forward(before: View, after: View, motion: NDArray[np.int64]) -> Frame:
    """Moves each layer of the first view by its motion (y, x), nearest last, and compares with the
    second view.

    A pixel is a hole where nothing lands, or where what lands belongs to another layer than the
    second view shows (a renderer's depth test would reject it). `occlusion` marks the holes whose
    surface was hidden in the first view, as opposed to outside of it.
    """
    height, width = after.layer.shape
    warped = np.zeros_like(before.radiance)
    landed = np.full((height, width), -1, np.int8)
    inside = np.zeros((height, width), bool)
    for layer, (dy, dx) in enumerate(motion):
        to, origin = _overlap(height, width, int(dy), int(dx))
        moves = before.layer[origin] == layer
        landed[to][moves] = layer
        warped[(slice(None), to[0], to[1])] = np.where(
            moves,
            before.radiance[(slice(None), origin[0], origin[1])],
            warped[(slice(None), to[0], to[1])],
        )
        inside[to] |= after.layer[to] == layer
    hole = landed != after.layer
    warped[:, hole] = 0.0
    flow = motion[after.layer].transpose(2, 0, 1)[::-1]  # [2, H, W], x then y
    return Frame(
        warped=warped,
        hole=hole[None].astype(np.float32),
        target=after.radiance,
        occlusion=(hole & inside)[None].astype(np.float32),
        motion=np.ascontiguousarray(flow, dtype=np.float32),
    )


def _overlap(
    height: int, width: int, dy: int, dx: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(where pixels land, where they come from) for a shift by (dy, dx) inside a frame."""

    def axis(size: int, shift: int) -> tuple[slice, slice]:
        length = max(size - abs(shift), 0)
        low = min(max(shift, 0), size)
        source = min(max(-shift, 0), size)
        return slice(low, low + length), slice(source, source + length)

    (to_y, from_y), (to_x, from_x) = axis(height, dy), axis(width, dx)
    return (to_y, to_x), (from_y, from_x)


def _render(
    layers: list[_Layer], shifts: NDArray[np.int64], time: int, height: int, width: int
) -> View:
    radiance = np.zeros((3, height, width), np.float32)
    layer_seen = np.zeros((height, width), np.int8)
    for index, layer in enumerate(layers):
        period_y, period_x = layer.mask.shape
        rows = (np.arange(height) - shifts[index, 0]) % period_y
        columns = (np.arange(width) - shifts[index, 1]) % period_x
        mask = layer.mask[np.ix_(rows, columns)]
        light = np.float32(math.exp(0.5 * LIGHT_DRIFT * math.sin(layer.phase + 2.0 * time)))
        here = layer.radiance[:, rows[:, None], columns] * light
        radiance = np.where(mask, here, radiance)
        layer_seen[mask] = index
    return View(np.clip(radiance, LOWEST, HIGHEST), layer_seen)


def _make_layers(height: int, width: int, rng: np.random.Generator) -> list[_Layer]:
    size = (round(height * _CANVAS_MARGIN), round(width * _CANVAS_MARGIN))
    depths = np.sort(rng.uniform(1.0, 8.0, _FOREGROUND_LAYERS))[::-1]
    layers = []
    for index in range(_FOREGROUND_LAYERS + 1):
        background = index == 0
        mask = np.ones(size, bool) if background else _shapes(size, rng)
        disparity = 0.05 if background else float(depths[-1] / depths[index - 1])
        radiance = _radiance(size, background, rng)
        layers.append(_Layer(radiance, mask, disparity, rng.uniform(0.0, 2.0 * math.pi)))
    return layers


def _radiance(size: tuple[int, int], background: bool, rng: np.random.Generator) -> Float32:
    """Log-normal radiance [3, h, w]: a level per layer, texture, a slow tint, and point
    highlights.
    """
    level = rng.uniform(-1.5, 1.0) if background else rng.uniform(-3.0, 1.0)  # decades
    texture = rng.uniform(0.5, 1.4) * _noise(size, rng.uniform(1.2, 1.8), rng)  # nepers
    tint = 0.25 * rng.normal(size=(3, 1, 1)) + 0.15 * np.stack(
        [_noise(size, 2.5, rng) for _ in range(3)]
    )
    log_radiance = math.log(10.0) * level + texture + tint
    if background:
        rows = np.cos(2.0 * np.pi * np.arange(size[0]) / size[0])  # bright above, dark below
        log_radiance = log_radiance + rng.uniform(0.5, 2.5) * rows[:, None]
    radiance = np.exp(log_radiance)
    if background or rng.random() < 0.5:
        radiance = radiance + _highlights(size, rng)
    return np.clip(radiance, LOWEST, HIGHEST).astype(np.float32)


def _noise(size: tuple[int, int], slope: float, rng: np.random.Generator) -> Float64:
    """Periodic noise [h, w], mean 0, deviation 1, whose amplitude falls as frequency^-slope."""
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(size)) * frequency**-slope, s=size)
    return (noise - noise.mean()) / noise.std()


def _highlights(size: tuple[int, int], rng: np.random.Generator) -> Float64:
    """Lamps and glints [1, h, w]: Gaussian spots of a few pixels with peaks from 30 to 3000."""
    light = np.zeros(size)
    for _ in range(int(rng.integers(2, 6))):
        dy, dx = _offsets(size, rng)
        squared = (dy[:, None] ** 2 + dx**2) / rng.uniform(0.7, 2.5) ** 2
        light += 10.0 ** rng.uniform(1.5, 3.5) * np.exp(-0.5 * squared)
    return light[None]


def _shapes(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Union of ellipses and boxes, from compact to pole-like, at any angle."""
    mask = np.zeros(size, bool)
    for _ in range(_SHAPES_PER_LAYER):
        dy, dx = _offsets(size, rng)
        angle = rng.uniform(0.0, math.pi)
        along = dx * math.cos(angle) + dy[:, None] * math.sin(angle)
        across = dy[:, None] * math.cos(angle) - dx * math.sin(angle)
        radius = rng.uniform(0.08, 0.22) * min(size)
        aspect = math.exp(rng.uniform(0.0, math.log(5.0)))
        u, v = np.abs(along) / (radius * aspect**0.5), np.abs(across) / (radius / aspect**0.5)
        mask |= (u**2 + v**2 <= 1.0) if rng.random() < 0.5 else (np.maximum(u, v) <= 1.0)
    return mask


def _offsets(
    size: tuple[int, int], rng: np.random.Generator
) -> tuple[Float64, Float64]:
    """Signed distances (rows [h], columns [w]) to a random centre on the periodic canvas."""
    centre = rng.uniform(0.0, 1.0, 2) * size
    dy, dx = (
        (np.arange(length) - middle + length / 2) % length - length / 2
        for length, middle in zip(size, centre, strict=True)
    )
    return dy, dx


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.hdr.scenes", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets warp_hole/, ref/ and hole/")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--height", type=int, default=128, help="pixels")
    parser.add_argument("--width", type=int, default=192, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--suffix", choices=(".exr", ".hdr", ".npy"), default=".exr")
    options = parser.parse_args(arguments)
    size = (options.height, options.width)
    write_sequence(options.out, options.frames, *size, options.seed, options.suffix)
    pairs = counted(options.frames, "frame pair")
    print(f"{options.out}: {pairs} of {options.height}x{options.width}")


if __name__ == "__main__":
    main()
