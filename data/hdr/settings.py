"""The settings of the data of HDR hole filling."""

from __future__ import annotations

from dataclasses import dataclass

from settings.schema import Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    source: str = setting(
        "embedded",
        "embedded: generated scenes; folder: frames from data.root",
        choices=("embedded", "folder"),
    )
    root: str = setting(
        "", "folder with warp_hole/, ref/ and hole/ (or bistro/correct/), or one of several such"
    )
    validation_root: str = setting(
        "",
        "a second folder for validation and test, in the proportion of their shares; "
        "empty splits data.root",
    )
    split: str = setting(
        "shots",
        "shots: each shot (of a folder: each sequence) is in one split; time: runs of frames; "
        "all: every frame of data.root is for validation, in crops with holes that cover it",
        choices=("shots", "time", "all"),
    )
    fold: int = setting(
        0, "turns the list of shots by so many times those of validation before it is cut", low=0
    )
    frames: int = setting(192, "frames of the embedded sequence", low=3, high=100_000)
    height: int = setting(96, "of an embedded frame", unit="pixels", low=32, high=8192)
    width: int = setting(128, "of an embedded frame", unit="pixels", low=32, high=8192)
    seed: int = setting(0, "of the embedded sequence", low=0)
    crop: int = setting(64, "side of a crop, a multiple of 16", unit="pixels", low=32, high=4096)
    stride: int = setting(
        32, "step between crops; under split=all that is crop", unit="pixels", low=1, high=4096
    )
    min_hole_share: float = setting(0.005, "smallest share of holes in a crop", low=0.0, high=1.0)
    max_crops_per_frame: int = setting(
        16, "most crops of a frame; of its crops the half with most holes is kept", low=1
    )
    validation_share: float = setting(
        0.125, "share of the shots (or frames), after those of training", low=0.0, high=0.9
    )
    test_share: float = setting(
        0.125, "share of the shots (or frames), the last ones", low=0.0, high=0.9
    )
    validation_crops: int = setting(
        0, "crops in the fixed validation subset, evenly spaced; 0 takes all", low=0
    )
    flips: bool = setting(True, "flip half of the training crops left to right")
    scale: float = setting(1.0, "radiance is divided by this", low=1e-9, high=1e9)
    max_bad_share: float = setting(
        0.05, "largest share of unusable frames before the data is refused", low=0.0, high=1.0
    )

    def check(self) -> None:
        if self.crop % 16:
            raise SettingsError(
                "data.crop must be a multiple of 16 (the network halves it four times), "
                f"not {self.crop}."
            )
        if self.validation_share + self.test_share >= 1.0:
            raise SettingsError(
                "data.validation_share + data.test_share must leave frames for training: it must "
                f"be below 1, not {self.validation_share:g} + {self.test_share:g}."
            )
        if self.fold and self.split == "time":
            raise SettingsError(
                f"data.fold={self.fold} turns a list of shots, and data.split=time cuts without "
                "one: set data.fold=0, or data.split=shots."
            )
        if self.source == "folder" and not self.root:
            raise SettingsError(
                "data.source=folder needs a folder: set data.root to that of the frames."
            )
        if self.source == "embedded" and (self.root or self.validation_root):
            raise SettingsError(
                "data.source=embedded reads no folder, but one is given: "
                f"{self.root or self.validation_root!r}. Set data.source=folder, or leave it out."
            )
        if self.source == "embedded" and self.crop > min(self.height, self.width):
            raise SettingsError(
                f"data.crop must fit into an embedded frame of {self.height}x{self.width}, "
                f"not {self.crop}."
            )
