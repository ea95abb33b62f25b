"""System `hdr_patch`: fill the holes of a warped HDR frame by residuals in the log domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from data.hdr.dataset import Prepared, open_split, prepare
from data.hdr.settings import DataSettings
from data.hdr.splits import unit_key
from losses.adversarial import CriticSettings, refuse_late_critic
from losses.hdr_patch import LossSettings, idle_terms, refused_keys, terms
from losses.hdr_patch_terms import mu_images
from metrics.hdr_patch import CapHealthSettings, MetricSettings, hdr_metrics
from models.discriminator import DiscriminatorSettings
from models.hdr.exposure import mu_law
from models.hdr.head import HeadSettings, LogDomainHead, largest_cap, needed_cap
from models.hdr.head import prepare as prepare_head
from models.hdr.network import HdrPatchModel, ModelSettings
from models.hdr.prefill import PREFILLS
from settings.words import counted, worded
from trainables.adversarial import check_critic, critic_modules, phases_with_critic
from trainables.api import (
    Built,
    Composite,
    Examination,
    Finding,
    Loaders,
    Measures,
    Metric,
    Modules,
    OptimizerSettings,
    Phase,
    Reference,
    Request,
    SettingsError,
    SystemBase,
    SystemSettings,
    Tensors,
    TrainSettings,
)
from trainables.drawing import rows
from trainables.hdr_patch.fill import GENERATES, fill_folder
from trainables.hdr_patch.flicker import flicker_examination, missing_pairs, with_flicker

_SAMPLE_CROPS = 64
"""Crops that the pre-flight looks at."""

_SAMPLE_VALUES = 1 << 20

_SEEN_CHANNELS = 4
"""What the critic sees: the mu-law image and the hole mask, as in the source."""

_UNTRAINABLE = (
    "data.split=all puts every frame into validation, for `evaluate`, and leaves none to train "
    "on. To train, set data.split=shots (or time)."
)

WARN_SHARE = 0.05
"""Share of unreachable hole targets above which the pre-flight speaks."""

HOPELESS_SHARE = 0.999
"""Share of unreachable hole targets from which on no training is worth its time: among 10^6 values
a few always lie near the black that is reached.
"""


def _health() -> CapHealthSettings:
    """Ten times the documents' norms: a log radiance is off by whole nats, and the demo trains
    well at norms of 50 to 75.
    """
    return CapHealthSettings(gradient_norm_high=100.0, gradient_norm_stop=500.0)


@dataclass(frozen=True, kw_only=True)
class HdrPatchSettings(SystemSettings):
    """The defaults are the demo: CPU-sized, a minute a trial. `--preset paper` has the document's
    sizes.
    """

    model: ModelSettings = field(
        default_factory=lambda: ModelSettings(width=8, use_motion=True)
    )
    hdr: HeadSettings = field(default_factory=HeadSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    data: DataSettings = field(default_factory=DataSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)
    health: CapHealthSettings = field(default_factory=_health)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=4e-3, beta2=0.98, eps=1e-6, warmup=0.05)
    )
    critic_optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=2e-3, beta1=0.5, weight_decay=0.0)
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=300, batch_size=8, report_every=50, validation_batch_size=16
        )
    )

    def check(self) -> None:
        if self.data.crop % 16 or self.data.crop < 32:
            raise SettingsError(
                "data.crop must be a multiple of 16 and at least 32 (four halvings), not "
                f"{self.data.crop}."
            )
        check_critic(self.discriminator, self.data.crop, "data.crop")


class HdrPatch(SystemBase[HdrPatchSettings, Prepared]):
    """See `trainables.system.System` for what each member is."""

    name = "hdr_patch"
    Settings = HdrPatchSettings
    prepare_reads = ("data.*",)
    refused = refused_keys()
    generates = GENERATES
    small: Mapping[str, Any] = {
        "model.width": 4,
        "data.split": "time",
        "data.frames": 6,
        "data.height": 64,
        "data.width": 96,
        "data.crop": 32,
        "data.validation_crops": 6,
        "train.batch_size": 2,
        "train.validation_batch_size": 4,
    }
    # With the mask on, valid pixels never change, so loss.context has no gradient (the pre-flight
    # says it); and a small residual is inside the safe range.
    audit: Mapping[str, Any] = {
        "hdr.mask": False,
        "hdr.prefill": "push_pull",
        "loss.range.safe_range": 0.0,
    }

    def prepare(self, settings: HdrPatchSettings, cache: Path) -> Prepared:
        return prepare(settings.data, cache)

    def build(self, settings: HdrPatchSettings, prepared: Prepared) -> Built:
        return self.rebuild(settings, {"lacking": list(prepared.lacking)})

    def rebuild(self, settings: HdrPatchSettings, meta: Mapping[str, Any]) -> Built:
        model = HdrPatchModel(settings.model, settings.hdr, meta.get("lacking", ()))
        critic = critic_modules(settings.discriminator, _SEEN_CHANNELS, dims=2)
        no_decay = frozenset(f"model.{name}" for name in model.no_decay)
        return Built(modules={"model": model, **critic}, no_decay=no_decay, meta=meta)

    def loaders(self, settings: HdrPatchSettings, prepared: Prepared) -> Loaders:
        _check_parts(settings, prepared)
        validation, test = open_split(prepared, "validation"), open_split(prepared, "test")
        return Loaders(
            open_split(prepared, "train"),
            validation,
            notes=prepared.notes,
            warnings=[
                *prepared.warnings,
                *_masked(settings, prepared),
                *missing_pairs(settings.data),
            ],
            test=test if len(test) else None,
            units={"validation": validation.units, "test": test.units},
            untrainable=_UNTRAINABLE if settings.data.split == "all" else "",
        )

    def phases(self, settings: HdrPatchSettings, prepared: Prepared | None) -> Sequence[Phase]:
        composite = Composite(terms(settings), settings.loss)
        model = Phase("model", ("model",), fill, composite, shared=last_layer)
        return phases_with_critic(model, critic_views, "radiance", "target", settings)

    def metrics(self, settings: HdrPatchSettings, prepared: Prepared | None) -> Sequence[Metric]:
        return hdr_metrics(settings.metric)

    def examinations(
        self, settings: HdrPatchSettings, prepared: Prepared | None
    ) -> Sequence[Examination]:
        return (flicker_examination(),)

    def unit_key(self, settings: HdrPatchSettings) -> str:
        return unit_key(settings.data)

    def references(
        self, settings: HdrPatchSettings, prepared: Prepared
    ) -> Mapping[str, Reference]:
        heads = {kind: dataclasses.replace(settings.hdr, prefill=kind) for kind in PREFILLS}
        return {
            f"prefill_{kind}": with_flicker(
                Reference(partial(unchanged, head), f"the first guess {kind} alone")
            )
            for kind, head in heads.items()
        }

    def picture(self, prediction: Tensors, batch: Tensors) -> Tensor:
        """Rows of the warped images, their holes black, of the filled ones and of the true ones,
        under the mu-law of the metrics' defaults.
        """
        given = batch["warped"].float() * (1.0 - batch["hole"].float())
        images, shown = (given, prediction["radiance"], batch["target"]), MetricSettings()
        return rows(*(mu_law(image.float(), shown.mu, shown.exposure) for image in images))

    def generate(
        self, settings: HdrPatchSettings, modules: Modules, request: Request
    ) -> Measures:
        return fill_folder(settings, cast(HdrPatchModel, modules["model"]), request)

    def preflight(self, settings: HdrPatchSettings, prepared: Prepared) -> Sequence[Finding]:
        """Terms that cannot work, and the share of hole targets that the cap cannot reach
        (004-M1).
        """
        refuse_late_critic(settings)
        findings = [Finding(text) for text in idle_terms(settings)]
        reach = _reach(settings, prepared)
        return findings if reach is None else [*findings, reach]


def fill(modules: Modules, batch: Tensors, settings: HdrPatchSettings) -> dict[str, Tensor]:
    """The prediction on a batch."""
    return modules["model"](batch)


def unchanged(head: HeadSettings, batch: Tensors) -> dict[str, Tensor]:
    """The prediction of a network that changes nothing: the first guess as it is."""
    module = LogDomainHead(head).to(batch["warped"].device).eval()
    return module(torch.zeros_like(batch["warped"]), module.prepare(batch))


def _check_parts(settings: HdrPatchSettings, prepared: Prepared) -> None:
    for part in settings.model.fed:
        if part not in prepared.parts:
            raise SettingsError(
                f"model.use_{part}=true feeds the {part} of a frame, and of the "
                f"{counted(prepared.counts.frames, 'frame')} in {settings.data.root} none has one "
                f"({part}/{part}-<id>). Set model.use_{part}=false, or add the files."
            )


def _masked(settings: HdrPatchSettings, prepared: Prepared) -> list[str]:
    """What is fed of some frames only, in words."""
    without = {part: int(prepared.notes[f"frames_without_{part}"]) for part in prepared.lacking}
    return [
        f"{without[part]} of {counted(prepared.counts.frames, 'frame')} "
        f"{worded(without[part], 'has', 'have')} no {part}: "
        f"model.use_{part}=true feeds zeros there, and a channel that says so"
        for part in settings.model.fed
        if part in prepared.lacking
    ]


def critic_views(
    prediction: Tensors, batch: Tensors, settings: HdrPatchSettings
) -> tuple[Tensor, Tensor]:
    """The filled and the true mu-law images [B, 4, H, W], each with the hole mask."""
    hole = batch["hole"].float()
    filled, target = mu_images(prediction, batch, settings)
    return torch.cat([filled, hole], dim=1), torch.cat([target, hole], dim=1)


def last_layer(modules: Modules) -> Sequence[nn.Parameter]:
    """The parameters at which a balancer compares gradients: every residual passes them."""
    network: Any = modules["model"].network
    return [network.output.weight]


@torch.no_grad()
def _reach(settings: HdrPatchSettings, prepared: Prepared) -> Finding | None:
    """Compares the cap with the hole targets in a sample of the training crops; None where it
    reaches nearly all of them.
    """
    head = settings.hdr
    base = prepare_head(head, _sample(prepared))
    needed = needed_cap(_sample(prepared)["target"], base["log_base"], head.epsilon)
    inside = (base["hole"] > 0.5).expand_as(needed)
    cap = largest_cap(head, base["denom"]).expand_as(needed)
    wanted = needed[inside]
    if not wanted.numel():
        return None
    share = float((wanted > cap[inside]).float().mean())
    if share <= WARN_SHARE:
        return None
    few = wanted[:: wanted.numel() // _SAMPLE_VALUES + 1]  # quantile takes 2^24 values at most
    enough = float(few.quantile(1.0 - WARN_SHARE))
    return Finding(
        f"{share:.0%} of the hole targets need a larger |log_delta| than the cap of "
        f"{float(cap[inside].max()):.1f} allows (004-M1); a cap of {enough:.1f} would reach all "
        f"but {WARN_SHARE:.0%}. Raise it, or give the holes a first guess: hdr.prefill=push_pull.",
        hopeless=share >= HOPELESS_SHARE,
    )


_samples: dict[str, dict[str, Tensor]] = {}


def _sample(prepared: Prepared) -> dict[str, Tensor]:
    """A fixed, spread-out sample of the training crops, read once in a process."""
    if prepared.folder not in _samples:
        crops = open_split(prepared, "train")
        size = len(crops)
        count = min(size, _SAMPLE_CROPS)
        samples = [crops[(index * size // count, 0)] for index in range(count)]
        _samples.clear()
        _samples[prepared.folder] = {
            key: torch.stack([sample[key] for sample in samples]) for key in samples[0]
        }
    return _samples[prepared.folder]
