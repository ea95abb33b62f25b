"""System `ByteLlama`: a small Llama of a user's text, or of Python's manual.

It is trained by the one loop, usually within the `prepare` of npt, whose teacher it is
(`trainables.npt.teacher`), and as well by itself:
`python -m ray_jobs.train trainables.npt.byte_llama:ByteLlama --no-ray --dir DIR`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.text.dataset import Prepared, notes, open_split, prepare, warnings
from data.text.settings import DataSettings
from losses.next_token import TERMS, LossSettings
from metrics.npt import language_metrics
from models.npt.llama import config_of, logits_of, make_llama
from models.npt.settings import LlamaSettings
from trainables.api import (
    Built,
    Composite,
    Loaders,
    Metric,
    Modules,
    OptimizerSettings,
    Phase,
    Reference,
    SystemBase,
    SystemSettings,
    Tensors,
    TrainSettings,
)

_LARGEST_PAIRS = 1024
"""Vocabulary above which pairs of tokens are not counted: they are its square."""


@dataclass(frozen=True, kw_only=True)
class ByteLlamaSettings(SystemSettings):
    """The defaults are CPU-sized: 0.33 M parameters."""

    model: LlamaSettings = field(default_factory=LlamaSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=1e-2, warmup=0.05, weight_decay=0.1, beta2=0.98
        )
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=1000, batch_size=4, report_every=250, validation_batch_size=64
        )
    )


class ByteLlama(SystemBase[ByteLlamaSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "trainables.npt.byte_llama:ByteLlama"
    Settings = ByteLlamaSettings
    prepare_reads = ("data.*",)
    small: Mapping[str, Any] = {
        "model.layers": 2,
        "model.width": 16,
        "model.hidden": 32,
        "model.heads": 2,
        "model.key_heads": 1,
        "data.window": 32,
        "data.validation_windows": 24,
        "train.batch_size": 4,
        "train.validation_batch_size": 8,
    }

    def prepare(self, settings: ByteLlamaSettings, cache: Path) -> Prepared:
        return prepare(settings.data, cache)

    def build(self, settings: ByteLlamaSettings, prepared: Prepared) -> Built:
        config = config_of(
            settings.model, prepared.vocabulary, prepared.separator, settings.data.window
        )
        return self.rebuild(settings, {"config": dict(config)})

    def rebuild(self, settings: ByteLlamaSettings, meta: Mapping[str, Any]) -> Built:
        return Built(modules={"llama": make_llama(meta["config"])}, meta=dict(meta))

    def loaders(self, settings: ByteLlamaSettings, prepared: Prepared) -> Loaders:
        return text_loaders(settings.data, prepared)

    def phases(self, settings: ByteLlamaSettings, prepared: Prepared | None) -> Sequence[Phase]:
        return [Phase("llama", ("llama",), predict, Composite(TERMS, settings.loss))]

    def metrics(self, settings: ByteLlamaSettings, prepared: Prepared | None) -> Sequence[Metric]:
        return language_metrics()

    def unit_key(self, settings: ByteLlamaSettings) -> str:
        return "data.fold"

    def references(
        self, settings: ByteLlamaSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        return frequencies(settings.data, prepared)


def predict(modules: Modules, batch: Tensors, settings: ByteLlamaSettings) -> dict[str, Tensor]:
    return {"logits": logits_of(modules["llama"], batch["tokens"])}


def text_loaders(data: DataSettings, prepared: Prepared) -> Loaders:
    """All splits; documents are the units."""
    splits = ("train", "validation", "test")
    train, validation, test = (open_split(prepared, split, data) for split in splits)
    return Loaders(
        train,
        validation,
        notes=notes(prepared, data),
        warnings=warnings(prepared, data),
        test=test if len(test) else None,
        units={"validation": validation.units, "test": test.units},
    )


def frequencies(data: DataSettings, prepared: Prepared) -> dict[str, Reference]:
    """How often a token is, and how often it follows another, in the training documents."""
    tokens = open_split(prepared, "train", data).tokens.astype(np.int64)
    size = prepared.vocabulary
    single = torch.from_numpy(np.bincount(tokens, minlength=size) + 1.0)

    def alone(batch: Tensors) -> Tensors:
        logits = single.log().float().to(batch["tokens"].device)
        return {"logits": logits.expand(*batch["tokens"].shape, -1)}

    references = {"unigram": Reference(alone, "how often a token is in the training documents")}
    if size > _LARGEST_PAIRS:
        return references
    pairs = np.bincount(tokens[:-1] * size + tokens[1:], minlength=size**2)
    # what never follows is as likely as the token itself, at the cost of one count
    counts = torch.from_numpy(pairs.reshape(size, size)) + single / single.sum()

    def after(batch: Tensors) -> Tensors:
        table = counts.log().float().to(batch["tokens"].device)
        return {"logits": table[batch["tokens"]]}

    references["bigram"] = Reference(after, "how often a token follows the one before it")
    return references
