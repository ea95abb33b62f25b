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
    ScheduleSettings,
    Settings,
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
    steps: int = setting(1000, "of its training", low=1)
    batch_size: int = setting(4, "windows per step of its training", low=1, high=65536)
    lr: float = setting(1e-2, "peak learning rate of its training", low=1e-9, high=1.0)
    seed: int = setting(0, "of its training", low=0)

    @property
    def network(self) -> LlamaSettings:
        """The part that the module is built from."""
        return LlamaSettings(**{f.name: getattr(self, f.name) for f in fields(LlamaSettings)})


@dataclass(frozen=True, kw_only=True)
class LayersSettings(Settings):
    """When which of the converted layers learns. A layer outside of its window keeps its weights
    and its optimizer's moments; it is the teacher's own until its window opens. Before the first
    window and after the last one all learn.
    """

    order: str = setting(
        "all", "all layers throughout, or one by one from the first", choices=("all", "one_by_one")
    )
    start: float = setting(
        0.0, "where the first window opens", unit="of train.steps", low=0.0, high=1.0
    )
    length: float = setting(0.25, "of each window", unit="of train.steps", low=1e-3, high=1.0)

    def window(self, count: int) -> ScheduleSettings:
        """The place of the layer that learns, from 1; 0 where all do.

        Args:
            count: of the layers; 0 where it is not known, then as many as there is time for.
        """
        if self.order == "all":
            return ScheduleSettings(kind="staircase", positions=(0.0,), factors=(0.0,))
        most = int((1.0 - self.start) / self.length + 1e-9)
        ends = [self.start + place * self.length for place in range((count or most) + 1)]
        factors = [float(place) for place in range(1, len(ends))]
        before = [] if self.start == 0.0 else [(0.0, 0.0)]
        knots = before + list(zip((min(end, 1.0) for end in ends), [*factors, 0.0], strict=True))
        positions, values = zip(*knots, strict=True)
        return ScheduleSettings(kind="staircase", positions=positions, factors=values)

    def check_for(self, count: int) -> None:
        """
        Raises:
            SettingsError: the windows of `count` layers last longer than a training.
        """
        end = self.start + count * self.length
        if self.order == "one_by_one" and end > 1.0 + 1e-9:
            raise SettingsError(
                f"npt.layers: the windows of {count} layers of length {self.length:g} from "
                f"{self.start:g} on end at {end:g} of the training, and must at 1. Set "
                f"npt.layers.length={(1.0 - self.start) / count:.3g} or less."
            )


LEAST_SHARE = 0.05
"""Below it a term may have no token at all to be a mean over."""


@dataclass(frozen=True, kw_only=True)
class CurriculumSettings(Settings):
    """Tokens whose attention is short come first: in each layer those below the quantile of |a|
    that `prepare` has measured of the teacher (003-M8).
    """

    enabled: bool = setting(False, "tokens with a short a first; the last stage should have all")
    share: ScheduleSettings = field(
        default_factory=lambda: ScheduleSettings(kind="linear", first=0.3, last=1.0, end=0.5)
    )

    def check(self) -> None:
        node = self.share
        values = {
            "constant": (1.0,),
            "warmup": (0.0, 1.0),
            "stages": node.factors,
            "staircase": node.factors,
        }.get(node.kind, (node.first, node.last))
        if self.enabled and not all(LEAST_SHARE <= value <= 1.0 for value in values):
            raise SettingsError(
                f"npt.curriculum.share must lie between {LEAST_SHARE:g} and 1, and its schedule "
                f"({node.kind}) has {', '.join(f'{value:g}' for value in values)}. Set its first "
                "and last, or its factors."
            )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """What of a training moves with its steps, beside the weights of the terms."""

    layers: LayersSettings = field(default_factory=LayersSettings)
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)


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


OF_PAIRS = (
    "encoding",
    "regularisation",
    "guidance",
    "variance",
    "bottleneck",
    "modulation",
    "orthogonality",
)
"""Terms of what an adapter has not."""


@dataclass(frozen=True, kw_only=True)
class NptSettings(SystemSettings):
    """The defaults are the demo: a teacher of bytes, CPU-sized."""

    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    model: ConverterSettings = field(default_factory=ConverterSettings)
    npt: TrainingSettings = field(default_factory=TrainingSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=lambda: DataSettings(validation_windows=256))
    # Before the clip the first updates have gradients of hundreds to thousands (docs/npt.md).
    health: NptHealthSettings = field(
        default_factory=lambda: NptHealthSettings(gradient_norm_high=1e4, gradient_norm_stop=1e5)
    )
    optimizer: NptOptimizer = field(
        default_factory=lambda: NptOptimizer(lr=3e-3, warmup=0.05, weight_decay=0.01)
    )
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=300, batch_size=8, report_every=100, validation_batch_size=32
        )
    )

    @property
    def layer_count(self) -> int:
        """Of the converted layers, as far as no file has to tell it; else 0."""
        return len(self.model.layers) or (0 if self.teacher.path else self.teacher.layers)

    @property
    def window(self) -> ScheduleSettings:
        return self.npt.layers.window(self.layer_count)

    def check(self) -> None:
        if self.layer_count:
            self.npt.layers.check_for(self.layer_count)
        self._check_adapter()
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

    def _check_adapter(self) -> None:
        if self.model.kind != "adapter":
            return
        told = [name for name in OF_PAIRS if getattr(self.loss, name).is_on]
        if told:
            keys = " ".join(f"loss.{name}.enabled=false" for name in told)
            raise SettingsError(
                f"model.kind=adapter has no pairs (v_a, v_b), which {', '.join(told)} read. Set "
                f"{keys}."
            )
