"""The settings of the latents of several styles."""

from __future__ import annotations

from dataclasses import dataclass, fields

from settings.schema import Settings, SettingsError, setting

SOURCES = ("embedded", "folder", "fields")


@dataclass(frozen=True, kw_only=True)
class CropSettings(Settings):
    """Of the images inside scikit-image: what their crops are."""

    validation_share: float = setting(
        0.1, "of the files of each style; of the longer side of an image", low=0.001, high=0.9
    )
    test_share: float = setting(0.1, "as validation_share; 0 for none", low=0.0, high=0.9)
    crop: int = setting(64, "side of an embedded crop", unit="pixels", low=8, high=256)
    stride: int = setting(16, "step between embedded crops", unit="pixels", low=1, high=256)
    crops: int = setting(
        256, "embedded crops or fields of a style for training, at most", low=8, high=100_000
    )
    held_out_crops: int = setting(
        32, "embedded crops or fields of a style for validation, and for a test", low=2
    )
    grey: bool = setting(False, "embedded crops without colour, in three equal channels")

    def check(self) -> None:
        if self.validation_share + self.test_share >= 1.0:
            raise SettingsError(
                "data.validation_share + data.test_share must leave something to train on: below "
                f"1, not {self.validation_share:g} + {self.test_share:g}."
            )

    @property
    def of_crops(self) -> CropSettings:
        """The crops alone, of settings that have more."""
        values = {f.name: getattr(self, f.name) for f in fields(CropSettings)}
        return CropSettings(**values)


@dataclass(frozen=True, kw_only=True)
class DataSettings(CropSettings):
    source: str = setting(
        "embedded",
        "embedded: crops of the images inside scikit-image, for an autoencoder; folder: latents "
        "below data.root; fields: Gaussian random fields of known law",
        choices=SOURCES,
    )
    root: str = setting("", "folder with a folder of latents for each style")
    scale: float = setting(
        0.0,
        "factor that the numbers of the files were multiplied by when they were encoded; 0 takes "
        "what the files say",
        low=0.0,
        high=1e6,
    )
    latent_source: str = setting(
        "", "autoencoder that the latents are of; empty takes what the files say"
    )
    multiply: float = setting(
        1.0, "factor on the numbers of the files when they are read", low=1e-6, high=1e6
    )
    seed: int = setting(0, "of the split and of the fields", low=0)
    validation_samples: int = setting(
        0, "pairs of a latent and a target style in validation, evenly spaced; 0 takes all", low=0
    )
    references: int = setting(4, "latents of the target style in each sample", low=1, high=1024)
    content: str = setting(
        "", "the style whose latents alone are transferred; empty transfers those of all"
    )
    field_channels: int = setting(4, "of a field", low=1, high=64)
    field_side: int = setting(16, "of a field", unit="cells", low=4, high=512)
    field_lengths: tuple[float, ...] = setting(
        (0.5, 2.0, 6.0), "length of correlation of each style of fields", low=0.0, high=1e3
    )
    field_spread: float = setting(
        16.0, "largest eigenvalue of a style's channel covariance / smallest", low=1.0, high=1e6
    )

    def check(self) -> None:
        super().check()
        if self.source == "folder" and not self.root:
            raise SettingsError("data.source=folder needs data.root, the folder of the styles.")
        if self.source != "folder" and self.root:
            raise SettingsError(
                f"data.source={self.source} reads no folder, but data.root={self.root} is given. "
                "Set data.source=folder, or leave it out."
            )
        if self.source == "fields" and len(self.field_lengths) < 2:
            raise SettingsError(
                "data.field_lengths needs a length for each of 2 styles or more, not "
                f"{self.field_lengths}."
            )


@dataclass(frozen=True, kw_only=True)
class PairSettings(Settings):
    """What a training sample has beside its latent. Validation and test do not read it: they have
    every latent with each other style, against references of that.
    """

    targets: str = setting(
        "other",
        "of the target style: other than the source's, each equally likely; or permuted, the "
        "style of any training latent, as in a permutation of a batch (002-M12)",
        choices=("other", "permuted"),
    )
    target_by: str = setting(
        "seed",
        "a training sample is a latent, whose target its seed draws; or a pair of both, so that "
        "batches can have each target in given shares",
        choices=("seed", "pair"),
    )
    identity_share: float = setting(
        0.0, "of the samples whose target is their own style (002-M12)", low=0.0, high=1.0
    )
    references_of: str = setting(
        "target",
        "of the references of a training sample: the target style; or the source, itself R times, "
        "an example of what learns the identity alone (002-M1)",
        choices=("target", "source"),
    )
    pooled_references: bool = setting(
        False, "a sample has as many latents of any styles, for a loss of samples without theirs"
    )

    def check(self) -> None:
        if self.target_by == "pair" and (self.identity_share or self.targets == "permuted"):
            raise SettingsError(
                "pairs.target_by=pair has each target but the source's own equally often: it "
                f"needs pairs.targets=other and pairs.identity_share=0, not {self.targets} and "
                f"{self.identity_share:g}. Or set pairs.target_by=seed."
            )
        if self.targets == "permuted" and self.identity_share:
            raise SettingsError(
                "pairs.targets=permuted has an identity share of its own, that of the source's "
                "style among the latents: set pairs.identity_share=0, not "
                f"{self.identity_share:g}."
            )
