"""What must not depend on the weights that a search moves, for every system: measures of a given
model, the order of terms, and the gradient of a term that is switched off by its weight.
"""

from __future__ import annotations

import math

import pytest
import torch

from metrics.combined import Combined
from settings.files import settings_hash
from settings.flat import flatten, leaves, replace
from trainables.reporting.evaluate import evaluate
from trainables.stepping.batches import validation_loader
from trainables.stepping.devices import make_accelerator

pytestmark = pytest.mark.slow


def term_keys(case, part):
    """`loss.<term>.<part>` of every term of every phase."""
    return [
        f"{phase.composite.prefix}.{name}.{part}"
        for phase in case.system.phases(case.settings, None)
        for name in phase.composite.terms
    ]


def measured(case, settings, modules):
    """The validation columns of a model."""
    system = case.system
    loaders = system.loaders(settings, case.prepared)
    batches = validation_loader(loaders, settings.train.validation_batch_size, world=1, rank=0)
    phases, metrics = system.phases(settings, case.prepared), system.metrics(settings, None)
    accelerator = make_accelerator(settings.train)
    return evaluate(accelerator, modules, phases, metrics, batches, settings)


def weigh(case, settings, modules, number):
    """The training loss of one phase on a batch, at the last step, and what it trains."""
    *before, phase = list(case.system.phases(settings, case.prepared))[: number + 1]
    batch = case.batch(settings)
    for earlier in before:
        batch = {**batch, **earlier.shared_outputs(earlier.forward(modules, batch, settings))}
    torch.manual_seed(5)  # a phase may draw noise
    prediction = phase.forward(modules, batch, settings)
    steps = settings.train.steps
    weights = phase.composite.weights(steps, steps)
    # As a training does: a term that is off is not counted, and its batch need not allow it.
    on = [name for name in phase.composite.terms if weights.get(name, 0.0) != 0.0]
    counts = phase.composite.counts(batch, settings, on).tolist() if on else []
    denominators = dict.fromkeys(phase.composite.terms, 0.0) | dict(zip(on, counts, strict=True))
    found = phase.composite.weigh(prediction, batch, settings, weights, denominators)
    return found, [p for name in phase.modules for p in modules[name].parameters()]


def gradients(total, parameters):
    if not total.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(total, parameters, allow_unused=True)


# All weights times c


@pytest.mark.parametrize("c", [1e-3, 37.0])
def test_all_weights_times_c_measure_a_model_alike(case, c):
    weights = flatten(case.settings)
    scaled = {key: weights[key] * c for key in term_keys(case, "weight")}
    settings = replace(case.settings, scaled)
    modules = case.modules(case.settings)
    before, after = measured(case, case.settings, modules), measured(case, settings, modules)
    assert after == before  # to the bit
    terms = [f"val.{key.removesuffix('.weight')}" for key in term_keys(case, "weight")]
    positive = {column: 1.0 for column in terms if (before[column] or 0.0) > 0.0}
    for kind in ("weighted", "log_ratio", "worst_ratio"):
        combined = Combined(kind, positive)
        assert math.isfinite(combined.value(before))
        assert combined.value(after) == combined.value(before)


def test_all_weights_times_c_scale_what_is_trained(case):
    """The other side of the rule: the weighted total is no measure, for it follows the weights."""
    weights = flatten(case.settings)
    settings = replace(
        case.settings, {key: weights[key] * 8.0 for key in term_keys(case, "weight")}
    )
    one, _ = weigh(case, case.settings, case.modules(case.settings), 0)
    other, _ = weigh(case, settings, case.modules(case.settings), 0)
    assert other.total.item() == pytest.approx(8.0 * one.total.item(), rel=1e-4)


# Units of a raw term


@pytest.mark.parametrize("unit", [1e-3, 255.0])
def test_the_unit_of_a_term_cannot_change_the_ranking_by_log_ratio(case, unit):
    reports = [
        measured(case, case.settings, case.modules(case.settings, seed)) for seed in range(4)
    ]
    columns = [
        column
        for column in (f"val.{key.removesuffix('.weight')}" for key in term_keys(case, "weight"))
        if all((report[column] or 0.0) > 0.0 for report in reports)
    ]
    combined = Combined("log_ratio", {column: reports[0][column] for column in columns})
    before = [combined.value(report) for report in reports]
    assert before[0] == 0.0 and len(set(before)) == len(before)
    ranking = sorted(range(4), key=lambda i: before[i])
    for column in columns:
        changed = [{**report, column: report[column] * unit} for report in reports]
        after = [combined.value(report) for report in changed]
        assert sorted(range(4), key=lambda i: after[i]) == ranking, column
        shifts = [b - a for a, b in zip(before, after, strict=True)]
        assert shifts == pytest.approx([math.log(unit)] * 4), column


# The order of terms


def test_the_order_of_terms_is_not_part_of_a_configuration(case):
    flat = flatten(case.settings)
    backwards = dict(reversed(flat.items()))
    assert list(backwards) != list(flat)
    again = replace(case.system.Settings(), backwards)
    assert again == case.settings
    assert settings_hash(backwards) == settings_hash(flat) == settings_hash(flatten(again))


# A weight of 0


def test_a_term_of_weight_0_has_no_gradient_at_all(case):
    """Each alone, so that nothing could hide it; and the control with its weight."""
    switches = dict.fromkeys(term_keys(case, "enabled"), False)
    for number, phase in enumerate(case.system.phases(case.settings, None)):
        for name in phase.composite.terms:
            own = f"{phase.composite.prefix}.{name}"
            alone = {**case.system.audit, **switches, f"{own}.enabled": True}
            for weight in (0.0, 1.0):
                settings = replace(case.settings, {**alone, f"{own}.weight": weight})
                found, parameters = weigh(case, settings, case.modules(settings), number)
                moved = any(
                    gradient is not None and bool((gradient != 0).any())
                    for gradient in gradients(found.total, parameters)
                )
                assert moved == (weight > 0.0), f"{own}.weight={weight}"
                assert (name in found.shares) == (weight > 0.0), own


def test_a_term_of_weight_0_leaves_the_others_as_if_it_were_off(case):
    """To the bit, among all the terms of its phase."""
    on = {**case.system.audit, **dict.fromkeys(term_keys(case, "enabled"), True)}
    known = leaves(case.system.Settings)
    for number, phase in enumerate(case.system.phases(case.settings, None)):
        if len(phase.composite.terms) < 2:
            continue
        for name in phase.composite.terms:
            own = f"{phase.composite.prefix}.{name}"
            assert f"{own}.weight" in known
            results = []
            for change in ({f"{own}.weight": 0.0}, {f"{own}.enabled": False}):
                settings = replace(case.settings, {**on, **change})
                found, parameters = weigh(case, settings, case.modules(settings), number)
                results.append((found.total, gradients(found.total, parameters)))
            (zero, one), (off, other) = results
            assert torch.equal(zero, off), own
            for left, right in zip(one, other, strict=True):
                assert (left is None) == (right is None), own
                assert left is None or torch.equal(left, right), own
