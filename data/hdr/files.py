"""Frames of HDR hole filling on disk: the image codecs, the folder layout, and what makes a frame
bad.

    <root>/warp_hole/warped_hole-<id>.exr   the frame before, warped forward; holes are exactly 0
    <root>/ref/ref-<id>.exr                 the rendered frame
    <root>/hole/hole-<id>.exr               1 = hole; also found in bistro/correct/ and correct/
    <root>/motion/motion-<id>.exr           optional, pixels, x then y
    <root>/occlusion/occlusion-<id>.exr     optional

A root holds one sequence, or a folder of this layout for each of several, <root>/<name>/warp_hole/
and so on, with ids of its own. Every file may also be .npy ([H, W] or [H, W, C]) or .hdr. Ids are
integers and are sorted as numbers.
Shapes: C channels, H height, W width. Files hold [H, W, C], frames hold [C, H, W].
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, Float32, natural_key
from data.hdr.radiance import read_hdr, write_hdr

SUFFIXES = (".exr", ".hdr", ".npy")
REQUIRED = ("warped", "target", "hole")
INPUTS = ("warped", "hole")
"""What a frame to be filled has to have; what `REQUIRED` has beside it is not read then."""
CHANNELS: Mapping[str, int] = MappingProxyType(
    {"warped": 3, "hole": 1, "target": 3, "occlusion": 1, "motion": 2}
)
"""Channels of each part of a frame, in the order in which crops store them."""

_PLACES: Mapping[str, Sequence[tuple[str, str]]] = {
    "warped": (("warp_hole", "warped_hole"),),
    "target": (("ref", "ref"),),
    "hole": (("hole", "hole"), ("bistro/correct", "hole"), ("correct", "hole")),
    "motion": (("motion", "motion"),),
    "occlusion": (("occlusion", "occlusion"),),
}
_ROOMS = frozenset(name.split("/")[0] for places in _PLACES.values() for name, _ in places)
"""The folders of one sequence."""

_HEADERS = threading.Lock()
"""Frames are read by threads, and NumPy reads the header of a .npy by `ast.literal_eval`, which
CPython before 3.12.1 and 3.11.9 breaks off at times when two threads are in it ("SystemError: AST
constructor recursion depth mismatch", gh-106905).
"""

_EXR_NAMES = {1: ("Y",), 2: ("RG", "XY", "UV"), 3: ("RGB",)}


@dataclass(frozen=True)
class Frame:
    """One frame pair, all float32: warped, target [3, H, W] linear radiance >= 0; hole, occlusion
    [1, H, W] in {0, 1}; motion [2, H, W] in pixels. `warped` is exactly 0 where `hole` is 1.
    """

    warped: Float32
    hole: Float32
    target: Float32
    occlusion: Float32 | None = None
    motion: Float32 | None = None


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame id, by part; a required part may be missing, which makes the frame a
    bad one.

    Attributes:
        sequence: the name of its folder in the root; "" where the root itself is the sequence.
    """

    id: int
    files: Mapping[str, Path]
    sequence: str = ""

    @property
    def name(self) -> str:
        """The id, with the sequence where there is one."""
        return f"{self.sequence}/{self.id}" if self.sequence else str(self.id)


@dataclass(frozen=True)
class Repairs:
    """What was changed in a frame so that it keeps the contract of `Frame`; always counted."""

    negative_values: int = 0
    values_in_holes: int = 0


def find_frames(
    root: Path, required: Sequence[str] = REQUIRED
) -> tuple[list[FrameFiles], list[Path]]:
    """All frames of a folder, by sequence and then id, and the image files whose names fit no
    frame.

    Args:
        required: `REQUIRED`, or `INPUTS` of frames to be filled.

    Raises:
        DataError: no such folder, no sequence in it, or one beside those in its sub-folders.
    """
    if not root.is_dir():
        folders = ", ".join(f"{_PLACES[part][0][0]}/" for part in required)
        raise DataError(f"{root}: expected a folder with {folders}, found no such folder.")
    names = sequences_of(root)
    if not names:
        return _frames_of(root, "", required)
    if here := sorted(name for name in _ROOMS if (root / name).is_dir()):
        raise DataError(
            f"{root}: expected one sequence ({here[0]}/) or a folder for each of several "
            f"({names[0]}/), found both. Move the one sequence into a folder of its own."
        )
    strangers = [path for path in _beside(root, names) if path.suffix.lower() in SUFFIXES]
    frames: list[FrameFiles] = []
    for name in names:
        found, more = _frames_of(root / name, name, required)
        frames += found
        strangers += more
    return frames, strangers


def sequences_of(root: Path) -> list[str]:
    """The sub-folders of a root that hold a sequence each, img2 before img10; none where the root
    is a sequence itself, or is not there.
    """
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(
        (
            name
            for name in names
            if name not in _ROOMS
            and not name.startswith(".")
            and any((root / name / part).is_dir() for part in ("warp_hole", "ref"))
        ),
        key=natural_key,
    )


def _beside(root: Path, names: Sequence[str]) -> list[Path]:
    """The files in a root of several sequences that are in none of them."""
    others = [path for path in sorted(root.iterdir()) if path.name not in names]
    return [file for path in others for file in (sorted(path.rglob("*")) or [path])]


def _read_parts(required: Sequence[str]) -> Sequence[str]:
    """The required parts, and those that no frame has to have."""
    return [part for part in _PLACES if part in required or part not in REQUIRED]


def _frames_of(
    folder: Path, sequence: str, required: Sequence[str]
) -> tuple[list[FrameFiles], list[Path]]:
    by_id: dict[int, dict[str, Path]] = {}
    strangers: list[Path] = []
    for part in _read_parts(required):
        room, prefix = _folder_of(folder, part)
        if room is None:
            continue
        paths = _numbered(room, prefix, strangers)
        if not paths and part in REQUIRED:
            raise DataError(
                f"{room}: expected files {prefix}-<id>{'|'.join(SUFFIXES)}, found none."
            )
        for number, path in paths.items():
            by_id.setdefault(number, {})[part] = path
    frames = [FrameFiles(number, by_id[number], sequence) for number in sorted(by_id)]
    return frames, strangers


def _folder_of(root: Path, part: str) -> tuple[Path | None, str]:
    for name, prefix in _PLACES[part]:
        if (root / name).is_dir():
            return root / name, prefix
    if part not in REQUIRED:
        return None, ""
    wanted = " or ".join(f"{name}/{prefix}-<id>.exr" for name, prefix in _PLACES[part])
    present = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "an empty folder"
    raise DataError(f"{root}: expected {wanted}, found {present}.")


def _numbered(folder: Path, prefix: str, strangers: list[Path]) -> dict[int, Path]:
    pattern = re.compile(rf"{prefix}-(\d+)")
    paths: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        match = pattern.fullmatch(path.stem)
        if match is None:
            strangers.append(path)
            continue
        number = int(match[1])
        if number in paths:
            raise DataError(
                f"{folder}: expected one file for frame {number}, found {paths[number].name} "
                f"and {path.name}."
            )
        paths[number] = path
    return paths


def read_frame(frame: FrameFiles) -> tuple[Frame, Repairs]:
    """One frame, checked and brought to the contract of `Frame`.

    Raises:
        DataError: a missing or unreadable file, unequal sizes, NaN or infinite pixels.
    """
    planes, repairs = read_planes(frame, REQUIRED)
    return Frame(**planes), repairs


def read_planes(
    frame: FrameFiles, required: Sequence[str]
) -> tuple[dict[str, Float32], Repairs]:
    """The parts of a frame by the names and in the form of `Frame`; of `REQUIRED` those alone that
    are asked for.

    Raises:
        DataError: as `read_frame`.
    """
    for part in required:
        if part not in frame.files:
            have = ", ".join(sorted(path.name for path in frame.files.values()))
            raise DataError(f"frame {frame.name}: expected its {part} image, found only {have}.")
    read = [part for part in _read_parts(required) if part in frame.files]
    images = {part: read_image(frame.files[part], CHANNELS[part]) for part in read}
    first = "target" if "target" in required else "warped"
    size = images[first].shape[:2]
    for part, image in images.items():
        path = frame.files[part]
        if image.shape[:2] != size:
            raise DataError(
                f"{path}: expected {size[0]}x{size[1]} as in {frame.files[first].name}, "
                f"found {image.shape[0]}x{image.shape[1]}."
            )
        broken = int(np.count_nonzero(~np.isfinite(image)))
        if broken:
            raise DataError(
                f"{path}: expected finite values, found {broken} that are NaN or infinite."
            )
    hole = images["hole"] > 0.5
    radiance: dict[str, Float32] = {
        part: images[part] for part in ("warped", "target") if part in images
    }
    negative = sum(int(np.count_nonzero(image < 0)) for image in radiance.values())
    in_holes = int(np.count_nonzero(radiance["warped"][hole[..., 0]]))
    # Adding 0 turns -0 into 0: a hole is compared with 0 and must print as 0.
    radiance = {part: np.maximum(image, 0) + np.float32(0) for part, image in radiance.items()}
    radiance["warped"] = np.where(hole, np.float32(0), radiance["warped"])
    parts: dict[str, Float32] = {**images, **radiance, "hole": hole.astype(np.float32)}
    planes = {
        part: np.ascontiguousarray(image.transpose(2, 0, 1)) for part, image in parts.items()
    }
    return planes, Repairs(negative, in_holes)


def write_frame(root: Path, number: int, frame: Frame, suffix: str = ".exr") -> None:
    """Writes one frame in the layout above; parts that are None are not written."""
    for part in CHANNELS:
        plane: Float32 | None = getattr(frame, part)
        if plane is None:
            continue
        folder, prefix = _PLACES[part][0]
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_image(root / folder / f"{prefix}-{number}{suffix}", plane.transpose(1, 2, 0))


def read_image(path: Path, channels: int) -> Float32:
    """An image as [H, W, channels] float32. Alpha and further channels are left out."""
    readers: Mapping[str, Callable[[Path, int], NDArray[np.generic]]] = {
        ".exr": _read_exr, ".npy": _read_npy, ".hdr": lambda path, _: read_hdr(path)
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise DataError(f"{path}: expected {', '.join(SUFFIXES)}, found {suffix or 'no suffix'}.")
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none.")
    try:
        image = readers[suffix](path, channels)
    except DataError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: expected a complete {suffix} image, found one that cannot be read "
            f"({path.stat().st_size} bytes; {error})."
        ) from error
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] < channels or 0 in image.shape:
        raise DataError(
            f"{path}: expected [height, width, {channels}], found shape {list(image.shape)}."
        )
    return np.ascontiguousarray(image[..., :channels], dtype=np.float32)


def write_image(path: Path, image: Float32) -> None:
    """Writes [H, W, C] by the suffix: .exr in 32-bit float with zip compression, .npy, or .hdr (3
    channels).
    """
    image = np.ascontiguousarray(image, dtype=np.float32)
    if path.suffix == ".npy":
        np.save(path, image, allow_pickle=False)
    elif path.suffix == ".hdr":
        write_hdr(path, np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else _padded(image))
    elif path.suffix == ".exr":
        import OpenEXR

        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        names = _EXR_NAMES[image.shape[-1]][0]
        planes = {name: np.ascontiguousarray(image[..., i]) for i, name in enumerate(names)}
        OpenEXR.File(header, planes).write(str(path))
    else:
        raise DataError(
            f"{path}: images are written as {', '.join(SUFFIXES)}, not {path.suffix!r}."
        )


def _padded(image: Float32) -> Float32:
    if image.shape[-1] == 2 and image.min() < 0:
        raise DataError("motion has negative values, which .hdr cannot hold; write .exr or .npy.")
    missing = 3 - image.shape[-1]
    return np.pad(image, ((0, 0), (0, 0), (0, missing))) if missing else image


def _read_npy(path: Path, _channels: int) -> NDArray[np.generic]:
    with _HEADERS:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    image = np.array(stored)
    if image.dtype.kind not in "fbui":
        raise DataError(f"{path}: expected real numbers, found dtype {image.dtype}.")
    return image


def _read_exr(path: Path, channels: int) -> NDArray[np.generic]:
    import OpenEXR

    with OpenEXR.File(str(path), separate_channels=True) as file:
        if not file.parts:  # the library leaves out what it could not read, and prints it
            raise ValueError("no part of it is whole")
        layers: dict[str, dict[str, Any]] = {}
        for index, part in enumerate(file.parts):
            for name, channel in file.channels(index).items():
                layer, _, kind = name.rpartition(".")
                if len(file.parts) > 1 and layer != part.name():
                    layer = ".".join(filter(None, (part.name(), layer)))
                layers.setdefault(layer, {})[kind.upper()] = channel
        planes = _chosen_planes(path, layers, channels)
        return np.stack([np.array(plane.pixels) for plane in planes], axis=-1)


def _chosen_planes(
    path: Path, layers: Mapping[str, Mapping[str, Any]], channels: int
) -> Sequence[Any]:
    """The channels that are meant, of a file whose layer "" holds the channels without a layer's
    name ("R"), and layer "diffuse" those called "diffuse.R".

    Channels without a layer come first; otherwise one layer alone may have what is wanted.
    """
    for names in _EXR_NAMES[channels]:
        having = [layer for layer, planes in layers.items() if set(names) <= planes.keys()]
        if having:
            planes = layers[_one_layer(path, having)]
            return [planes[name] for name in names]
    if channels == 1:
        having = [k for k, planes in layers.items() if len(planes) == 1 or "R" in planes]
        if having:
            planes = layers[_one_layer(path, having)]
            return [planes.get("R", next(iter(planes.values())))]
    wanted = " or ".join(",".join(names) for names in _EXR_NAMES[channels])
    there = ", ".join(
        sorted(f"{layer}.{kind}".lstrip(".") for layer, kinds in layers.items() for kind in kinds)
    )
    raise DataError(f"{path}: expected channels {wanted}, found {there}.")


def _one_layer(path: Path, having: Sequence[str]) -> str:
    if "" in having:
        return ""
    if len(having) > 1:
        raise DataError(
            f"{path}: expected one layer with the channels that are wanted, found "
            f"{', '.join(sorted(having))}. Write a file with the one that is meant."
        )
    return having[0]
