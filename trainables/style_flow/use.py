"""The use of a trained flow: latents in, latents of another style out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.files import DataError
from data.style.files import SUFFIXES, read_latent
from models.style_flow.conditioning import NULL_STYLE
from models.style_flow.network import VelocityUnet
from models.style_flow.sampling import inversion_error, transfer
from models.style_flow.settings import SamplingSettings
from trainables.api import (
    Generates,
    Measures,
    Modules,
    Request,
    Settings,
    SettingsError,
    setting,
)
from trainables.drawing import rows, scaled, write_png
from trainables.style_flow.forward import judged_at, of
from trainables.style_flow.image_files import codec_of, draw_images, read_images
from trainables.style_flow.settings import StyleFlowSettings


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Settings):
    """What `generate` is asked for."""

    style: str = setting("", "the style to give: one that was trained")
    source_style: str = setting(
        "",
        "the style of the inputs, in which sampling.begin=inverted inverts them; empty where it "
        "is not known",
    )
    sampling: SamplingSettings = field(default_factory=SamplingSettings)


GENERATES = Generates(
    "a latent (.pt, .npy, .safetensors) or a folder of latents; after a training on images an "
    "image, or a folder of images",
    draws=True,
    batch_size=8,
    options=GenerateSettings,
)


def generate(settings: StyleFlowSettings, modules: Modules, request: Request) -> Measures:
    """Writes `<index>.npy` for every sample, a latent in the style, and a PNG of each batch: rows
    of the sources and of the results, their first channel from its least to its greatest value.
    After a training on images these are images: `<index>.png` for each sample, and rows of the
    sources, of a training crop of the style, and of the results.

    Raises:
        SettingsError: a style that was not trained, or guidance that was not learnt.
        DataError: there is no latent or image, or one of another shape.
    """
    options: GenerateSettings = request.options
    network, sampling = of(modules), options.sampling
    if sampling.t0 < 0.0:
        sampling = dataclasses.replace(sampling, t0=judged_at(settings))
    names: Sequence[str] = modules["network"].style_names  # type: ignore[assignment]
    if sampling.guidance.is_on and not settings.label_drop.share:
        raise SettingsError(
            "guidance asks for the velocity without a style, and this network was trained with "
            "label_drop.share=0. Set sampling.guidance.start=1 and sampling.guidance.end=1, or "
            "train with a share above 0."
        )
    target = _style("style", options.style, names)
    inverted_as = (
        _style("source_style", options.source_style, names) if options.source_style else None
    )
    device = next(network.parameters()).device
    codec = codec_of(modules)
    if codec is None:
        contents = _read(request.given, settings, network)
    else:
        contents = read_images(request.given, codec.factor * settings.model.divisor)
    errors: list[Tensor] = []
    samples = 0
    for indices, seeds in request.batches(len(contents)):
        given = torch.stack([contents[index // request.count] for index in indices]).to(device)
        content = given if codec is None else codec.encode(given)
        source = torch.full(
            (len(content),), NULL_STYLE if inverted_as is None else inverted_as, device=device
        )
        wanted = torch.full_like(source, target)
        with torch.no_grad():
            x = transfer(network, content, source, wanted, seeds.to(device), sampling)
            if sampling.begin == "inverted":
                errors.append(inversion_error(network, content, source, sampling).cpu())
        for index, one in zip(indices, x.cpu().numpy(), strict=True):
            np.save(request.target / f"{index:06d}.npy", one)
        if codec is None:
            shown = [values[:, :1].float().cpu() for values in (content, x)]
            drawn = rows(*(scaled(values, values) for values in shown))
        else:
            drawn = draw_images(codec, given, x, target, indices, request.target)
        write_png(request.target / f"grid_{indices[0]:06d}.png", drawn)
        samples += len(indices)
    if sampling.begin == "noised":
        return {"samples": float(samples)}
    known = torch.cat(errors) if errors else torch.zeros(0)
    error = (float(known.double().sum()), float(known.numel()))
    return {"samples": float(samples), "inversion_error": error}


def _style(key: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise SettingsError(
            f"{key} must be one of the styles that were trained, {', '.join(names)}, not "
            f"{name or 'nothing'}. Set {key}={names[0]}, say."
        )
    return list(names).index(name)


def _read(source: Path, settings: StyleFlowSettings, network: VelocityUnet) -> list[Tensor]:
    """The latents of a file, or of a folder in the order of their names, as the network knows
    them.
    """
    paths = [source]
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix in SUFFIXES)
    if not paths:
        raise DataError(f"{source}: expected latents ({', '.join(SUFFIXES)}), found none.")
    divisor = settings.model.divisor
    latents: list[Tensor] = []
    for path in paths:
        values, _ = read_latent(path)
        first = latents[0].shape if latents else values.shape
        fits = values.shape[0] == network.channels and not any(
            n % divisor for n in values.shape[1:]
        )
        if not fits or values.shape != tuple(first):
            raise DataError(
                f"{path}: expected a latent of {network.channels} channels, its sides multiples "
                f"of {divisor} and equal in all files, found {list(values.shape)}."
            )
        latents.append(torch.from_numpy(values).float() * settings.data.multiply)
    return latents
