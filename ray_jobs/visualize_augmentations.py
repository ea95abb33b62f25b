"""`python -m ray_jobs.visualize_augmentations SYSTEM [key=value ...] --output FILE.png`: what a
training sees of its samples, beside the originals.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.verb import (
    OK,
    add_settings_arguments,
    cache_directory,
    finish,
    parser,
    resolved_settings,
    run_verb,
)
from settings.option import positive, whole

if TYPE_CHECKING:
    from settings.schema import Settings
    from trainables.parts import Loaders
    from trainables.system import System

_DESCRIPTION = """\
  {command} compression --output views.png
  {command} compression augment.vae.elastic_probability=1 \\
      batch_augment.enabled=true --output views.png
  {command} diffusion score_aug.enabled=true score_aug.kind=v2 \\
      --output views.png

A row is a sample, a column a batch of a training. Of volumes it shows the slice with most of the
lesions, else the middle one; channels lie side by side, and lesions are outlined. Where the system
has them, there are further figures beside it: views_each.png has each augmentation alone, and
others what a training does behind its loader."""

_LEAST_SIDE = 160  # pixels of a shown image; smaller ones are enlarged by a whole factor
_GAP, _HEADER = 4, 16  # pixels
_OUTLINE = (255, 64, 64)
_LOOKED_AT = 50
"""Samples looked at for each one that is shown, in search of lesions."""


def main(argv: Sequence[str] | None = None) -> int:
    """The verb; returns the exit status."""
    return run_verb(_visualize, make_parser().parse_intermixed_args(argv))


def make_parser() -> ArgumentParser:
    """The verb's options."""
    made = parser("visualize_augmentations", _DESCRIPTION)
    add_settings_arguments(made)
    add = made.add_argument
    add("--output", required=True, metavar="FILE", help="the figure, a .png file")
    add("--count", type=positive, default=6, metavar="N", help="samples to show (default 6)")
    add("--views", type=positive, default=4, metavar="N", help="views of each (default 4)")
    add("--seed", type=whole, default=0, metavar="N", help="which samples and views (default 0)")
    return made


def _visualize(arguments: Namespace) -> int:
    from settings.flat import replace
    from settings.schema import SettingsError
    from trainables.system import load_system

    target = Path(arguments.output).expanduser()
    if target.suffix.lower() != ".png":
        raise SettingsError(f"--output takes the name of a .png file, not {arguments.output!r}.")
    system = load_system(arguments.system)
    settings = resolved_settings(arguments, system)
    prepared = system.prepare(settings, cache_directory())
    columns: dict[str, list[dict[str, Any]]] = {}
    indices: list[int] = []
    if system.originals:
        loaders = system.loaders(replace(settings, system.originals), prepared)
        indices = _chosen(loaders.train, arguments.count, arguments.seed)
        columns["original"] = _batch(loaders, indices, 0)
    loaders = system.loaders(settings, prepared)
    indices = indices or _chosen(loaders.train, arguments.count, arguments.seed)
    for view in range(1, arguments.views + 1):
        columns[f"view {view}"] = _batch(loaders, indices, arguments.seed * 1000 + view)
    figures: dict[str, Mapping[str, Sequence[Mapping[str, Any]]]] = {"": columns}
    figures |= _further(system, settings, prepared, indices, arguments.seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"training samples {', '.join(map(str, indices))}: {target}")
    for name, shown in figures.items():
        path = target.with_stem(f"{target.stem}_{name}") if name else target
        _figure(shown).save(path)
        if name:
            print(f"{' '.join(name.split('_'))}: {path}")
    return OK


def _further(
    system: System, settings: Settings, prepared: object, indices: Sequence[int], seed: int
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The figures beside the first: each augmentation alone, and those of the system."""
    from settings.flat import replace

    plain = system.loaders(replace(settings, system.originals), prepared)
    figures: dict[str, dict[str, list[dict[str, Any]]]] = {}
    alone = system.augmentations(settings)
    if alone:
        figures["each"] = {"original": _batch(plain, indices, 0)}
    for name, changes in alone.items():
        loaders = system.loaders(replace(settings, changes), prepared)
        figures["each"][name] = _batch(loaders, indices, seed * 1000 + 1)
    views = system.augmented_views(settings, prepared, _collated(plain, indices, seed))
    for figure, columns in views.items():
        figures[figure] = {
            name: [{"image": image} for image in images] for name, images in columns.items()
        }
    return figures


def _chosen(train: Any, count: int, seed: int) -> list[int]:
    """Random samples, those with a lesion first."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(train))[: count * _LOOKED_AT].tolist()
    _image_of(train[(order[0], 0)])
    marked: list[int] = []
    for index in order:
        mask = train[(index, 0)].get("mask")
        if mask is None or len(marked) == count:
            break
        if bool(mask.any()):
            marked.append(index)
    rest = [index for index in order if index not in marked]
    return [*marked, *rest][:count]


def _batch(loaders: Any, indices: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """`image` and `mask` of each sample after the loader's own collation."""
    batch = _collated(loaders, indices, seed)
    names = [name for name in ("image", "mask") if name in batch]
    return [{name: batch[name][row] for name in names} for row in range(len(indices))]


def _collated(loaders: Loaders, indices: Sequence[int], seed: int) -> Any:
    from torch.utils.data import default_collate

    from models.draws import hash63

    samples = [loaders.train[(index, hash63(seed, index))] for index in indices]
    return (loaders.collate or default_collate)(samples)


def _image_of(sample: Mapping[str, Any]) -> Any:
    """[C, H, W] or [C, D, H, W], or an error with what there is."""
    from settings.schema import SettingsError

    image = sample.get("image")
    if image is None or image.dim() not in (3, 4):
        there = ", ".join(f"{k} {list(v.shape)}" for k, v in sample.items())
        raise SettingsError(
            "only samples with an `image` [C, H, W] or [C, D, H, W] can be drawn; a training "
            f"sample of this system has {there}."
        )
    return image


def _figure(columns: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """A Pillow image: a column with its name for each batch, a row for each sample."""
    from PIL import Image, ImageDraw

    cells = {name: [_cell(sample) for sample in samples] for name, samples in columns.items()}
    every = [cell for column in cells.values() for cell in column]
    height, width = (max(cell.shape[axis] for cell in every) for axis in (0, 1))
    rows = max(len(column) for column in cells.values())
    size = (
        len(cells) * (width + _GAP) + _GAP,
        rows * (height + _GAP) + _HEADER + _GAP,
    )
    figure = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(figure)
    for at, (name, column) in enumerate(cells.items()):
        left = _GAP + at * (width + _GAP)
        draw.text((left, 2), name, fill="black")
        for row, cell in enumerate(column):
            figure.paste(Image.fromarray(cell), (left, _HEADER + row * (height + _GAP)))
    return figure


def _cell(sample: Mapping[str, Any]) -> Any:
    """One view as bytes [H, W, 3]: channels side by side, the outline of the mask in red."""
    import numpy as np

    image, mask = _image_of(sample), sample.get("mask")
    if image.dim() == 4:
        at = image.shape[1] // 2
        if mask is not None and mask.any():
            at = int(mask[0].flatten(1).sum(dim=1).argmax())
        image = image[:, at]
        mask = None if mask is None else mask[:, at]
    factor = max(1, -(-_LEAST_SIDE // max(image.shape[-2:])))
    grey = _enlarged(np.rint(image.clamp(0, 1).numpy() * 255).astype(np.uint8), factor)
    colours = np.repeat(grey[..., None], 3, axis=-1)
    if mask is not None:
        colours[:, _outline(_enlarged(mask[0].numpy() > 0, factor))] = _OUTLINE
    return np.concatenate(list(colours), axis=1)


def _enlarged(pixels: Any, factor: int) -> Any:
    return pixels.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _outline(mask: Any) -> Any:
    """The pixels of a mask [H, W] with a neighbour outside of it, or at the border."""
    import numpy as np

    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner


if __name__ == "__main__":
    finish(main())
