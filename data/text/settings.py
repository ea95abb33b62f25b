"""The settings of text data."""

from __future__ import annotations

from dataclasses import dataclass

from settings.schema import Settings, SettingsError, setting

SOURCES = ("topics", "files")


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    source: str = setting(
        "topics",
        "topics: the reference manual inside Python, a document for each topic; files: data.path",
        choices=SOURCES,
    )
    path: str = setting(
        "",
        "a text, a Parquet file, a file of JSON lines, or a folder of them. A text is a document, "
        "and so is a row of the others",
    )
    column: str = setting("text", "of Parquet and JSON lines: the column with the text")
    tokenizer: str = setting(
        "",
        "folder of a Hugging Face tokenizer on this machine (tokenizer.json); empty for bytes",
    )
    window: int = setting(
        128, "of a sample; a shorter document is padded", unit="tokens", low=2, high=1 << 20
    )
    seed: int = setting(0, "of the split", low=0)
    fold: int = setting(
        0,
        "which documents validation has: those of two folds are others; at most as many folds as "
        "its share goes into 1",
        low=0,
    )
    validation_share: float = setting(
        0.15,
        "of the documents; where there is one, of its end. The same for the test",
        low=0.001,
        high=0.9,
    )
    test_share: float = setting(0.15, "as validation_share; 0 for none", low=0.0, high=0.9)
    validation_windows: int = setting(
        0, "windows in validation, evenly spaced; 0 takes all", low=0
    )

    def check(self) -> None:
        if self.validation_share + self.test_share >= 1.0:
            raise SettingsError(
                "data.validation_share + data.test_share must leave something to train on: below "
                f"1, not {self.validation_share:g} + {self.test_share:g}."
            )
        if (self.fold + 1) * self.validation_share > 1.0 + 1e-9:
            raise SettingsError(
                f"data.fold={self.fold} with data.validation_share={self.validation_share:g} is "
                f"beyond the documents: {int(1.0 / self.validation_share + 1e-9)} folds have "
                "their own, from 0. Lower either."
            )
        if self.source == "files" and not self.path:
            raise SettingsError("data.source=files needs data.path, a file or a folder of texts.")
        if self.source != "files" and self.path:
            raise SettingsError(
                f"data.source={self.source} reads no files, but data.path={self.path} is given. "
                "Set data.source=files, or leave it out."
            )
