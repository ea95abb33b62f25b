"""The simulation VAE as a part of another system's `prepare`: trained once, its latents of every
sample, and the frozen decoder that turns predicted latents into fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from data.cache import cache_key, cached_by, cached_folder, file_states
from data.fields.vae_dataset import open_fields, split_fields
from metrics.relative_l2 import relative_l2
from models.fields.field_vae import FrozenDecoder
from models.fields.range_scaler import RangeScaler
from trainables.api import External, external_file
from trainables.conditioner import field_vae_file
from trainables.conditioner.field_vae import batches_of, decode_on, encode_fields
from trainables.conditioner.field_vae_file import load_vae, source_files, write_module
from trainables.conditioner.field_vae_training import VaeSettings, hash_of_indices, train_or_load

__all__ = [
    "SCALERS_FILE",
    "GivenLatents",
    "Latents",
    "VaeSettings",
    "encode_all",
    "load_decoder",
    "scale_given",
    "train_or_load",
]

SCALERS_FILE = "scalers.safetensors"
"""Beside given latents that were scaled: both scalers, as one state dict."""

_DECODER_FILE = "decoder.safetensors"

Pair = tuple[Tensor, Tensor]
"""Main latents [P, M] and hierarchical codes [P, K, h]."""


@dataclass(frozen=True)
class Latents:
    """The result of `encode_all`; small and picklable.

    Attributes:
        folder: holds main.npy [P, M] and hier.npy [P, K, h], scaled, and decoder.safetensors.
        decoder: that file, with the fingerprint of its weights.
        length, nodes: T and N of the decoded fields.
        notes: counts and measures by name, for a trial's first report.
    """

    folder: str
    length: int
    nodes: int
    notes: Mapping[str, float]
    decoder: External


def encode_all(
    vae_file: Path,
    fields_path: Path,
    train_indices: np.ndarray,
    validation: np.ndarray,
    folder: Path,
) -> Latents:
    """Writes the latents of every sample below `folder`, or finds those of the same VAE there.
    Each column is scaled to +- `vae.reach` by the range of the training samples alone (000-M17).

    The notes count validation numbers beyond that range and beyond +-1, which no tanh reaches, and
    give the VAE's own error, below which no prediction of latents can get.
    """
    split = split_fields(fields_path, train_indices)

    def make(scratch: Path) -> dict[str, float]:
        model = load_vae(vae_file)
        if torch.cuda.is_available():
            model.cuda()
        values = open_fields(fields_path)
        latents = encode_fields(model, values)
        decoder = FrozenDecoder(model.settings, model.length, model.nodes)
        decoder.decoder.load_state_dict(model.decoder.state_dict())
        decoder.field_scaler.load_state_dict(model.scaler.state_dict())
        scalers = decoder.main_scaler, decoder.hier_scaler
        scaled = _write_scaled(scratch, latents, scalers, np.array(split.train))
        write_module(scratch / _DECODER_FILE, decoder)
        notes = _range_notes(scaled, scalers, validation)
        return {**notes, **_own_error(decoder, values, scaled, validation)}

    folder = folder / cache_key(file_states(source_files(vae_file)))
    notes = cached_folder(folder, make)
    frozen = external_file(folder / _DECODER_FILE)
    return Latents(str(folder), split.shape[1], split.shape[2], notes, frozen)


def load_decoder(latents: Latents) -> FrozenDecoder:
    """The frozen decoder of encoded data, on the CPU."""
    return field_vae_file.load_decoder(latents.decoder.file)


@dataclass(frozen=True)
class GivenLatents:
    """The result of `scale_given`; small and picklable.

    Attributes:
        folder: holds main.npy [P, M] and hier.npy [P, K, h], scaled, and scalers.safetensors with
            `main` and `hier` of `RangeScaler` (for the way back to the latents as given).
        meta: main_size and hier_shape.
        notes: counts by name.
    """

    folder: Path
    meta: Mapping[str, Any]
    notes: Mapping[str, float]


def scale_given(
    source: Path, train_indices: np.ndarray, validation: np.ndarray, reach: float
) -> GivenLatents:
    """Scales latents that were given (main.npy and hier.npy in `source`) as `encode_all` does, and
    writes them into a folder below `source`.
    """
    main, hier = (
        torch.from_numpy(np.load(source / f"{name}.npy", allow_pickle=False)).float()
        for name in ("main", "hier")
    )
    train = np.unique(np.asarray(train_indices, dtype=np.int64))
    meta = {"main_size": main.shape[1], "hier_shape": list(hier.shape[1:])}

    def make(scratch: Path) -> dict[str, float]:
        scalers = RangeScaler(main.shape[1:], reach), RangeScaler(hier.shape[1:], reach)
        scaled = _write_scaled(scratch, (main, hier), scalers, train)
        tensors = {
            f"{name}.{key}": value
            for name, scaler in zip(("main", "hier"), scalers, strict=True)
            for key, value in scaler.state_dict().items()
        }
        save_file(tensors, scratch / SCALERS_FILE)
        return _range_notes(scaled, scalers, validation)

    key = reach, hash_of_indices(train)
    folder, notes = cached_by(source, "scaled", key, make)
    return GivenLatents(folder, meta, notes)


def _write_scaled(
    folder: Path, latents: Pair, scalers: tuple[RangeScaler, RangeScaler], train: np.ndarray
) -> Pair:
    """Fits both scalers on the training samples and writes all samples, scaled."""
    scaled = []
    for name, values, scaler in zip(("main", "hier"), latents, scalers, strict=True):
        scaled.append(scaler.fit(values[train])(values))
        np.save(folder / f"{name}.npy", scaled[-1].numpy())
    return scaled[0], scaled[1]


def _range_notes(
    scaled: Pair, scalers: tuple[RangeScaler, RangeScaler], validation: np.ndarray
) -> dict[str, float]:
    beyond = torch.cat([part[validation].flatten(1) for part in scaled], dim=1).abs()
    reach = float(scalers[0].reach) * (1.0 + 1e-6)
    return {
        "latents.constant_columns": float(sum(scaler.constant_columns for scaler in scalers)),
        "latents.validation_values": float(beyond.numel()),
        "latents.validation_beyond_training": float((beyond > reach).sum()),
        "latents.validation_beyond_tanh": float((beyond > 1.0).sum()),
    }


def _own_error(
    decoder: FrozenDecoder, values: np.ndarray, scaled: Pair, validation: np.ndarray
) -> dict[str, float]:
    """Relative L2 of decoded true latents on validation: mean and 95th percentile."""
    if torch.cuda.is_available():
        decoder.cuda()
    errors = []
    for rows in batches_of(len(validation)):
        indices = validation[rows]
        decoded = decode_on(decoder, *(part[indices] for part in scaled)).cpu()
        true = torch.from_numpy(np.array(values[indices], dtype=np.float32))
        errors.append(relative_l2(decoded, true))
    measured = torch.cat(errors)
    if not measured.numel():
        return {}
    return {
        "vae.validation_error": float(measured.mean()),
        "vae.validation_error_p95": float(measured.quantile(0.95)),
    }
