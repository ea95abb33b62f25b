"""System `npt`: a Llama whose attention becomes an update of its MLPs, for each token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from data.text.dataset import Prepared as Text
from data.text.dataset import prepare
from losses.npt.loss import terms
from metrics.npt import npt_metrics
from models.npt.converter import Converter
from models.npt.llama import freeze, make_llama
from models.npt.student import Converters
from trainables.api import (
    Built,
    Composite,
    Examination,
    Finding,
    HealthSettings,
    Loaders,
    Measures,
    Metric,
    Modules,
    Phase,
    Reference,
    Request,
    ScheduleSettings,
    SystemBase,
)
from trainables.npt.byte_llama import text_loaders
from trainables.npt.examine import examinations, layers_of
from trainables.npt.forward import CURRICULUM, WINDOW, convert, of
from trainables.npt.references import references
from trainables.npt.settings import NptSettings
from trainables.npt.teacher import Teacher, load, prepare_teacher
from trainables.npt.use import GENERATES, generate

_JUDGED_BY = ("data.window", "data.validation_windows")
"""Keys that change what every metric measures."""


@dataclass(frozen=True)
class Prepared:
    """Text and teacher; small and picklable."""

    text: Text
    teacher: Teacher


class Npt(SystemBase[NptSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "npt"
    Settings = NptSettings
    prepare_reads = ("data.*", "teacher.*")
    small: Mapping[str, Any] = {
        "teacher.layers": 2,
        "teacher.width": 16,
        "teacher.hidden": 32,
        "teacher.heads": 2,
        "teacher.key_heads": 1,
        "teacher.steps": 150,
        "teacher.batch_size": 16,
        "teacher.lr": 0.02,
        "model.rank": 8,
        "data.window": 64,
        "data.validation_windows": 24,
        "loss.orthogonality.directions": 3,
        "train.batch_size": 4,
        "train.validation_batch_size": 8,
    }
    generates = GENERATES

    audit: Mapping[str, Any] = {"model.bottleneck": True}

    def prepare(self, settings: NptSettings, cache: Path) -> Prepared:
        text = prepare(settings.data, cache)
        return Prepared(text, prepare_teacher(settings, text, cache))

    def build(self, settings: NptSettings, prepared: Prepared) -> Built:
        teacher = prepared.teacher
        facts = load_file(teacher.facts)
        directions = facts["directions"]
        meta = {"config": dict(teacher.config), "directions": directions.shape[-1]}
        built = self._built(settings, meta, load(teacher.external.file, teacher.config))
        converters = of(built.modules)
        converters.directions.copy_(directions[list(converters.layers)])
        converters.lengths.copy_(facts["lengths"][list(converters.layers)])
        return dataclasses.replace(built, external={"teacher": teacher.external})

    def rebuild(self, settings: NptSettings, meta: Mapping[str, Any]) -> Built:
        llama: nn.Module = make_llama(meta["config"])
        freeze(llama)
        return self._built(settings, meta, llama)

    def _built(self, settings: NptSettings, meta: Mapping[str, Any], llama: nn.Module) -> Built:
        config = meta["config"]
        layers = settings.model.chosen(config["num_hidden_layers"])
        settings.npt.layers.check_for(len(layers))
        converters = Converters(
            layers,
            config["hidden_size"],
            config["intermediate_size"],
            settings.model,
            meta["directions"],
        )
        return Built(
            modules={"teacher": llama, "converter": converters},
            meta=dict(meta),
            groups={"converter": ("converter.*",)},
        )

    def loaders(self, settings: NptSettings, prepared: Prepared) -> Loaders:
        loaders = text_loaders(settings.data, prepared.text)
        teacher = prepared.teacher
        costs = {f"teacher.cost_{name}": cost.mean for name, cost in teacher.costs.items()}
        notes = {**loaders.notes, "teacher.nats": teacher.nats, **costs}
        return dataclasses.replace(loaders, notes=notes)

    def phases(self, settings: NptSettings, prepared: Prepared | None) -> Sequence[Phase]:
        loss = Composite(terms(settings), settings.loss)
        moving: dict[str, ScheduleSettings] = {}
        on_host: tuple[str, ...] = ()
        if settings.npt.layers.order != "all":
            moving, on_host = {WINDOW: settings.window}, (WINDOW,)
        if settings.npt.curriculum.enabled:
            moving[CURRICULUM] = settings.npt.curriculum.share
        return [
            Phase(
                "converter",
                ("converter",),
                convert,
                loss,
                shared=first_maps,
                schedules=moving,
                training_schedules=tuple(moving),
                host_schedules=on_host,
            )
        ]

    def metrics(self, settings: NptSettings, prepared: Prepared | None) -> Sequence[Metric]:
        return [
            dataclasses.replace(metric, reads=(*metric.reads, *_JUDGED_BY))
            for metric in npt_metrics()
        ]

    def examinations(
        self, settings: NptSettings, prepared: Prepared | None
    ) -> Sequence[Examination]:
        known = None if prepared is None else prepared.teacher.layers
        return examinations(layers_of(settings, known))

    def health(self, settings: NptSettings) -> HealthSettings:
        is_adapter = settings.model.kind == "adapter"
        return settings.health.without_pairs if is_adapter else settings.health

    def unit_key(self, settings: NptSettings) -> str:
        """Another split, and a teacher trained on other documents."""
        return "data.fold"

    def references(self, settings: NptSettings, prepared: Prepared) -> Mapping[str, Reference]:
        teacher = prepared.teacher
        return references(teacher, settings.model.chosen(teacher.layers))

    def preflight(self, settings: NptSettings, prepared: Prepared) -> Sequence[Finding]:
        """Refuses layers whose attention the teacher does well without."""
        teacher = prepared.teacher
        chosen = [str(at) for at in settings.model.chosen(teacher.layers)]
        idle = [at for at in chosen if not teacher.costs[at].is_seen]
        if not idle:
            return []
        values = ", ".join(
            f"{at}: {teacher.costs[at].mean:.3f} ± {teacher.costs[at].error:.3f}" for at in idle
        )
        return [
            Finding(
                "leaving out attention costs the teacher no more than two standard errors over "
                f"documents in these layers, in nats a token ({values}): there is nothing to "
                "learn. Train it longer (teacher.steps), or leave them out of model.layers.",
                hopeless=True,
            )
        ]

    def generate(self, settings: NptSettings, modules: Modules, request: Request) -> Measures:
        return generate(settings, modules, request)


def first_maps(modules: Modules) -> list[nn.Parameter]:
    """W_down of every converter, on which all terms depend."""
    converters: list[Converter] = list(of(modules).each.values())  # type: ignore[arg-type]
    weights: list[Any] = [converter.down.weight for converter in converters]
    return weights
