"""What every system must do: the rules of the contract, for each of them, and what its presets and
spaces promise.
"""

from __future__ import annotations

import pytest

from ray_jobs.sweeping.spaces import KEPT_BY_SWEEP
from search.guard import check_objective
from search_spaces.checks import check_space
from search_spaces.space import spaces_of
from settings.files import list_presets, preset_file
from settings.flat import flatten, leaves, replace
from settings.match import matches
from settings.resolve import resolve
from settings.schema import SettingsError
from settings.systems import SYSTEMS
from trainables.contract import beside, declarations, metrics, samples
from trainables.contract.check import keeps_the_rules_of_terms
from trainables.contract.terms import counts_the_batch_alone
from trainables.system import load_system

RULES = (
    *declarations.RULES,
    *samples.RULES,
    counts_the_batch_alone,
    keeps_the_rules_of_terms,
    *metrics.RULES,
    *beside.RULES,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_it_keeps_the_rule(case, rule):
    assert not [str(fault) for fault in rule(case)]


def test_every_system_is_described(describe):
    """By tests/systems/<name>.py, so that the suites go over it."""
    assert {describe(name).NAME for name in SYSTEMS} == set(SYSTEMS)


def test_it_is_found_by_its_name(case, described):
    assert case.system.name == described.NAME, "checkpoints are found by the name that loads it"
    assert load_system(case.name).name == case.name


def test_it_has_a_test_split_units_and_references(case):
    """A system of one's own may go without."""
    in_repository = case.name in SYSTEMS
    assert (case.loaders.test is not None) == in_repository
    splits = {"validation", "test"} if in_repository else set()
    assert set(case.loaders.units) == splits
    assert bool(case.system.references(case.settings, case.prepared)) == in_repository


ONE_DRAW = {"style_vae": "the images of a wheel, cut one way"}
"""Listed systems without a unit key."""



def test_every_value_of_its_unit_key_draws_other_samples(case):
    key = case.system.unit_key(case.settings)
    assert bool(key) == (case.name in SYSTEMS and case.name not in ONE_DRAW)
    if not key:
        return
    assert leaves(case.system.Settings)[key].type is int
    assert matches(key, case.system.prepare_reads), "a sweep prepares the data of each unit"
    drawn = []
    for unit in (0, 1):
        settings = replace(case.settings, {key: unit})
        made = case.system.loaders(settings, case.system.prepare(settings, case.cache))
        samples = made.validation
        drawn.append({_bytes(samples[index]) for index in range(len(samples))})
    assert drawn[0]
    assert not drawn[0] & drawn[1]


def _bytes(sample):
    """What is given of a sample: the network's input, whatever else a split adds."""
    key = next(key for key in ("image", "warped", "field", "latent", "tokens") if key in sample)
    return sample[key].numpy().tobytes()


# Presets, spaces


def test_every_preset_resolves(case, described):
    presets = list_presets(case.name)
    assert bool(presets) == (case.name in SYSTEMS), "a system of one's own has none"
    for preset in presets:
        beside = getattr(described, "BESIDE_A_PRESET", {}).get(preset, [])
        resolved = resolve(case.system.Settings, case.name, preset=preset, overrides=beside)
        assert resolved.keys_from("preset"), f"{preset} sets nothing: it is the default"
        assert preset_file(case.name, preset).about, f"{preset} does not say what it is"


def test_a_key_left_out_on_purpose_says_why(case):
    for key, reason in case.system.refused.items():
        with pytest.raises(SettingsError, match="is refused") as caught:
            resolve(
                case.system.Settings,
                case.name,
                overrides=[f"{key}.weight=1"],
                refused=case.system.refused,
            )
        assert reason in str(caught.value)


def test_every_space_is_legal_and_every_point_has_a_place(case):
    system, known = case.system, leaves(case.system.Settings)
    assert bool(spaces_of(case.name)) == (case.name in SYSTEMS)
    for name, space in spaces_of(case.name).items():
        assert space.name == name and space.system == case.name
        base = replace(case.settings, space.fixed)
        bound = check_space(space, known, prepare_reads=system.prepare_reads).bind(flatten(base))
        assert bound.domains
        for preset in space.points:
            typed = flatten(replace(system.Settings(), preset_file(case.name, preset).values))
            taken = {
                key: typed[key]
                for key in preset_file(case.name, preset).values
                if not matches(key, KEPT_BY_SWEEP)
            }
            point = bound.place(preset, taken, flatten(base))
            trial = flatten(replace(base, point.sampled))
            assert {key: trial[key] for key in taken} == taken, f"{name}: {preset}"


def test_the_default_objective_is_fair_in_every_space(case):
    """No point and no draw of a space changes what the first metric with a direction measures."""
    system = case.system
    declared = system.metrics(case.settings, None)
    terms = system.phases(case.settings, None)[0].composite.terms
    first = next(metric for metric in declared if metric.mode is not None)
    for space in spaces_of(case.name).values():
        points = [preset_file(case.name, preset).values for preset in space.points]
        searched = {*space.domains, *(key for point in points for key in point)}
        check_objective([f"val.{first.name}"], declared, terms, searched)
