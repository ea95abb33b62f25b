"""The rules of what stands beside a trained network: the fixed splits, their units, and the
references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from settings.flat import replace
from trainables.contract.examined import Examined
from trainables.contract.fault import Fault
from trainables.reporting.references import UNTRAINED, measure_references

_SEEDS, _SAMPLES = 4, 256
"""Draws of each training sample among which test samples are looked for, and samples of a split,
evenly spaced.
"""


def names_a_unit_for_every_sample(examined: Examined) -> Iterator[Fault]:
    """`Loaders.units` has a text for each sample of a split that there is."""
    for split, units in examined.loaders.units.items():
        samples: Any = getattr(examined.loaders, split, None)
        if split not in ("validation", "test"):
            yield Fault(
                f"Loaders.units[{split!r}]",
                "it names the units of validation or test",
                f"it is of {split!r}",
                "Mend the name",
            )
        elif samples is not None and len(units) != len(samples):
            yield Fault(
                f"Loaders.units[{split!r}]",
                "it names the unit (scene, patient, text) of each sample, in their order",
                f"it has {len(units)} for {len(samples)} samples",
                "Give one for each",
            )
        elif not all(isinstance(unit, str) and unit for unit in units):
            strange = next(unit for unit in units if not (isinstance(unit, str) and unit))
            yield Fault(
                f"Loaders.units[{split!r}]", "a unit is a text", f"one is {strange!r}", "Name it"
            )


def keeps_its_test_apart(examined: Examined) -> Iterator[Fault]:
    """No sample of the test split is one of validation or, unaugmented, of training."""
    loaders = examined.loaders
    if loaders.test is None:
        return
    system, prepared = examined.system, examined.prepared
    plain = system.loaders(replace(examined.settings, system.originals), prepared)
    test: Any = loaders.test
    train: Any = plain.train
    validation: Any = loaders.validation
    if not len(test):
        yield Fault(
            "Loaders.test", "it is None or has samples", "it is empty", "Give None where none is"
        )
        return
    keys = sorted(set(test[0]) & set(validation[0]) & set(train[(0, 0)]))
    seen = {_bytes(test[index], keys): index for index in range(len(test))}
    others = {
        "validation": (validation[index] for index in _some(validation)),
        "training": (train[(index, seed)] for index in _some(train) for seed in range(_SEEDS)),
    }
    for split, samples in others.items():
        contents = (_bytes(sample, keys) for sample in samples)
        twice = next((seen[sample] for sample in contents if sample in seen), None)
        if twice is not None:
            yield Fault(
                "Loaders.test",
                f"no {split} sample is in it, for nothing may have chosen by it",
                f"its sample {twice} is one",
                "Cut the splits by whole units",
            )


def measures_its_references(examined: Examined) -> Iterator[Fault]:
    """The references are measured without an error, on every split; one of the system's own has
    the first metric.
    """
    system, settings, prepared = examined.system, examined.settings, examined.prepared
    examinations = [each.name for each in system.examinations(settings, prepared)]
    for name, reference in system.references(settings, prepared).items():
        for missing in sorted(reference.examine.keys() - set(examinations)):
            yield Fault(
                f"reference {name}",
                "it takes part in examinations that there are",
                f"`examine` names {missing!r}, and there are {', '.join(examinations) or 'none'}",
                "Mend the name",
            )
    first = f"val.{system.metrics(settings, prepared)[0].name}"
    for split in ("validation", "test"):
        if getattr(examined.loaders, split) is None:
            continue
        references = measure_references(system, settings, prepared, split)
        del references[UNTRAINED]
        if references and all(measured[first] is None for measured in references.values()):
            yield Fault(
                "member references",
                f"one of them has the first metric, {first}",
                f"{', '.join(references)} have no value of it on {split}",
                "Let `predict` return the tensors that the metric reads",
            )


def _some(samples: Any) -> range:
    return range(0, len(samples), -(-len(samples) // _SAMPLES))


def _bytes(sample: Mapping[str, Any], keys: Sequence[str]) -> bytes:
    return b"".join(sample[key].numpy().tobytes() for key in keys)


RULES: tuple[Callable[[Examined], Iterator[Fault]], ...] = (
    names_a_unit_for_every_sample,
    keeps_its_test_apart,
    measures_its_references,
)
