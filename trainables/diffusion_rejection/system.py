"""The system of the head by which rejection sampling (DiffRS) judges the images of a diffusion:

    python -m ray_jobs.train trainables.diffusion_rejection:DiffusionRejection \\
        diffusion.checkpoint=runs/first --no-ray --dir runs/head
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from losses.diffusion_rejection import TERMS
from metrics.diffusion_rejection import rejection_metrics
from models.diffusion.rejection_head import RejectionHead
from trainables.api import (
    Built,
    Composite,
    Finding,
    Loaders,
    Metric,
    Phase,
    Reference,
    SystemBase,
)
from trainables.diffusion_rejection.forward import FROZEN, HEAD, judged
from trainables.diffusion_rejection.frozen import base_settings, made
from trainables.diffusion_rejection.references import references
from trainables.diffusion_rejection.samples import Prepared, fixed_pairs, prepare, train_pairs
from trainables.diffusion_rejection.settings import RejectionHeadSettings
from trainables.external import read_tensors


class DiffusionRejection(SystemBase[RejectionHeadSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "trainables.diffusion_rejection:DiffusionRejection"
    Settings = RejectionHeadSettings
    prepare_reads = ("diffusion.*", "samples.*")
    small: Mapping[str, Any] = {
        "head.width": 8,
        "head.norm_groups": 4,
        "samples.train": 8,
        "samples.held_out": 4,
        "samples.steps": 2,
        "train.batch_size": 4,
        "train.validation_batch_size": 8,
    }
    originals: Mapping[str, Any] = {"augment.kind": "none"}

    def prepare(self, settings: RejectionHeadSettings, cache: Path) -> Prepared:
        return prepare(settings, cache)

    def build(self, settings: RejectionHeadSettings, prepared: Prepared) -> Built:
        built = self.rebuild(settings, prepared.meta)
        built.modules[FROZEN].load_state_dict(read_tensors(prepared.weights.file))
        return dataclasses.replace(built, external={FROZEN: prepared.weights})

    def rebuild(self, settings: RejectionHeadSettings, meta: Mapping[str, Any]) -> Built:
        frozen = made(meta)
        head = RejectionHead(settings.head, frozen.features, frozen.settings.model.spatial_dims)
        return Built(modules={FROZEN: frozen, HEAD: head}, meta=meta)

    def loaders(self, settings: RejectionHeadSettings, prepared: Prepared) -> Loaders:
        base = base_settings(prepared.meta)
        fixed = {split: fixed_pairs(prepared, base, split) for split in ("validation", "test")}
        units = {
            split: [pairs.unit(index) for index in range(len(pairs))]
            for split, pairs in fixed.items()
        }
        return Loaders(
            train_pairs(settings, prepared, base),
            fixed["validation"],
            notes=prepared.data.notes,
            warnings=prepared.data.warnings,
            test=fixed["test"] if len(fixed["test"]) else None,
            units=units,
        )

    def phases(
        self, settings: RejectionHeadSettings, prepared: Prepared | None
    ) -> Sequence[Phase]:
        return [Phase("head", (HEAD,), judged, Composite(TERMS, settings.loss))]

    def metrics(
        self, settings: RejectionHeadSettings, prepared: Prepared | None
    ) -> Sequence[Metric]:
        return rejection_metrics()

    def preflight(self, settings: RejectionHeadSettings, prepared: Prepared) -> Sequence[Finding]:
        condition = base_settings(prepared.meta).condition
        is_masked = condition.mask.enabled or condition.sizes.enabled
        if not is_masked or settings.augment.kind == "none":
            return []
        return [
            Finding(
                "images are generated under masks as they are, and with "
                f"augment.kind={settings.augment.kind} real ones are under moved masks: the head "
                "would tell them by their masks. Set augment.kind=none.",
                hopeless=True,
            )
        ]

    def references(
        self, settings: RejectionHeadSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        frozen: Any = self.build(settings, prepared).modules[FROZEN]
        return references(train_pairs(settings, prepared, frozen.settings), frozen)
