"""System `FieldVae`: the simulation VAE that other systems condition.

It is trained by the one loop, usually within the `prepare` of the system that needs it
(`trainables.conditioner.field_latents`), and as well by itself:
`python -m ray_jobs.train field_vae data.fields=fields.npy --dir DIR`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.fields.seen import hashes_of, packed
from data.fields.vae_dataset import (
    DataSettings,
    FieldData,
    Fields,
    blocks_of,
    open_fields,
    prepare,
)
from losses.field_vae import TERMS, LossSettings
from metrics.field_vae import MetricSettings, field_vae_metrics
from metrics.relative_l2 import relative_l2
from models.fields.field_vae import FieldVaeModel, ModelSettings
from trainables.api import (
    Built,
    Composite,
    Finding,
    Generates,
    Loaders,
    Measures,
    Metric,
    Modules,
    OptimizerSettings,
    Phase,
    Reference,
    Request,
    SystemBase,
    SystemSettings,
    Tensors,
    TrainSettings,
)
from trainables.conditioner.references import field_references

ENCODE_BATCH = 64
"""Fields that are encoded together."""


@dataclass(frozen=True, kw_only=True)
class FieldVaeSettings(SystemSettings):
    """The defaults are the demo: CPU-sized, about 10 s."""

    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=DataSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=3e-4, warmup=0.05)
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=150, batch_size=32, report_every=50, validation_batch_size=64
        )
    )


class FieldVae(SystemBase[FieldVaeSettings, Fields]):
    """See `trainables.system.System` for what each member is."""

    name = "field_vae"
    Settings = FieldVaeSettings
    prepare_reads = ("data.*",)
    generates = Generates("a .npy file of fields")
    small: Mapping[str, Any] = {
        "model.filters": (8, 6),
        # Of so few fields the principal components leave nothing to learn.
        "model.linear": False,
        "model.main_size": 4,
        "model.hier_size": 4,
        "data.count": 24,
        "data.test_count": 6,
        "data.length": 8,
        "data.probes_per_side": 3,
        "train.batch_size": 4,
        "train.validation_batch_size": 4,
    }

    def prepare(self, settings: FieldVaeSettings, cache: Path) -> Fields:
        return prepare(settings.data, cache)

    def build(self, settings: FieldVaeSettings, prepared: Fields) -> Built:
        _, length, nodes = prepared.shape
        hashes = hashes_of(open_fields(Path(prepared.path)), np.array(prepared.train))
        meta = {"length": length, "nodes": nodes, "trained_on": packed(hashes)}
        built = self.rebuild(settings, meta)
        model: Any = built.modules["vae"]
        model.fit(prepared.low, prepared.high, lambda: blocks_of(prepared))
        return built

    def rebuild(self, settings: FieldVaeSettings, meta: Mapping[str, Any]) -> Built:
        model = FieldVaeModel(settings.model, meta["length"], meta["nodes"])
        return Built(modules={"vae": model}, meta=dict(meta))

    def loaders(self, settings: FieldVaeSettings, prepared: Fields) -> Loaders:
        sizes = settings.model.main_size, settings.model.hier_shape
        return Loaders(
            FieldData(prepared, prepared.train, *sizes),
            FieldData(prepared, prepared.validation, *sizes),
            notes=prepared.notes,
            test=FieldData(prepared, prepared.test, *sizes) if prepared.test else None,
            units={
                "validation": [str(index) for index in prepared.validation],
                "test": [str(index) for index in prepared.test],
            },
        )

    def phases(self, settings: FieldVaeSettings, prepared: Fields | None) -> Sequence[Phase]:
        return [Phase("vae", ("vae",), reconstruct, Composite(TERMS, settings.loss))]

    def metrics(self, settings: FieldVaeSettings, prepared: Fields | None) -> Sequence[Metric]:
        return field_vae_metrics(settings.metric)

    def unit_key(self, settings: FieldVaeSettings) -> str:
        """A file with its training indices has none."""
        data = settings.data
        given = "" if data.train_indices else "data.split_seed"
        return given if data.fields else "data.seed"

    def references(
        self, settings: FieldVaeSettings, prepared: Fields
    ) -> Mapping[str, Reference]:
        numbers = settings.model.main_size + math.prod(settings.model.hier_shape)
        return field_references(self.loaders(settings, prepared), numbers)

    def preflight(self, settings: FieldVaeSettings, prepared: Fields) -> Sequence[Finding]:
        if prepared.low < prepared.high:
            return []
        return [
            Finding(
                f"{prepared.path}: every training value is {prepared.low:g}, so there is nothing "
                "to learn. Look at how the fields were written.",
                hopeless=True,
            )
        ]

    def generate(
        self, settings: FieldVaeSettings, modules: Modules, request: Request
    ) -> Measures:
        """Encodes and decodes the fields of a .npy file [P, T, N]: writes field.npy [P, T, N],
        main.npy [P, M] and hier.npy [P, K, h] (latents as the encoder gives them, not scaled).
        """
        fields, target = open_fields(request.given), request.target
        model: Any = modules["vae"]
        written = np.lib.format.open_memmap(
            target / "field.npy", mode="w+", dtype=np.float32, shape=fields.shape
        )
        latents, errors = [], []
        for indices, _ in request.batches(len(fields)):
            rows = slice(indices.start, indices.stop)
            latents.append(encode_fields(model, fields[rows]))
            decoded = decode_on(model, *latents[-1]).cpu()
            written[rows] = decoded.numpy()
            errors.append(relative_l2(decoded, as_tensor(fields, rows)))
        written.flush()
        for name, parts in zip(("main", "hier"), zip(*latents, strict=True), strict=True):
            np.save(target / f"{name}.npy", torch.cat(parts).numpy())
        known = torch.cat(errors)
        error = (float(known.double().sum()), known.numel())
        return {"fields": len(fields), "reconstruction_error": error}


def reconstruct(modules: Modules, batch: Tensors, settings: FieldVaeSettings) -> dict[str, Tensor]:
    """The prediction on a batch."""
    return modules["vae"](batch)


def batches_of(count: int) -> list[slice]:
    return [slice(start, start + ENCODE_BATCH) for start in range(0, count, ENCODE_BATCH)]


def as_tensor(fields: np.ndarray, rows: slice) -> Tensor:
    return torch.from_numpy(np.array(fields[rows], dtype=np.float32))


@torch.no_grad()
def encode_fields(model: FieldVaeModel, fields: np.ndarray) -> tuple[Tensor, Tensor]:
    """The latents of all fields [P, T, N] in their order: main [P, M], hier [P, K, h], on the
    CPU.
    """
    device = next(model.parameters()).device
    model.eval()
    pairs = [model.encode(as_tensor(fields, rows).to(device)) for rows in batches_of(len(fields))]
    main, hier = (torch.cat([part.cpu() for part in parts]) for parts in zip(*pairs, strict=True))
    return main, hier


@torch.no_grad()
def decode_on(model: nn.Module, main: Tensor, hier: Tensor) -> Tensor:
    """Decodes on the model's device latents that lie on another one; float32 [B, T, N]."""
    device = next(model.parameters()).device
    decode: Any = model.decode
    return decode(main.to(device), hier.to(device))
