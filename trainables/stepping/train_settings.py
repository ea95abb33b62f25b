"""The settings that the loop itself reads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from settings.schema import Settings, SettingsError, setting
from trainables.optimizing.optimizer import OptimizerSettings


class SystemSettings(Settings):
    """The whole tree of a system, as the loop reads it: `train`, and a node of `OptimizerSettings`
    for every phase (`Phase.optimizer`).
    """

    train: TrainSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in fields(self):  # type: ignore[arg-type]  # a dataclass
            node = getattr(self, each.name)
            if not isinstance(node, OptimizerSettings) or self.train.precision != "fp16":
                continue
            if node.sam.radius:
                raise SettingsError(
                    f"{each.name}.sam.radius={node.sam.radius:g} takes two gradients a step, and "
                    "the gradient scaler of train.precision=fp16 looks after one. Use "
                    f"train.precision=bf16, or {each.name}.sam.radius=0."
                )


Tree = TypeVar("Tree", bound=SystemSettings)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """The length of a training, its batches and precision, and the rules by which it ends."""

    steps: int = setting(
        1000, "optimizer updates of a whole training; sizes every schedule", low=1
    )
    batch_size: int = setting(8, "samples per micro-batch and worker", low=1, high=65536)
    accumulate: int = setting(1, "micro-batches per update", low=1, high=4096)
    report_every: int = setting(
        100,
        "from one validation to the next, each of which is a report; checkpoints are made at "
        "reports",
        unit="steps",
        low=1,
    )
    checkpoint_every: int = setting(
        1,
        "reports between two checkpoints; there is always one at the best report, at a rung and "
        "at the end",
        unit="reports",
        low=1,
    )
    keep_every: int = setting(
        0, "also keep checkpoints of these steps; 0 for none", unit="steps", low=0
    )
    precision: str = setting("no", "mixed precision", choices=("no", "fp16", "bf16"))
    clip_norm: float = setting(1.0, "largest gradient norm; 0 for no clipping", low=0.0, high=1e6)
    ema_decay: float = setting(
        0.0, "of the weights that are validated; 0 for none", low=0.0, high=0.99999
    )
    ema_start: int = setting(
        0, "update up to which that average is the weights themselves", unit="steps", low=0
    )
    ema_every: int = setting(
        1, "updates from one taking in of the weights to the next", unit="steps", low=1
    )
    patience: int = setting(
        0, "validations without a better objective that end a training; 0 for no end", low=0
    )
    overfit_ratio: float = setting(
        0.0,
        "validation loss over training loss that ends a training; 0 for no end",
        low=0.0,
        high=1e9,
    )
    init_from: str = setting(
        "",
        "checkpoint whose weights a training begins with: a step-* folder, or a training, of "
        "which the best is taken",
    )
    external: str = setting(
        "",
        "where the weights of frozen modules lie now, if not beside the checkpoint: a file, or a "
        "folder of some",
    )
    term_gradients: bool = setting(
        False,
        "at the step before each report, measure the gradient of every term: its norm, and the "
        "cosine of each pair",
    )
    count_flops: bool = setting(False, "count the floating-point operations of a step")
    channels_last: bool = setting(False, "images and convolutions in channels-last memory order")
    finite_check_every: int = setting(
        1,
        "look whether the gradient is finite; above 1 a step does not wait for the GPU, and an "
        "error comes later and without the term",
        unit="steps",
        low=1,
    )
    compile: bool = setting(False, "torch.compile the modules for training steps")
    max_skipped_steps: int = setting(20, "fp16 overflows in a row that end a trial", low=1)
    validation_batch_size: int = setting(16, "samples per validation batch", low=1, high=65536)
    loader_workers: int = setting(0, "processes that load training data", low=0, high=256)
    loader_prefetch: int = setting(
        0,
        "micro-batches that each loader process makes ahead; 0 for PyTorch's own number, 2",
        low=0,
        high=1024,
    )
    loader_pin_memory: bool = setting(
        False,
        "with a GPU, a thread beside the loader processes copies micro-batches to pinned memory; "
        "otherwise a step does",
    )
    test: bool = setting(
        False, "at the end, measure the best and the newest checkpoint on the test split"
    )
    tensorboard: bool = setting(True, "write TensorBoard files")
    examine_every: int = setting(
        1,
        "reports from one run of the examinations, and of the figures, to the next; 0 for the "
        "last report alone. They also run at the rungs that an examination decides",
        unit="reports",
        low=0,
    )
    measure_idle_terms: bool = setting(
        True,
        "validation also measures the terms that are off; false leaves their columns empty, but "
        "for those that an objective, a constraint or a health sign reads",
    )
    figures: bool = setting(True, "draw figures, as PNG files and into TensorBoard")
    seed: int = setting(0, "of initialisation, sample order and augmentation", low=0)

    def check(self) -> None:
        if self.count_flops and self.compile:
            raise SettingsError(
                "train.count_flops counts eager operations, which train.compile=true has none of. "
                "Count with train.compile=false; the number is the same."
            )
        if self.finite_check_every > 1 and self.precision == "fp16":
            raise SettingsError(
                f"train.finite_check_every={self.finite_check_every} saves nothing under "
                "train.precision=fp16, whose gradient scaler looks at every step to skip those "
                "that overflow. Use train.finite_check_every=1, or train.precision=bf16."
            )
        if self.loader_workers == 0 and (self.loader_prefetch or self.loader_pin_memory):
            key = "loader_prefetch" if self.loader_prefetch else "loader_pin_memory"
            value = str(getattr(self, key)).lower()
            raise SettingsError(
                f"train.{key}={value} is about what loader processes make ahead, and "
                "train.loader_workers=0 has none: every batch is made and pinned when its step "
                "asks for it. Use train.loader_workers=1 or more, or leave the key out."
            )
        if 0.0 < self.overfit_ratio <= 1.0:
            raise SettingsError(
                f"train.overfit_ratio must be 0 (no end) or above 1, not {self.overfit_ratio}: "
                "the validation loss of a sound training is about its training loss."
            )

    def loading(self, gpu: bool) -> dict[str, Any]:
        """The options of the DataLoader of training samples. What pins memory needs a GPU."""
        return {
            "num_workers": self.loader_workers,
            "prefetch_factor": self.loader_prefetch or None,
            "pin_memory": self.loader_pin_memory and gpu,
        }


def computes(precision: str, gpu: bool) -> bool:
    """Whether a training with a GPU, or without one, computes in this `train.precision`."""
    return gpu or precision != "fp16"
