"""What every system must do: the same suite for all of them, the toys included."""

from __future__ import annotations

import copy
import fnmatch
import inspect
import json
import pickle
from collections.abc import Mapping

import pytest
import torch
from torch.utils.data import default_collate

from losses.terms import TermSettings
from metrics.metric import Metric
from search.guard import check_objective
from search_spaces.checks import check_space
from search_spaces.space import spaces_of
from settings.files import list_presets, preset_file
from settings.flat import flatten, leaves, replace
from settings.resolve import resolve
from settings.schema import SettingsError
from settings.systems import SYSTEMS
from trainables.system import Built, Finding, Loaders, load_system

MEMBERS = ("prepare", "build", "loaders", "phases", "metrics", "preflight")

BESIDE_A_PRESET = {("hdr_patch", "paper"): ["data.source=folder", "data.root=frames"]}
"""What a preset for a user's own data needs with it."""


def as_json(flat):
    return json.loads(json.dumps(flat))


def same_sample(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_it_has_the_members_of_the_contract(case):
    system = case.system
    assert system.name == case.name, "checkpoints are found by the name that loads the system"
    assert load_system(system.name).name == system.name
    assert isinstance(system.prepare_reads, tuple)
    for member in MEMBERS:
        assert len(inspect.signature(getattr(system, member)).parameters) == 2, member
    keys = leaves(system.Settings)
    for node in ("train", *{phase.optimizer for phase in system.phases(case.settings, None)}):
        assert any(key.startswith(f"{node}.") for key in keys), f"no node {node}"
    assert isinstance(getattr(system, "refused", {}), Mapping)


# Settings, presets, spaces


def test_the_settings_survive_json(case):
    flat = flatten(case.settings)
    assert replace(case.system.Settings(), as_json(flat)) == case.settings
    assert flat.keys() == leaves(case.system.Settings).keys()


def test_every_key_has_help_and_a_legal_default(case):
    defaults = case.system.Settings()
    for key, leaf in leaves(case.system.Settings).items():
        assert leaf.help.strip(), key
        assert replace(defaults, {key: flatten(defaults)[key]}) == defaults


def test_every_preset_resolves(case):
    presets = list_presets(case.name)
    assert bool(presets) == (case.name in SYSTEMS), "a system of one's own has none"
    for preset in presets:
        beside = BESIDE_A_PRESET.get((case.name, preset), [])
        resolved = resolve(case.system.Settings, case.name, preset=preset, overrides=beside)
        assert resolved.keys_from("preset"), preset


def test_a_key_left_out_on_purpose_says_why(case):
    refused = getattr(case.system, "refused", {})
    for key, reason in refused.items():
        assert not fnmatch.filter(leaves(case.system.Settings), f"{key}*")
        with pytest.raises(SettingsError, match="is refused") as caught:
            resolve(
                case.system.Settings, case.name, overrides=[f"{key}.weight=1"], refused=refused
            )
        assert reason in str(caught.value)


def test_every_space_is_legal_and_every_point_has_a_place(case):
    system, known = case.system, leaves(case.system.Settings)
    for name, space in spaces_of(case.name).items():
        assert space.name == name and space.system == case.name
        base = replace(case.settings, space.fixed)
        bound = check_space(space, known, prepare_reads=system.prepare_reads).bind(flatten(base))
        assert bound.domains
        for preset in space.points:
            typed = flatten(replace(system.Settings(), preset_file(case.name, preset).values))
            own = {key: typed[key] for key in preset_file(case.name, preset).values}
            point = bound.place(preset, own, flatten(base), keep=("train.*", "data.*"))
            trial = flatten(replace(base, point.sampled))
            kept = {
                key: value
                for key, value in own.items()
                if not fnmatch.fnmatchcase(key, "train.*")
                and not fnmatch.fnmatchcase(key, "data.*")
            }
            assert {key: trial[key] for key in kept} == kept, f"{name}: {preset}"


def test_the_default_objective_is_fair_in_every_space(case):
    """No point and no draw of a space changes what the first metric with a direction measures."""
    system = case.system
    metrics = system.metrics(case.settings, None)
    terms = system.phases(case.settings, None)[0].composite.terms
    first = next(metric for metric in metrics if metric.mode is not None)
    for space in spaces_of(case.name).values():
        points = [preset_file(case.name, preset).values for preset in space.points]
        searched = {*space.domains, *(key for point in points for key in point)}
        check_objective([f"val.{first.name}"], metrics, terms, searched)


# Metrics and terms


def test_metrics_say_what_they_are(case):
    metrics = list(case.system.metrics(case.settings, None))
    assert metrics and all(isinstance(metric, Metric) for metric in metrics)
    names = [metric.name for metric in metrics]
    assert len(set(names)) == len(names)
    assert any(metric.mode is not None for metric in metrics), "nothing could be an objective"
    for metric in metrics:
        assert metric.mode in ("min", "max", None), metric.name
        assert metric.help.strip(), metric.name
        assert not metric.name.startswith(("loss.", "critic.")), metric.name
        if metric.unit == "dB":
            assert metric.name.endswith("_db"), metric.name


def test_whatever_is_read_exists(case):
    keys = list(leaves(case.system.Settings))
    phases = case.system.phases(case.settings, None)
    readers = {metric.name: metric.reads for metric in case.system.metrics(case.settings, None)}
    for phase in phases:
        readers |= {name: term.reads for name, term in phase.composite.terms.items()}
    readers["prepare"] = case.system.prepare_reads
    for name, patterns in readers.items():
        for pattern in patterns:
            assert fnmatch.filter(keys, pattern), f"{name} reads {pattern}, which is no key"


def test_every_term_has_its_settings_and_no_two_phases_share_a_prefix(case):
    phases = list(case.system.phases(case.settings, None))
    prefixes = [phase.composite.prefix for phase in phases]
    assert len(set(prefixes)) == len(prefixes)
    assert phases[0].optimizer == "optimizer"
    for phase in phases:
        node = getattr(case.settings, phase.composite.prefix)
        assert phase.composite.terms
        for name in phase.composite.terms:
            assert isinstance(getattr(node, name), TermSettings), name


# Data and modules


def test_preparing_twice_gives_the_same(case, tmp_path):
    again = case.system.prepare(case.settings, case.cache)
    assert again == case.prepared
    elsewhere = case.system.prepare(case.settings, tmp_path)
    assert pickle.loads(pickle.dumps(elsewhere)) == elsewhere  # noqa: S301 - our own bytes
    for one, two in zip(*splits(case, case.prepared, elsewhere), strict=True):
        assert len(one) == len(two) > 0
    before, after = (case.system.loaders(case.settings, p) for p in (case.prepared, elsewhere))
    for index in range(min(3, len(before.train))):
        assert same_sample(before.train[(index, 5)], after.train[(index, 5)])
    for index in range(min(3, len(before.validation))):
        assert same_sample(before.validation[index], after.validation[index])


def splits(case, *prepared):
    return [
        (loaders.train, loaders.validation)
        for loaders in (case.system.loaders(case.settings, p) for p in prepared)
    ]


def test_a_sample_is_a_function_of_index_and_seed(case):
    loaders = case.system.loaders(case.settings, case.prepared)
    assert isinstance(loaders, Loaders)
    first = loaders.train[(1, 99)]
    torch.manual_seed(1234)
    assert same_sample(loaders.train[(1, 99)], first)
    seeds = [loaders.train[(1, seed)] for seed in range(8)]
    assert any(not same_sample(first, other) for other in seeds), "no seed changes anything"
    fixed = loaders.validation[0]
    torch.manual_seed(4321)
    assert same_sample(loaders.validation[0], fixed)
    assert all(isinstance(value, torch.Tensor) for value in first.values())


def test_building_with_one_seed_gives_one_model(case):
    built = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        built.append(case.system.build(case.settings, case.prepared))
    assert all(isinstance(item, Built) for item in built)
    states = [
        {f"{n}.{k}": v for n, m in item.modules.items() for k, v in m.state_dict().items()}
        for item in built
    ]
    assert same_sample(states[0], states[1])
    assert not same_sample(states[0], states[2])
    names = {
        f"{name}.{key}"
        for name, module in built[0].modules.items()
        for key, _ in module.named_parameters()
    }
    assert set(built[0].no_decay) <= names
    used = [name for phase in case.system.phases(case.settings, None) for name in phase.modules]
    trained = [
        name
        for name, module in built[0].modules.items()
        if any(parameter.requires_grad for parameter in module.parameters())
    ]
    assert sorted(used) == sorted(trained), "each module is updated by one phase, or frozen"


def test_the_preflight_answers(case):
    findings = case.system.preflight(case.settings, case.prepared)
    assert all(isinstance(finding, Finding) and finding.text for finding in findings)
    assert not any(finding.hopeless for finding in findings), "the defaults must be trainable"


# Terms on a real batch


def real_batch(case, settings, size=4, validation=False):
    loaders = case.system.loaders(settings, case.prepared)
    samples = [
        loaders.validation[index % len(loaders.validation)]
        if validation
        else loaders.train[(index, index)]
        for index in range(size)
    ]
    return (loaders.collate or default_collate)(samples)


def test_every_term_is_finite_and_moves_what_its_phase_trains(case):
    """On real data, each alone: a gradient that reaches what the term's own phase updates."""
    switches = {
        f"{phase.composite.prefix}.{name}.enabled": True
        for phase in case.system.phases(case.settings, None)
        for name in phase.composite.terms
    }
    settings = replace(case.settings, {**case.audit, **switches})
    batch = real_batch(case, settings)
    modules = case.modules(settings)
    for phase in case.system.phases(settings, case.prepared):
        own = [p for name in phase.modules for p in modules[name].parameters()]
        before = {key: value.clone() for key, value in batch.items()}
        prediction = phase.forward(modules, batch, settings)
        assert all(value.shape[0] == 4 for value in prediction.values())
        for name, term in phase.composite.terms.items():
            total, count = term(prediction, batch, settings)
            assert total.ndim == 0 and torch.isfinite(total), name
            assert float(count) > 0 and not count.requires_grad, name
            gradients = torch.autograd.grad(total, own, retain_graph=True, allow_unused=True)
            found = [g for g in gradients if g is not None]
            assert all(bool(torch.isfinite(g).all()) for g in found), name
            assert any(bool((g != 0).any()) for g in found), f"{name} has no gradient"
        assert same_sample(batch, before), "a term changed the batch"
        batch = {**batch, **phase.handed_on(prediction)}


def test_metrics_count_what_they_sum(case):
    batch = real_batch(case, case.settings, validation=True)
    modules = case.modules(case.settings)
    for module in modules.values():
        module.eval()
    phase = case.system.phases(case.settings, case.prepared)[0]
    with torch.no_grad():
        prediction = phase.forward(modules, batch, case.settings)
        kept = {key: value.clone() for key, value in prediction.items()}
        for metric in case.system.metrics(case.settings, case.prepared):
            sums, count = metric.measure(prediction, batch, case.settings)
            assert sums.dtype == torch.float64, metric.name
            assert sums.ndim <= 1 and count.numel() == 1, metric.name
            assert float(count) >= 0, metric.name
            assert isinstance(metric.finish(sums, float(count)), float), metric.name
    assert same_sample(prediction, kept), "a metric changed the prediction"
    copy.deepcopy(modules)  # the moving average needs a copy
