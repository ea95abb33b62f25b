"""Where things lie in the directory of a sweep and of a training. Each name is spelled here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EXTERNAL, STAGES, TRIALS = "external", "stages.json", "trials"


@dataclass(frozen=True)
class TrainingPaths:
    """The directory of a training; a trial of a sweep is one, whose reports lie with the sweep's.

    Attributes:
        root: the directory.
    """

    root: Path

    @property
    def settings(self) -> Path:
        """Every key with its value."""
        return self.root / "settings.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, one folder each."""
        return self.root / "checkpoints"

    @property
    def external(self) -> Path:
        """The folder of the weights of external modules: of the sweep, or the progressive
        training, that this one belongs to.
        """
        whole, root = self.root, self.root.absolute()
        if root.parent.name == TRIALS and SweepPaths(root.parents[1]).document.exists():
            whole = root.parents[1]
        elif (root.parent / STAGES).exists():
            whole = root.parent
        return whole / EXTERNAL

    @property
    def external_folders(self) -> tuple[Path, ...]:
        """Where they are looked for: a training may have been copied out of its sweep."""
        return tuple(dict.fromkeys((self.external, self.root / EXTERNAL)))

    @property
    def figures(self) -> Path:
        """The folder of the figures, one folder of PNG files each."""
        return self.root / "figures"

    @property
    def reports(self) -> Path:
        """The reports of a training that is no trial, one JSON object a line."""
        return self.root / "reports.jsonl"

    @property
    def output(self) -> Path:
        """What a trial has printed."""
        return self.root / "log.txt"

    @property
    def error(self) -> Path:
        """Why a trial failed; only there if it did."""
        return self.root / "error.txt"


@dataclass(frozen=True)
class SweepPaths:
    """The directory of a sweep (docs/sweep_directory.md).

    Attributes:
        root: the directory; `Path()` for paths that are relative to it.
    """

    root: Path

    @property
    def document(self) -> Path:
        """What the sweep is."""
        return self.root / "sweep.json"

    @property
    def log(self) -> Path:
        """Its decisions, one JSON object a line."""
        return self.root / "log.jsonl"

    @property
    def journal(self) -> Path:
        """The mirror that Optuna reads."""
        return self.root / "journal.log"

    @property
    def lock(self) -> Path:
        """Who writes."""
        return self.root / "lock"

    @property
    def reports(self) -> Path:
        """The folder of the reports, one file a trial."""
        return self.root / "reports"

    def reports_of(self, trial: int) -> Path:
        """The reports of a trial, one JSON object a line."""
        return self.root / "reports" / f"{trial:04d}.jsonl"

    @property
    def references(self) -> Path:
        """What the system's references measure on the validation samples."""
        return self.root / "references.json"

    @property
    def references_error(self) -> Path:
        """Why they could not be measured; only there in that case."""
        return self.root / "references_error.txt"

    @property
    def by_unit(self) -> Path:
        """What the winner and the documented point measure by unit on the validation samples."""
        return self.root / "by_unit.json"

    @property
    def test(self) -> Path:
        """The looks at the test split."""
        return self.root / "test.json"

    @property
    def trials(self) -> Path:
        """The folder of the trials."""
        return self.root / TRIALS

    def trial(self, trial: int) -> TrainingPaths:
        """The directory of a trial."""
        return TrainingPaths(self.root / TRIALS / f"{trial:04d}")
