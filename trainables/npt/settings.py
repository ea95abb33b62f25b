"""The settings of system `npt`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from data.text.settings import DataSettings
from losses.npt.loss import LossSettings
from metrics.npt_signs import NptHealthSettings
from models.npt.settings import ConverterSettings, LlamaSettings
from trainables.api import (
    OptimizerSettings,
    RateSettings,
    SettingsError,
    SystemSettings,
    TrainSettings,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(LlamaSettings):
    """The frozen Llama whose attention is converted: one on this machine, or one that `prepare`
    trains on the training documents.
    """

    path: str = setting(
        "", "folder of a Llama (config.json, *.safetensors); empty trains one of bytes"
    )
    steps: int = setting(300, "of its training", low=1)
    batch_size: int = setting(16, "windows per step of its training", low=1, high=65536)
    lr: float = setting(4e-3, "peak learning rate of its training", low=1e-9, high=1.0)
    seed: int = setting(0, "of its training", low=0)

    @property
    def network(self) -> LlamaSettings:
        """The part that the module is built from."""
        return LlamaSettings(**{f.name: getattr(self, f.name) for f in fields(LlamaSettings)})


@dataclass(frozen=True, kw_only=True)
class NptRates(RateSettings):
    converter: float = setting(
        1.0,
        "on the learning rate of the converters: under Adam the document's gradient x 10 is next "
        "to nothing, and a rate x 10 is not (003-M12)",
        low=1e-3,
        high=1e3,
    )


@dataclass(frozen=True, kw_only=True)
class NptOptimizer(OptimizerSettings):
    rate: NptRates = field(default_factory=NptRates)


@dataclass(frozen=True, kw_only=True)
class NptSettings(SystemSettings):
    """The defaults are the demo: a teacher of bytes, CPU-sized."""

    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    model: ConverterSettings = field(default_factory=ConverterSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=lambda: DataSettings(validation_windows=256))
    health: NptHealthSettings = field(default_factory=NptHealthSettings)
    optimizer: NptOptimizer = field(
        default_factory=lambda: NptOptimizer(lr=3e-3, warmup=0.05, weight_decay=0.01)
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=300, batch_size=8, report_every=100, validation_batch_size=32
        )
    )

    def check(self) -> None:
        node = self.loss.bottleneck
        if node.is_on and node.form == "right" and not self.model.bottleneck:
            raise SettingsError(
                "loss.bottleneck.form=right asks how much a code tells, and with "
                "model.bottleneck=false none is drawn. Set model.bottleneck=true, or "
                "loss.bottleneck.form=document."
            )
        if self.teacher.path and not self.data.tokenizer:
            raise SettingsError(
                f"teacher.path={self.teacher.path} reads tokens of its own tokenizer, and "
                "data.tokenizer is empty. Set data.tokenizer, to the same folder as a rule."
            )
