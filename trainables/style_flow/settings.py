"""The settings of system `style_flow`."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.style.settings import DataSettings, PairSettings
from losses.style.flow import LossSettings
from losses.style.terms import SwdSettings
from metrics.style.flow import StyleHealthSettings
from models.style_flow.settings import FlowSettings, ModelSettings
from trainables.api import (
    OptimizerSettings,
    ScheduleSettings,
    Settings,
    SettingsError,
    SystemSettings,
    TrainSettings,
    setting,
)
from trainables.style_flow.classifier import ClassifierSettings
from trainables.style_flow.images import ImageVaeSettings


@dataclass(frozen=True, kw_only=True)
class LabelDropSettings(Settings):
    """Training samples that are not told their target style, for guidance."""

    share: float = setting(0.1, "of the samples; 0 for none, and no guidance", low=0.0, high=1.0)
    per: str = setting(
        "sample",
        "each sample by itself, or the document's, all of an update or none (002-M13)",
        choices=("sample", "update"),
    )


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(Settings):
    """Where the flow of a validation sample starts, whatever a training draws."""

    t0: float = setting(
        0.8, "0 is noise alone, which knows nothing of the source; 1 the source", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class StyleFlowSettings(SystemSettings):
    """The defaults are the demo: three styles of Gaussian fields, CPU-sized."""

    model: ModelSettings = field(default_factory=lambda: ModelSettings(base=16))
    # Below t0_low the noise leaves too little of a white field for anything to be learnt of it,
    # above t0_high no way is left to another style. Memory holds four steps of so small a network.
    flow: FlowSettings = field(
        default_factory=lambda: FlowSettings(t0_low=0.5, t0_high=0.8, checkpointing=False)
    )
    t0: ScheduleSettings = field(default_factory=ScheduleSettings)
    label_drop: LabelDropSettings = field(default_factory=LabelDropSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    loss: LossSettings = field(default_factory=lambda: LossSettings(swd=SwdSettings(weight=10.0)))
    vae: ImageVaeSettings = field(default_factory=ImageVaeSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    data: DataSettings = field(
        # of longer correlations a field of this side has too few patches to be told by
        default_factory=lambda: DataSettings(
            source="fields", held_out_crops=16, field_lengths=(0.0, 0.4, 0.8)
        )
    )
    pairs: PairSettings = field(default_factory=PairSettings)
    health: StyleHealthSettings = field(default_factory=StyleHealthSettings)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=4e-3, weight_decay=1e-5, warmup=0.05, final=0.01
        )
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=300, batch_size=8, report_every=150, validation_batch_size=16
        )
    )

    def check(self) -> None:
        data, swd = self.data, self.loss.swd
        cells = self.vae.factor * self.model.divisor
        if data.source == "embedded" and not self.vae.folder and data.crop % cells:
            raise SettingsError(
                f"data.crop must be a multiple of {cells} (vae.factor={self.vae.factor}, and two "
                f"halvings of the latent), not {data.crop}."
            )
        if swd.dropped == "pooled" and self.label_drop.share and not self.pairs.pooled_references:
            raise SettingsError(
                "loss.swd.dropped=pooled compares samples without their style with references of "
                "any styles: set pairs.pooled_references=true, or loss.swd.dropped=content."
            )
        if data.source == "fields":
            self._check_fields()

    def _check_fields(self) -> None:
        data, weights = self.data, self.loss.swd.style_weights
        divisor, styles = self.model.divisor, len(data.field_lengths)
        if data.field_side % divisor:
            raise SettingsError(
                f"data.field_side must be a multiple of {divisor} (two halvings), not "
                f"{data.field_side}."
            )
        if len(weights) not in (0, styles):
            raise SettingsError(
                f"loss.swd.style_weights has a number for each of the {styles} styles, or none, "
                f"not {len(weights)}."
            )
