"""Real HDR input: frame pairs rendered from photographed environment maps, with known camera
motion.

    python -m data.hdr.environment_maps --out DIR [--size PIXELS] [--frames PAIRS_PER_MAP]

The maps are the eight CC0 panoramas (Greg Zaal, HDRI Haven) in Debian's package blender-data. A
panorama has no depth, so a scene is made of it: concentric spheres around the start of the camera,
each textured with the panorama turned by its own angle, the nearer ones cut to smooth seeded
shapes. A moving camera then sees real radiance disoccluded. Each map becomes a sequence,
DIR/<map>, so that it is in one split as a whole.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, Float32, Float64
from data.hdr.files import Frame, read_image, sequences_of, write_frame
from settings.words import counted

PACKAGE = "blender-data"
RADII = (8.0, 3.0, 1.8, 1.2)
"""Radii of the spheres, far to near, in units of which the camera moves about 0.08 per frame."""

_NEAR_SHARE = 0.16  # of a near sphere that is covered
_SUPERSAMPLING = (
    2  # samples per pixel and axis of the first view, so that nothing magnified has cracks
)
_SAME_DEPTH = 0.05  # relative difference up to which two depths are one surface
_FOCAL = 0.5  # in frame widths: a field of view of 90 degrees
_LEAST_DEPTH = 0.1  # below it a point counts as so far ahead; the nearest sphere has 1.2

@dataclass(frozen=True)
class Scene:
    """textures [L, h, w, 3] and masks [L, h, w] of the spheres, equirectangular, far to near."""

    textures: Float32
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Camera:
    """position [3]; rotation [3, 3], its columns the camera's right, down and forward axes in the
    world.
    """

    position: Float64
    rotation: Float64


def fetch(cache: Path) -> list[Path]:
    """The environment maps: those of the folder HDR_MAPS, or of blender-data, downloaded into the
    cache once.
    """
    given = os.environ.get("HDR_MAPS", "")
    if given:
        maps = sorted(p for p in Path(given).glob("*") if p.suffix.lower() in (".exr", ".hdr"))
        if len(maps) < 2:
            raise DataError(
                f"HDR_MAPS={given}: expected at least 2 .exr or .hdr panoramas, found {len(maps)}."
            )
        if len({path.stem for path in maps}) < len(maps):
            raise DataError(
                f"HDR_MAPS={given}: expected one panorama of each name, found "
                f"{', '.join(path.name for path in maps)}. Rename those that share one."
            )
        return maps
    unpacked = cache / PACKAGE
    if not unpacked.is_dir():
        _unpack_package(cache, unpacked)
    maps = sorted(unpacked.glob("*.exr"))
    if len(maps) < 2:
        raise DataError(
            f"{unpacked}: expected studiolights/world/*.exr in {PACKAGE}, found none. {_WAYS}"
        )
    return maps


_WAYS = (
    "Two ways to get the maps: on Debian or Ubuntu, apt-get and dpkg fetch the package "
    "blender-data (no root needed; run `apt-get update` once if it is unknown); elsewhere set "
    "HDR_MAPS to a folder of equirectangular .exr or .hdr panoramas."
)


def _unpack_package(cache: Path, unpacked: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise DataError(
            f"environment maps: expected apt-get and dpkg on this machine, found none. {_WAYS}"
        )
    download = cache / "download"
    download.mkdir(parents=True, exist_ok=True)
    _call(["apt-get", "download", PACKAGE], download)
    packages = sorted(download.glob(f"{PACKAGE}_*.deb"))
    if not packages:
        raise DataError(f"{download}: expected {PACKAGE}_*.deb from apt-get, found none. {_WAYS}")
    contents = download / "contents"
    _call(["dpkg", "-x", packages[-1].name, contents.name], download)
    folders = sorted(contents.glob("usr/share/blender/**/studiolights/world"))
    if not folders:
        raise DataError(f"{packages[-1]}: expected studiolights/world in it, found none. {_WAYS}")
    folders[0].rename(unpacked)  # with license.txt; the rest of the package is 100 MB
    shutil.rmtree(download)


def _call(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"`{' '.join(command)}` ended with {done.returncode}: {last}. {_WAYS}")


def make_scene(panorama: Float32, rng: np.random.Generator) -> Scene:
    """Spheres textured with the panorama [h, w, 3], each turned by another angle."""
    height, width = panorama.shape[:2]
    turns = rng.permutation(len(RADII)) * width // len(RADII) + rng.integers(width)
    textures = np.stack([np.roll(panorama, int(turn), axis=1) for turn in turns])
    masks = np.ones((len(RADII), height, width), bool)
    for index in range(1, len(RADII)):
        smooth = _smooth_field(height, width, rng)
        masks[index] = smooth > np.quantile(smooth, 1.0 - _NEAR_SHARE)
    return Scene(textures, masks)


def _smooth_field(height: int, width: int, rng: np.random.Generator) -> Float64:
    """Sum of random plane waves over the sphere [h, w], 2 to 7 periods across it: no seam and no
    pole.
    """
    direction = _directions_of_map(height, width)
    waves = rng.normal(size=(24, 3))
    waves *= rng.uniform(4.0, 14.0, (24, 1)) / np.linalg.norm(waves, axis=1, keepdims=True)
    phases = rng.uniform(0.0, 2.0 * np.pi, 24)
    return np.cos(direction @ waves.T + phases).sum(axis=-1)


def _directions_of_map(height: int, width: int) -> Float64:
    """Unit vectors [h, w, 3] of the pixels of an equirectangular map: x right, y down, z ahead."""
    latitude = (np.arange(height) + 0.5) / height * np.pi - 0.5 * np.pi
    longitude = (np.arange(width) + 0.5) / width * 2.0 * np.pi - np.pi
    flat = np.cos(latitude)[:, None]
    return np.stack(
        np.broadcast_arrays(
            flat * np.sin(longitude), np.sin(latitude)[:, None], flat * np.cos(longitude)
        ),
        axis=-1,
    )


def camera_path(steps: int, rng: np.random.Generator) -> list[Camera]:
    """A walk from near the centre with a slow pan; it stays well inside the nearest sphere."""
    heading = rng.uniform(0.0, 2.0 * np.pi)
    pan = rng.normal(0.0, 0.02)
    cameras = []
    for step in range(steps):
        yaw = heading + pan * step
        # A Lissajous path: about 0.08 per frame, mostly to the side, never beyond 0.5 from the
        # centre.
        side, lift, ahead = (
            0.4 * np.sin(0.2 * step),
            0.1 * np.sin(0.13 * step),
            0.15 * np.sin(0.11 * step),
        )
        forward = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
        right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
        down = np.array([0.0, 1.0, 0.0])
        position = side * right + lift * down + ahead * forward
        cameras.append(Camera(position, np.stack([right, down, forward], axis=1)))
    return cameras


def render(scene: Scene, camera: Camera, size: int, samples: int = 1) -> tuple[Float32, Float64]:
    """What the camera sees: radiance [N, N, 3] and points [N, N, 3] in the world, N = size *
    samples.
    """
    count = size * samples
    grid = (np.arange(count) + 0.5) / count - 0.5
    x, y = np.meshgrid(grid, grid)
    rays = np.stack([x, y, np.full_like(x, _FOCAL)], axis=-1) @ camera.rotation.T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    radiance = np.zeros((count, count, 3), np.float32)
    points = np.zeros((count, count, 3))
    for radius, texture, mask in zip(RADII, scene.textures, scene.masks, strict=True):
        # |position + s ray| = radius, of whose two solutions the one ahead of a camera inside is
        # wanted.
        along = rays @ camera.position
        distance = -along + np.sqrt(along**2 + radius**2 - camera.position @ camera.position)
        here = camera.position + distance[..., None] * rays
        colour, covered = _look_up(texture, mask, here / radius)
        radiance = np.where(covered[..., None], colour, radiance)
        points = np.where(covered[..., None], here, points)
    return radiance, points


def _look_up(
    texture: Float32, mask: NDArray[np.bool_], direction: Float64
) -> tuple[Float32, NDArray[np.bool_]]:
    """Bilinear radiance and nearest mask value of an equirectangular map in those directions."""
    height, width = mask.shape
    column = (np.arctan2(direction[..., 0], direction[..., 2]) / (2.0 * np.pi) + 0.5) * width - 0.5
    row = (np.arcsin(np.clip(direction[..., 1], -1.0, 1.0)) / np.pi + 0.5) * height - 0.5
    left, above = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    right_share = (column - left)[..., None].astype(np.float32)
    below_share = (row - above)[..., None].astype(np.float32)
    columns = left % width, (left + 1) % width
    rows = np.clip(above, 0, height - 1), np.clip(above + 1, 0, height - 1)
    upper, lower = (
        texture[r, columns[0]] * (1 - right_share) + texture[r, columns[1]] * right_share
        for r in rows
    )
    nearest = mask[
        np.clip(np.rint(row).astype(np.int64), 0, height - 1),
        np.rint(column).astype(np.int64) % width,
    ]
    return upper * (1 - below_share) + lower * below_share, nearest


def frame_pair(scene: Scene, first: Camera, second: Camera, size: int) -> Frame:
    """The first view warped forward into the second, the second view as target, and how each pixel
    of the second has moved since the first.

    Each sample of the first view is projected into the second and tested against that view's
    depth buffer; a pixel is the mean of the samples that pass. Where none does, nothing that the
    second view shows was seen before, and the pixel is a hole.
    """
    radiance, points = render(scene, first, size, _SUPERSAMPLING)
    target, surface = render(scene, second, size)
    local = (points.reshape(-1, 3) - second.position) @ second.rotation
    depth = local[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.floor((local[:, :2] / depth[:, None] * _FOCAL + 0.5) * size)
    lands = (depth > 0) & (at >= 0).all(axis=1) & (at < size).all(axis=1)
    pixel = (at[lands, 1] * size + at[lands, 0]).astype(np.int64)
    buffer = ((surface.reshape(-1, 3) - second.position) @ second.rotation)[:, 2]
    passes = np.abs(depth[lands] - buffer[pixel]) <= _SAME_DEPTH * buffer[pixel]
    pixel, colour = pixel[passes], radiance.reshape(-1, 3)[lands][passes]
    count = np.bincount(pixel, minlength=size * size)
    total = [np.bincount(pixel, colour[:, c], size * size) for c in range(3)]
    mean = np.stack(total) / np.maximum(count, 1)
    warped = mean.reshape(3, size, size).astype(np.float32)
    hole = (count == 0).reshape(1, size, size).astype(np.float32)
    # Where the first camera has what the second sees; what it has behind it is in a hole.
    before = (surface.reshape(-1, 3) - first.position) @ first.rotation
    origin = before[:, :2] / np.maximum(before[:, 2:], _LEAST_DEPTH) * _FOCAL + 0.5
    place = np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2), axis=-1)
    motion = place - origin.reshape(size, size, 2) * size
    return Frame(
        warped,
        hole,
        np.ascontiguousarray(target.transpose(2, 0, 1)),
        motion=np.ascontiguousarray(motion.transpose(2, 0, 1), dtype=np.float32),
    )


def render_map(path: Path, root: Path, size: int, frames: int, seed: tuple[int, ...]) -> None:
    """Writes `frames` pairs of one map as a sequence, ids from 0."""
    rng = np.random.default_rng(seed)
    # resampled photographs dip slightly below 0
    panorama = np.maximum(read_image(path, 3), 0)
    scene = make_scene(panorama, rng)
    cameras = camera_path(frames + 1, rng)
    for number, (first, second) in enumerate(itertools.pairwise(cameras)):
        write_frame(root, number, frame_pair(scene, first, second, size))


def main(arguments: Sequence[str] | None = None) -> None:
    command = "python -m data.hdr.environment_maps"
    parser = argparse.ArgumentParser(prog=command, description=__doc__)
    told = "gets a folder for each map, in place of the sequences there"
    parser.add_argument("--out", type=Path, required=True, help=told)
    parser.add_argument(
        "--size", type=int, default=256, help="height and width of a frame in pixels"
    )
    parser.add_argument("--frames", type=int, default=8, help="frame pairs per map")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.size < 32 or options.frames < 1:
        parser.error(
            "--size must be at least 32 and --frames at least 1, not "
            f"{options.size} and {options.frames}"
        )
    try:
        maps = fetch(options.out.parent)
        for name in sequences_of(options.out):
            shutil.rmtree(options.out / name)
        for index, path in enumerate(maps):
            root, seed = options.out / path.stem, (options.seed, index)
            render_map(path, root, options.size, options.frames, seed)
            print(f"{root}: {counted(options.frames, 'frame pair')}", flush=True)
        shares = "data.validation_share=0.25 data.test_share=0.25 data.fold=0"
        print(f"to train on them: data.source=folder data.root={options.out} {shares}")
    except DataError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
