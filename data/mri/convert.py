"""The conversion of brain-MRI patients to stored samples, with its counts and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.files import DataError
from data.mri.files import PatientFiles, read_patient
from data.mri.lesions import Lesions, lesions_of, size_classes
from data.mri.store import SplitWriter
from data.mri.volumes import Cut, CutCounts, Rules, cut
from settings.mri import GROUPS, MASK, SIZE_NAMES, channels_of

_NAMED_PATIENTS = 5  # how many unusable patients a warning or an error names

_LESION_COUNTS = tuple(f"lesions_{size}" for size in SIZE_NAMES)
_BY_SPLIT = (
    *("patients", "samples", "left_out", "with_lesions", "emptied_masks"),
    *(*_LESION_COUNTS, "ignored_lesions"),
)
_TOTALS = (
    *("bad_patients", "unrecognised_files", "without_seg", "segs_with_other_values"),
    *("negative_images", "cropped_slices", "padded_slices"),
)


_WARNINGS = {
    "without_seg": "{} patients have no seg file: they count as without lesions.",
    "segs_with_other_values": "the seg files of {} patients hold other values than 0 and 1: "
    "lesion is what lies above 0.5.",
    "negative_images": "{} images have values below 0, which MRI has not (CT, or interpolation): "
    "their least value counts as background.",
}
"""The warning for a count above 0."""


class Conversion:
    """Writes the samples of every split and counts.

    Attributes:
        counts: by name, those of a split as <name>.<split>.
        patients: names of those used, by split.
        bad: what is wrong with each of the others.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counts = dict.fromkeys(_TOTALS, 0)
        self.patients: dict[str, list[str]] = {}
        self.bad: list[str] = []

    def write(self, split: str, patients: Sequence[PatientFiles], folder: Path) -> None:
        self.counts |= {f"{name}.{split}": 0 for name in _BY_SPLIT}
        self.patients[split] = []
        group, space = self.rules.group, self.rules.space
        with SplitWriter(
            folder, channels_of(group), space, image=group != MASK, maps=split != "train"
        ) as writer:
            for files in patients:
                try:
                    samples = self._samples(split, files)
                except DataError as error:
                    self.counts["bad_patients"] += 1
                    self.bad.append(str(error))
                    continue
                for sample, lesions in samples:
                    writer.append(sample, len(self.patients[split]), lesions)
                    self._count_lesions(split, sample, lesions)
                self.patients[split].append(files.name)
        self.counts[f"samples.{split}"] = writer.count
        self.counts[f"patients.{split}"] = len(self.patients[split])

    def _samples(self, split: str, files: PatientFiles) -> list[tuple[Cut, Lesions]]:
        """All samples of a patient, or none: a list, since the last one may turn out bad."""
        rules = self.rules
        patient = read_patient(
            files,
            [name for name in GROUPS[rules.group] if name != MASK],
            require_seg=rules.require_seg or rules.group == MASK,
            require_lesions=rules.require_lesions,
        )
        cuts = CutCounts()
        samples = [
            (sample, _measured(files, sample, rules.least_lesion))
            for sample in cut(patient, rules, cuts)
        ]
        self.counts[f"left_out.{split}"] += cuts.left_out
        self.counts[f"emptied_masks.{split}"] += cuts.emptied
        self.counts["without_seg"] += patient.mask is None
        self.counts["segs_with_other_values"] += patient.other_values > 0
        self.counts["negative_images"] += cuts.negative
        self.counts["cropped_slices"] += cuts.cropped
        self.counts["padded_slices"] += cuts.padded
        return samples

    def _count_lesions(self, split: str, sample: Cut, lesions: Lesions) -> None:
        self.counts[f"with_lesions.{split}"] += bool(sample.mask.any())
        self.counts[f"ignored_lesions.{split}"] += lesions.ignored
        for size in size_classes(lesions.diameters_mm):
            self.counts[f"{_LESION_COUNTS[size - 1]}.{split}"] += 1

    def refuse(self, place: str, max_bad_share: float) -> None:
        """Raises DataError where too many patients are bad, or nothing is left to learn or to
        measure from.
        """
        named = "".join(f"\n  {text}" for text in self.bad[:_NAMED_PATIENTS])
        count = sum(map(len, self.patients.values())) + len(self.bad)
        if len(self.bad) > max_bad_share * count:
            raise DataError(
                f"{place}: expected at most {max_bad_share:.1%} unusable patients "
                f"(data.max_bad_share), found {len(self.bad)} of {count}. The first:{named}"
            )
        for split in ("train", "validation"):
            if not self.counts[f"samples.{split}"]:
                way_out = (
                    "Keep masks without a lesion: data.empty_masks=true."
                    if self.rules.group == MASK
                    else "Lower data.slice_sum."
                )
                raise DataError(
                    f"{place}: expected samples for {split}, found none in "
                    f"{self.counts[f'patients.{split}']} patients; "
                    f"{self.counts[f'left_out.{split}']} were left out. {way_out}{named}"
                )

    def warnings(self, from_folder: bool) -> Iterator[str]:
        """What a user should know before a training, in words. Embedded patients (not
        `from_folder`) may share their names.
        """
        counts, bad = self.counts, self.bad
        if bad:
            left = len(bad) - _NAMED_PATIENTS
            named = "; ".join(bad[:_NAMED_PATIENTS]) + (f"; and {left} more" if left > 0 else "")
            yield f"left out {len(bad)} unusable patients: {named}"
        often = Counter(name for names in self.patients.values() for name in names)
        twice = [name for name, times in often.items() if times > 1 and from_folder]
        if twice:
            yield (
                f"{len(twice)} patients have the name of one in another split "
                f"({', '.join(twice[:_NAMED_PATIENTS])}): if they are the same people, "
                "validation measures what was learnt by heart."
            )
        yield from (text.format(counts[name]) for name, text in _WARNINGS.items() if counts[name])
        for split in self.patients:
            emptied, filled = counts[f"emptied_masks.{split}"], counts[f"with_lesions.{split}"]
            if emptied > filled:
                yield (
                    f"{split}: {emptied} masks lost all lesions when they were made smaller, "
                    f"{filled} kept some: raise data.image_size or data.volume_size."
                )
        if counts["with_lesions.train"] and not counts["with_lesions.validation"]:
            yield "no validation sample has a lesion: measures of lesions have nothing to measure."


def _measured(files: PatientFiles, sample: Cut, least: int) -> Lesions:
    try:
        return lesions_of(sample.mask, sample.spacing, least)
    except ValueError as error:
        raise DataError(f"{files.files[MASK]}: {error}") from error
