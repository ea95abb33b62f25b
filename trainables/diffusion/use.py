"""Images from a trained network: for the verb `generate`, and as an examination of a training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.files import DataError, Float64
from data.mri.dataset import least_lesion
from data.mri.inputs import find_inputs, read_scans
from data.mri.nifti_write import write_nifti
from models.diffusion.strategies.guidance import check_guidance, is_guided
from models.diffusion.strategies.sampling import State, last, sample_path
from models.diffusion.strategies.settings import SamplingSettings
from settings.flat import replace
from settings.mri import GROUPS, MASK, MODALITIES
from settings.warning import warn
from trainables.api import (
    Drawn,
    Measures,
    Modules,
    Request,
    Settings,
    SettingsError,
    Tensors,
    setting,
)
from trainables.diffusion.filters import Filter, FilterSettings, Miss, with_retries
from trainables.diffusion.latent.autoencoder import found_again
from trainables.diffusion.prediction import predict, strategy_of
from trainables.diffusion.rejection import (
    Rejecter,
    RejectionNode,
    make_rejecter,
    open_head,
    warm_up_seeds,
)
from trainables.diffusion.settings import DiffusionSettings
from trainables.drawing import flat, rows, write_png

NOT_MET = "not_met"
"""The folder of what the filter has not taken."""


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Settings):
    """What `generate` is asked for."""

    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    modality: str = setting(
        "bravo", "of a network that was told them: which to make", choices=MODALITIES
    )
    counts: tuple[int, ...] = setting(
        (), "of a network that was told them: lesions in every bin of sizes", low=0, high=1000
    )
    control_scale: float = setting(
        1.0, "of a network with a control branch: times control.scale; 0 leaves it out", low=0.0,
        high=10.0,
    )
    filter: FilterSettings = field(default_factory=FilterSettings)
    rejection: RejectionNode = field(default_factory=RejectionNode)
    precision: str = setting("no", "mixed precision of the network", choices=("no", "bf16"))
    autoencoder: str = setting(
        "",
        "of a network on a file of latents: the checkpoint of their autoencoder, where it lies "
        "now; empty for where it lay",
    )


@dataclass(frozen=True)
class _Asked:
    """One condition: a mask [1, *S] or None, and the place of what is made.

    Attributes:
        folder: for the results of the mask's patient.
        end: of their names: which slice.
    """

    mask: Tensor | None
    affine: Float64
    folder: Path = Path()
    end: str = ""


def sampled(
    settings: DiffusionSettings,
    modules: Modules,
    batch: Tensors,
    seeds: Tensor,
    sampling: SamplingSettings,
) -> Iterator[State]:
    """The states on the way to an image for each seed, in the space, under the conditions of the
    batch, none of which is read where the settings have none.
    """
    space: Any = modules["space"]
    images = settings.data.space(settings.model.spatial_dims)
    shape = (len(space.shift), *space.size_of(images))
    none = torch.ones(len(seeds), dtype=torch.bool, device=seeds.device)

    def under(is_null: Tensor | None, x: Tensor, t: Tensor) -> Tensor:
        return predict(modules, x, t, batch, settings, is_null)

    given = none if "not_given" in batch else None

    return sample_path(
        strategy_of(settings, shape[1:]),
        functools.partial(under, given),
        seeds,
        shape,
        sampling,
        unconditional=functools.partial(under, none) if is_guided(sampling.guidance) else None,
    )


# The verb


def generate(settings: DiffusionSettings, modules: Modules, request: Request) -> Measures:
    """Writes `<index>.nii.gz` for every sample, or `<patient>/<modality>.nii.gz` where it is made
    under a mask (`_write`), in [0, 1] and with the affine of its mask or of the training's grid
    (masks: 0 and 1; two modalities: a file each), and a PNG for each batch. What the filter has
    not taken lies in `not_met/`, each with a text that says why.

    Raises:
        SettingsError: a condition that this network does not know, or guidance that it has not
            learnt; or the autoencoder of its latents is gone, or is another one.
        DataError: no mask is usable.
    """
    options: GenerateSettings = request.options
    space: Any = modules["space"]
    asked, device = _ready(settings, modules, request), space.shift.device
    settings, modules = _controlled(settings, modules, options)
    names = ("samples", "further_attempts", "not_met")
    clipped = () if settings.data.group == MASK else ("clipped_values", "values")
    counts = dict.fromkeys((*names, *clipped), 0.0)
    wanted = Filter(
        options.filter,
        options.counts,
        settings.condition.sizes.edges_mm,
        least_lesion(settings.data, settings.model.spatial_dims),
    )

    rejecter = _rejecter(settings, modules, options, asked, device)

    def made(seeds: Tensor, asked: Sequence[_Asked]) -> Tensor:
        batch = _batch(settings, options, asked, seeds, device)
        with _autocast(options.precision, device):
            if rejecter is None:
                path = sampled(settings, modules, batch, seeds.to(device), options.sampling)
                x = last(path).x
            else:
                x = rejecter.counted(batch, seeds.to(device), counts)
            image: Tensor = space.decode(x).float().cpu()
        return image

    for indices, seeds in request.batches(len(asked)):
        conditions = [asked[index // request.count] for index in indices]
        image, attempts, misses = _attempted(made, seeds, conditions, wanted)
        counts["further_attempts"] += attempts
        counts["not_met"] += len(misses)
        for miss in misses.values():
            rule = f"not_met_{miss.rule}"
            counts[rule] = counts.get(rule, 0.0) + 1.0
        counts["samples"] += len(image)
        if clipped:  # a mask is what is above 1/2
            counts["values"] += image.numel()
            counts["clipped_values"] += int(((image < 0.0) | (image > 1.0)).sum())
        image = image.clamp(0.0, 1.0)
        for place, (index, condition) in enumerate(zip(indices, conditions, strict=True)):
            _write(request, index, image[place], condition, settings, misses.get(place))
        write_png(request.target / f"grid_{indices[0]:06d}.png", rows(flat(image)))
    if counts["not_met"]:
        warn(
            f"{counts['not_met']:g} of {counts['samples']:g} met the filter in no attempt "
            f"(filter.retries={options.filter.retries}): see {request.target / NOT_MET}"
        )
    return counts


def draw(settings: DiffusionSettings, modules: Modules, request: Request) -> Drawn:
    """The images that `generate` would write, not clipped, by `sampling` alone: without filter or
    rejection.

    Raises:
        SettingsError, DataError: as `generate`.
    """
    options: GenerateSettings = request.options
    space: Any = modules["space"]
    asked, device = _ready(settings, modules, request), space.shift.device
    settings, modules = _controlled(settings, modules, options)
    images, evaluations = [], 0
    for indices, seeds in request.batches(len(asked)):
        conditions = [asked[index // request.count] for index in indices]
        batch = _batch(settings, options, conditions, seeds, device)
        with _autocast(options.precision, device):
            path = sampled(settings, modules, batch, seeds.to(device), options.sampling)
            state = last(path)
            images.append(space.decode(state.x).float().cpu())
        evaluations += state.evaluations
    return Drawn(torch.cat(images), evaluations)


def _controlled(
    settings: DiffusionSettings, modules: Modules, options: GenerateSettings
) -> tuple[DiffusionSettings, Modules]:
    """With the control branch as strong as it is asked to be; at 0 without it."""
    if options.control_scale == 0.0:
        return settings, {name: module for name, module in modules.items() if name != "control"}
    scale = settings.control.scale * options.control_scale
    return replace(settings, {"control.scale": scale}), modules


def _ready(settings: DiffusionSettings, modules: Modules, request: Request) -> list[_Asked]:
    """The conditions, once it is checked that they and the guidance fit, and a space without its
    autoencoder has it.
    """
    options: GenerateSettings = request.options
    check_guidance(options.sampling.guidance, settings.dropout)
    _check_conditions(settings, request)
    space: Any = modules["space"]
    if not space.decodes:
        dims = settings.model.spatial_dims
        space.attach(found_again(space.source, dims, options.autoencoder))
    return _asked(settings, space.affine, request)


def _rejecter(
    settings: DiffusionSettings,
    modules: Modules,
    options: GenerateSettings,
    asked: Sequence[_Asked],
    device: torch.device,
) -> Rejecter | None:
    """Rejection by the head that the options name, warmed up under the conditions in turn; None
    where they name none.
    """
    node = options.rejection
    if not node.checkpoint:
        return None
    head, seeds = open_head(node.checkpoint, modules), warm_up_seeds(node)
    conditions = [asked[index % len(asked)] for index in range(len(seeds))]
    batch = _batch(settings, options, conditions, seeds, device)
    with _autocast(options.precision, device):
        return make_rejecter(settings, modules, head, batch, options.sampling, node)


def _attempted(
    made: Callable[[Tensor, Sequence[_Asked]], Tensor],
    seeds: Tensor,
    conditions: Sequence[_Asked],
    wanted: Filter,
) -> tuple[Tensor, int, Mapping[int, Miss]]:
    """`with_retries`, or a single attempt where nothing is filtered."""
    if not wanted.settings.enabled:
        return made(seeds, conditions), 0, {}
    return with_retries(
        lambda seeds, places: made(seeds, [conditions[place] for place in places]),
        seeds,
        lambda image, place: wanted.miss(image, conditions[place].affine, conditions[place].mask),
        wanted.settings.retries,
    )


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    if precision == "no":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _check_conditions(settings: DiffusionSettings, request: Request) -> None:
    condition, counts = settings.condition, request.options.counts
    takes_masks = condition.mask.enabled or settings.control.enabled
    if request.source is not None and not takes_masks:
        raise SettingsError(
            f"--input {request.source}: this network was trained without masks "
            "(condition.mask.enabled=false, control.enabled=false). Leave out --input."
        )
    if request.source is None and condition.mask.enabled:
        raise SettingsError(
            "this network makes images under their masks: name a NIfTI mask, or folders of "
            "patients with one, by --input PATH."
        )
    filters = request.options.filter.enabled
    if filters and settings.data.group != MASK and not (takes_masks and request.source):
        raise SettingsError(
            "filter.enabled=true looks at masks, or at images under their masks, and this network "
            f"makes images without masks (data.group={settings.data.group}). Leave it out."
        )
    modality = request.options.modality
    if modality != GenerateSettings().modality and not condition.mode.enabled:
        raise SettingsError(
            f"modality={modality}: this network was not told modalities "
            f"(condition.mode.enabled=false), and makes {settings.data.group}. Leave it out."
        )
    bins = condition.sizes.bins if condition.sizes.enabled else 0
    if counts and not bins:
        raise SettingsError(
            f"counts={list(counts)}: this network was not told sizes of lesions "
            "(condition.sizes.enabled=false). Leave counts out."
        )
    if len(counts) not in (0, bins):
        raise SettingsError(
            f"counts has one number for each of the {bins} bins that this network knows "
            f"(condition.sizes), or none, not {list(counts)}."
        )


def _asked(
    settings: DiffusionSettings, grid: Sequence[Sequence[float]] | None, request: Request
) -> list[_Asked]:
    """The conditions: every slice with a lesion, or every volume, of the masks that are given."""
    if request.source is None:
        affine = np.eye(4) if grid is None else np.array(grid, np.float64)
        return [_Asked(None, affine)]
    dims = settings.model.spatial_dims
    data = replace(settings.data, {"group": MASK})
    asked = []
    for folder, files in find_inputs(request.source, MASK):
        for scan in read_scans(files, data, dims):
            volume = torch.from_numpy(scan.image)
            if dims == 3:
                asked.append(_Asked(volume, scan.affine, folder))
                continue
            for number in range(volume.shape[1]):  # all are the file's: `dims` is 2
                if bool(volume[:, number].any()):
                    affine = scan.affine.copy()
                    affine[:3, 3] += number * affine[:3, 0]
                    end = f"_slice_{number:03d}"
                    asked.append(_Asked(volume[:, number], affine, folder, end))
    if not asked:
        raise DataError(f"{request.source}: expected masks with lesions, found none.")
    return asked


def _batch(
    settings: DiffusionSettings,
    options: GenerateSettings,
    asked: Sequence[_Asked],
    seeds: Tensor,
    device: torch.device,
) -> dict[str, Tensor]:
    """The conditions of samples, as a training has them."""
    size = len(asked)
    batch = {
        "seed": seeds,
        "modality": torch.full((size,), MODALITIES.index(options.modality)),
    }
    if asked[0].mask is not None:
        batch["mask"] = torch.stack([one.mask for one in asked if one.mask is not None])
    if settings.condition.sizes.enabled:
        counts = options.counts or (0,) * settings.condition.sizes.bins
        batch["counts"] = torch.tensor(counts).expand(size, -1)
        if not options.counts:
            batch["not_given"] = torch.ones(size, dtype=torch.bool)
    return {name: value.to(device) for name, value in batch.items()}


def _write(
    request: Request,
    index: int,
    image: Tensor,
    asked: _Asked,
    settings: DiffusionSettings,
    miss: Miss | None,
) -> None:
    """`000017.nii.gz`, of two modalities `000017_t1_pre.nii.gz` and `000017_t1_gd.nii.gz`; under a
    mask `<patient>/bravo_slice_017.nii.gz`, of several samples of a mask
    `<patient>/bravo_slice_017_sample_003.nii.gz`.
    """
    group, target = settings.data.group, request.target
    names = (request.options.modality,) if group == "multi_modality" else GROUPS[group]
    if miss is not None:
        target /= NOT_MET
    for name, channel in zip(names, image.numpy(), strict=True):
        volume = channel if channel.ndim == 3 else channel[None]
        if group == MASK:
            volume = (volume > 0.5).astype(np.uint8)
        if asked.mask is None:
            stem = Path(f"{index:06d}{f'_{name}' if len(names) > 1 else ''}")
        else:
            sample = f"_sample_{index % request.count:03d}" if request.count > 1 else ""
            stem = asked.folder / f"{name}{asked.end}{sample}"
        text = f"{name}, made by {settings.strategy.kind}"
        # X, Y, Z as NIfTI has them, from D, H, W.
        placed = asked.affine[:, [2, 1, 0, 3]]
        write_nifti(target / f"{stem}.nii.gz", volume.transpose(2, 1, 0), placed, text)
        if miss is not None:
            (target / f"{stem}.txt").write_text(f"{miss.text}\n")
