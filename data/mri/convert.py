"""The conversion of brain-MRI patients to stored samples, with its counts and warnings."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.files import DataError
from data.mri.files import Patient, PatientFiles, read_patient
from data.mri.lesions import Lesions, lesions_of, size_classes
from data.mri.store import SplitWriter
from data.mri.volumes import Cut, CutCounts, Rules, cut, fitted, grid_of, is_signed
from settings.mri import MASK, SIZE_NAMES, channels_of
from settings.words import counted, worded

_NAMED_PATIENTS = 5  # how many unusable patients a warning or an error names

_SILENT_CROP_SHARE = 0.02
"""Of a volume's slices: where more are cropped, a warning says so."""

_LESION_COUNTS = tuple(f"lesions_{size}" for size in SIZE_NAMES)
_BY_SPLIT = (
    *("patients", "samples", "left_out", "with_lesions", "emptied_masks"),
    *(*_LESION_COUNTS, "ignored_lesions"),
)
_TOTALS = (
    *("bad_patients", "unrecognised_files", "without_seg", "segs_with_other_values"),
    *("negative_images", "clipped_images", "padded_sides", "stretched_sides"),
    *("cropped_slices", "padded_slices"),
)

_WARNINGS = {
    "without_seg": (
        "patient has no seg file: it counts as without lesions.",
        "patients have no seg file: they count as without lesions.",
    ),
    "segs_with_other_values": (
        "seg file holds other values than 0 and 1: lesion is what lies above 0.5.",
        "seg files hold other values than 0 and 1: lesion is what lies above 0.5.",
    ),
}
"""The warning for a count of 1, and for one above."""


class Conversion:
    """Writes the samples of every split and counts.

    Attributes:
        counts: by name, those of a split as <name>.<split>.
        patients: names of those used, by split.
        bad: what is wrong with each of the others.
        looks: under data.below_zero=auto, whether each image of a modality looks signed by itself.
        unlike: files of those that look otherwise than they are treated, and whether their values
            below 0 are kept.
        cropped: (patient, slices that were cut off, slices of the file) of every volume.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counts = dict.fromkeys(_TOTALS, 0)
        self.patients: dict[str, list[str]] = {}
        self.bad: list[str] = []
        self.looks: dict[str, list[bool]] = {name: [] for name in rules.images}
        self.unlike: list[tuple[Path, bool]] = []
        self.cropped: list[tuple[str, int, int]] = []
        self.counts |= decision_counts(rules.images, rules.below_zero, rules.signed)

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
            rules.images,
            require_seg=rules.require_seg or rules.group == MASK,
            require_lesions=rules.require_lesions,
        )
        self._look_at(patient, split)
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
        self.counts["clipped_images"] += cuts.clipped
        self.counts["cropped_slices"] += cuts.cropped
        self.counts["padded_slices"] += cuts.padded
        depth, *plane = grid_of(patient)
        if fitted(plane, rules.space[-2:], "pad") != tuple(plane):
            self.counts["stretched_sides" if rules.fit == "stretch" else "padded_sides"] += 1
        if len(rules.space) == 3:
            self.cropped.append((files.name, max(depth - rules.space[0], 0), depth))
        return samples

    def _look_at(self, patient: Patient, split: str) -> None:
        """Training images say what their data set is."""
        if self.rules.below_zero != "auto":
            return
        for name, values in patient.images.items():
            looks, kept = is_signed(values), name in self.rules.signed
            if split == "train":
                self.looks[name].append(looks)
            if looks != kept and values.min() < 0:
                self.unlike.append((patient.files[name], kept))

    def decided(self) -> tuple[str, ...]:
        """The modalities that are signed: those of which more than half of the training images
        are. Of a folder of MRI with one CT that is none, and of CT with one MRI it is theirs.
        """
        return tuple(name for name, each in self.looks.items() if 2 * sum(each) > len(each))

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
                    f"{counted(self.counts[f'patients.{split}'], 'patient')}; "
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
            yield f"left out {counted(len(bad), 'unusable patient')}: {named}"
        often = Counter(name for names in self.patients.values() for name in names)
        twice = [name for name, times in often.items() if times > 1 and from_folder]
        if twice:
            yield (
                f"{counted(len(twice), 'patient has', 'patients have')} the name of one in "
                "another split "
                f"({', '.join(twice[:_NAMED_PATIENTS])}): if they are the same people, "
                "validation measures what was learnt by heart."
            )
        for name, texts in _WARNINGS.items():
            if counts[name]:
                yield counted(counts[name], *texts)
        yield from below_zero_warnings(counts, self.unlike)
        yield from crop_warnings(
            self.cropped, "Give data.volume_size a greater depth, or cut the files."
        )
        for split in self.patients:
            emptied, filled = counts[f"emptied_masks.{split}"], counts[f"with_lesions.{split}"]
            if emptied > filled:
                yield (
                    f"{split}: {counted(emptied, 'mask')} lost all lesions when made smaller, "
                    f"{filled} kept some: raise data.image_size or data.volume_size."
                )
        if counts["with_lesions.train"] and not counts["with_lesions.validation"]:
            yield "no validation sample has a lesion: measures of lesions have nothing to measure."


def convert(
    rules: Rules, patients: Mapping[str, Sequence[PatientFiles]], folder: Path
) -> Conversion:
    """Writes all splits. What training images say of values below 0 (data.below_zero=auto) is
    known when all are read: that split is written as if they were not signed, which most are not,
    and once more where they are.
    """
    conversion = Conversion(rules)
    conversion.write("train", patients["train"], folder / "train")
    decided = conversion.decided()
    if decided != rules.signed:
        shutil.rmtree(folder / "train")
        conversion = Conversion(dataclasses.replace(rules, signed=decided))
        conversion.write("train", patients["train"], folder / "train")
    for split in (split for split in patients if split != "train"):
        conversion.write(split, patients[split], folder / split)
    return conversion


def decision_counts(
    names: Sequence[str], below_zero: str, signed: Sequence[str] | None
) -> dict[str, int]:
    """`signed.<modality>`: 1 where values below 0 are kept, 0 where they become 0; nothing where
    every image says so for itself.
    """
    if below_zero == "each" or (below_zero == "auto" and signed is None):
        return {}
    kept = names if below_zero == "keep" else signed if below_zero == "auto" else ()
    return {f"signed.{name}": int(name in (kept or ())) for name in names}


def below_zero_warnings(
    counts: Mapping[str, float], unlike: Sequence[tuple[Path, bool]]
) -> Iterator[str]:
    """What was done to values below 0, from `negative_images` and `clipped_images` of the counts.

    Args:
        unlike: see `Conversion`.
    """
    images = "image has", "images have"
    clipped = int(counts["clipped_images"])
    kept = int(counts["negative_images"]) - clipped
    if clipped:
        yield (
            f"{counted(clipped, *images)} values below 0 that became 0, as those of MRI that was "
            "interpolated must (data.below_zero)."
        )
    if kept:
        yield (
            f"{counted(kept, *images)} values below 0 that were kept, as those of CT must: the "
            "least value of an image counts as background (data.below_zero)."
        )
    for was_kept, text in _UNLIKE.items():
        files = [path for path, kept in unlike if kept == was_kept]
        if files:
            named = ", ".join(map(str, files[:_NAMED_PATIENTS]))
            more = " ..." * (len(files) > _NAMED_PATIENTS)
            yield f"{len(files)} of them {worded(len(files), 'is', 'are')} {text}: {named}{more}"


_UNLIKE = {
    False: "signed by the rule for one image (the 1st percentile below minus a quarter of the "
    "99th), most training images of the modality are not, and what lies below 0 is lost",
    True: "not signed by the rule for one image (the 1st percentile below minus a quarter of the "
    "99th), most training images of the modality are, and the background may not be 0",
}
"""What is said of images that look otherwise than they are treated, by whether values below 0 are
kept.
"""


def crop_warnings(volumes: Sequence[tuple[str, int, int]], way_out: str) -> Iterator[str]:
    """What is said of (name, slices that were cut off, slices of the file) of volumes."""
    short = [(name, lost, n) for name, lost, n in volumes if lost > _SILENT_CROP_SHARE * n]
    if short:
        lost, whole = sum(lost for _, lost, _ in short), sum(n for *_, n in short)
        name, most, depth = max(short, key=lambda volume: volume[1] / volume[2])
        yield (
            f"{len(short)} of {counted(len(volumes), 'volume')} "
            f"{worded(len(short), 'has', 'have')} more slices than data.volume_size and "
            f"{worded(len(short), 'loses', 'lose')} more than {_SILENT_CROP_SHARE:.0%} of them at "
            f"the ends: {lost} of {whole} "
            f"({lost / whole:.1%}); {name} loses {most} of {depth}. {way_out}"
        )


def _measured(files: PatientFiles, sample: Cut, least: int) -> Lesions:
    try:
        return lesions_of(sample.mask, sample.spacing, least)
    except ValueError as error:
        raise DataError(f"{files.files[MASK]}: {error}") from error
