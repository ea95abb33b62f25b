"""System `style_flow`: latents in another style, by a flow that is trained through the energy of
its end point.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.style.crops import IMAGES
from data.style.dataset import open_split
from data.style.folder import find_styles
from data.style.settings import DataSettings
from losses.style.flow import terms
from metrics.style.flow import style_accuracy, style_flow_metrics
from models.style_flow.network import VelocityUnet
from trainables.api import (
    Built,
    Composite,
    Examination,
    Finding,
    Loaders,
    Measures,
    Metric,
    Modules,
    Phase,
    Reference,
    Request,
    SystemBase,
    Tensors,
    draw_normal,
    stratified,
)
from trainables.drawing import rows, scaled
from trainables.stepping.inputs import SEED, UPDATE_SEED, batch_of
from trainables.style_flow.examine import examinations
from trainables.style_flow.forward import T0, stylise
from trainables.style_flow.images import open_codec
from trainables.style_flow.prepared import Styles, prepare_styles
from trainables.style_flow.references import references
from trainables.style_flow.settings import StyleFlowSettings
from trainables.style_flow.use import GENERATES, generate

_JUDGED_BY = ("validation.t0", "data.references", "data.validation_samples")
"""Keys that change what every metric measures."""


class StyleFlow(SystemBase[StyleFlowSettings, Styles]):
    """See `trainables.system.System` for what each member is."""

    name = "style_flow"
    Settings = StyleFlowSettings
    prepare_reads = (
        *("data.source", "data.root", "data.scale", "data.latent_source", "data.multiply"),
        *("data.seed", "data.validation_share", "data.test_share", "data.references"),
        *("data.crop", "data.crops", "data.stride", "data.held_out_crops", "data.grey"),
        *("data.field_*", "data.content", "vae.*", "classifier.*"),
    )
    generates = GENERATES
    small: Mapping[str, Any] = {
        "model.base": 8,
        "model.embedding": 8,
        "model.norm_groups": 4,
        "model.encoder_blocks": 1,
        "model.decoder_blocks": 1,
        "flow.steps": 2,
        "data.field_side": 8,
        "data.field_lengths": (0.0, 0.8),
        "data.references": 2,
        "data.crops": 12,
        "data.held_out_crops": 5,
        "vae.width": 4,
        "vae.steps": 2,
        "classifier.steps": 40,
        "classifier.width": 8,
        "loss.swd.projections": 16,
        "train.batch_size": 4,
        "train.validation_batch_size": 8,
        "train.measure_idle_terms": True,
    }

    def prepare(self, settings: StyleFlowSettings, cache: Path) -> Styles:
        return prepare_styles(settings, cache)

    def build(self, settings: StyleFlowSettings, prepared: Styles) -> Built:
        meta = {"channels": prepared.shape[0], "styles": list(prepared.names)}
        built = self.rebuild(settings, meta)
        if prepared.codec is not None:
            built.modules["codec"] = open_codec(prepared.codec_meta, prepared.codec)
            built.external = {"codec": prepared.codec}
            built.meta = {**meta, "codec": dict(prepared.codec_meta)}
        return built

    def rebuild(self, settings: StyleFlowSettings, meta: Mapping[str, Any]) -> Built:
        network: Any = VelocityUnet(settings.model, meta["channels"], len(meta["styles"]))
        network.style_names = tuple(meta["styles"])
        codec = {"codec": open_codec(meta["codec"])} if "codec" in meta else {}
        return Built(modules={"network": network, **codec}, meta=dict(meta))

    def loaders(self, settings: StyleFlowSettings, prepared: Styles) -> Loaders:
        data = settings.data
        train, validation, test = (
            open_split(prepared, split, data, settings.pairs)
            for split in ("train", "validation", "test")
        )
        return Loaders(
            train,
            validation,
            notes=prepared.notes,
            warnings=prepared.warnings,
            test=test if len(test) else None,
            units={"validation": validation.units, "test": test.units},
            order=stratified(train.targets) if settings.pairs.target_by == "pair" else None,
        )

    def phases(self, settings: StyleFlowSettings, prepared: Styles | None) -> Sequence[Phase]:
        moves = settings.t0.kind != "constant"
        phase = Phase(
            "network",
            ("network",),
            stylise,
            Composite(terms(settings), settings.loss),
            schedules={T0: settings.t0} if moves else {},
            training_schedules=(T0,) if moves else (),
            draws_by_update=True,
        )
        return [phase]

    def metrics(self, settings: StyleFlowSettings, prepared: Styles | None) -> Sequence[Metric]:
        """Without `val.style_accuracy` where the classifier is refused."""
        names = style_names(settings.data) if prepared is None else prepared.names
        judge = None if prepared is None else prepared.judge
        metrics = style_flow_metrics(column_names(names))
        if settings.classifier.steps and (prepared is None or judge is not None):
            metrics.append(style_accuracy(judge))
        return [
            dataclasses.replace(metric, reads=(*metric.reads, *_JUDGED_BY)) for metric in metrics
        ]

    def examinations(
        self, settings: StyleFlowSettings, prepared: Styles | None
    ) -> Sequence[Examination]:
        return examinations()

    def unit_key(self, settings: StyleFlowSettings) -> str:
        """Other fields, or another split of a folder's files; the embedded images are cut one
        way.
        """
        return "" if settings.data.source == "embedded" else "data.seed"

    def references(self, settings: StyleFlowSettings, prepared: Styles) -> Mapping[str, Reference]:
        return references(open_split(prepared, "train", settings.data))

    def preflight(self, settings: StyleFlowSettings, prepared: Styles) -> Sequence[Finding]:
        if settings.loss.swd.group != "style" or settings.pairs.target_by == "pair":
            return []
        return [
            Finding(
                "loss.swd.group=style compares the samples of a target style together, and "
                "pairs.target_by=seed leaves it to chance how many there are in a batch. Set "
                "pairs.target_by=pair, which gives every batch its share of each."
            )
        ]

    def audit_tensors(
        self, settings: StyleFlowSettings, prepared: Styles
    ) -> Mapping[str, tuple[Tensors, Tensors]]:
        """End points near their sources: beyond its margin nothing repels."""
        loaders = self.loaders(settings, prepared)
        batch = batch_of(loaders, "train", [(index, 17 + index) for index in range(4)])
        batch[UPDATE_SEED] = torch.full((4,), 5)
        latent = batch["latent"]

        def normal(name: str) -> Tensor:
            return draw_normal(batch[SEED], f"audit.{name}", latent.shape[1:])

        prediction = {name: normal(name) for name in ("x0", "velocity")}
        prediction["x1"] = latent + 0.3 * normal("x1")
        prediction["divergence"] = 5.0 * normal("divergence").flatten(1)[:, 0]
        return {"network": (prediction, batch)}

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        """Rows of the sources, the end points and a reference of each, their first channel."""
        shown = (batch["latent"], prediction["x1"], batch["references"][:, 0])
        return rows(*(scaled(x[:, :1].float(), x[:, :1].float()) for x in shown))

    def generate(
        self, settings: StyleFlowSettings, modules: Modules, request: Request
    ) -> Measures:
        return generate(settings, modules, request)


def style_names(data: DataSettings) -> list[str]:
    """Of data that are not prepared: the folders, or those of the fields."""
    if data.source == "folder":
        return list(find_styles(Path(data.root).expanduser()))
    if data.source == "embedded":
        return list(IMAGES)
    return [f"field_{number}" for number in range(len(data.field_lengths))]


def column_names(names: Sequence[str]) -> list[str]:
    """Letters, digits and _ alone; with a number where two would be alike."""
    made = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in names]
    return [f"{name}_{place}" if made.count(name) > 1 else name for place, name in enumerate(made)]
