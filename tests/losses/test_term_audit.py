"""The audit that every term of every system must pass, on tensors that tests/systems makes up.

Per term: finite, with a finite and non-zero gradient on random input; bounded below; at its
minimum where it claims one; every key of its own changes something; what it does not declare in
`reads` changes nothing; its mean is exact however the samples are split into batches, or it says
that it is not and keeps the law of sets. What holds for a system outside of the repository as well
is a rule of `trainables.contract.terms`.
"""

from __future__ import annotations

import fnmatch

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from losses.composite import Composite
from losses.terms import TermSettings
from settings.flat import leaves, replace
from settings.schema import child_nodes, own_leaves
from trainables.contract import sets
from trainables.contract import terms as rules
from trainables.contract.keys import changed, declares

SIZE = 0.5
"""Of the raw output; `loose` names a larger one for a term with a dead zone."""


def case_of(audited, *, settings=None, raw=None, size=SIZE, others=(), side=None, **batch):
    """The term on a batch of the audit's makers, as the rules of the contract take it."""
    audit, name = audited
    made = audit.batch(**batch, **({} if side is None else {"size": side}))
    tree = audit.settings if settings is None else settings
    return rules.TermCase(
        name=name,
        node=f"loss.{name}" if hasattr(tree.loss, name) else "",
        term=audit.terms[name],
        settings=tree,
        batch=made,
        raw=audit.raw(made, size=size) if raw is None else raw,
        predict=audit.prediction,
        others=tuple(others),
    )


def option(audited, table, default):
    audit, name = audited
    return getattr(audit, table, {}).get(name, default)


def test_finite_with_a_gradient(audited):
    case = case_of(audited, seed=1, size=option(audited, "loose", SIZE))
    assert not list(rules.is_finite_with_a_gradient(case))


def test_draws_nothing_and_changes_nothing(audited):
    case = case_of(audited, seed=1)
    assert not [*rules.draws_nothing(case), *rules.leaves_its_tensors_alone(case)]


def test_bounded_below(audited):
    audit, name = audited
    if audit.terms[name].unbounded:
        pytest.skip(audit.terms[name].unbounded)
    batch = audit.batch(seed=2)
    others = [audit.raw(batch, seed=3, size=size) for size in (0.0, 0.1, 1.0, 30.0)]
    assert not list(rules.is_bounded_below(case_of(audited, seed=2, others=others)))


def test_least_at_the_target(audited):
    audit, _ = audited
    batch = audit.batch(seed=4)
    best = audit.perfect(batch, audit.settings)
    if option(audited, "minimum_elsewhere", ""):
        best = torch.zeros_like(best)
    (total, count), (other, _) = (
        case.measured(case.prediction())
        for case in (case_of(audited, seed=4, raw=raw) for raw in (best, best + 3.0))
    )
    least = option(audited, "least", 0.0)
    assert abs(total / count - least) <= 1e-4
    assert other - least * count > 10 * abs(total - least * count)


def test_every_key_of_its_own_changes_something(audited):
    """Those that the term declares in `reads`, too, where tensors can show it."""
    audit, name = audited
    settings = replace(audit.settings, {f"loss.{name}.enabled": True})
    case = case_of(audited, settings=settings, seed=5, size=1.0)
    prediction = case.prediction()
    node = type(getattr(settings.loss, name))
    untried = getattr(audit, "untried", {})
    for field in leaves(node):
        if field.startswith("schedule."):
            continue
        pair = settings, changed(settings, f"loss.{name}.{field}")
        if field in own_leaves(TermSettings):  # weight, enabled: they change what is applied
            applied = (Composite({name: case.term}, x.loss).weights(0, 10)[name] for x in pair)
            before, after = applied
        elif f"{name}.{field}" in untried:
            continue
        else:
            before, after = (case.measured(prediction, x) for x in pair)
        assert before != after, field
    assert "schedule" in child_nodes(node)


def test_reads_are_complete_and_exist(audited):
    """With the prediction fixed no undeclared key changes sum or count; all patterns exist."""
    case = case_of(audited, seed=6, images=1, side=16, size=1.0)
    keys = [key for key in leaves(type(case.settings)) if ".schedule." not in key]
    for pattern in case.term.reads:
        assert fnmatch.filter(keys, pattern), pattern
    tried = [key for key in keys if changed(case.settings, key) is not None]
    undeclared = [key for key in tried if not declares(case.term.reads, key)]
    assert undeclared or "*" in case.term.reads
    assert not [str(fault) for fault in rules.declares_what_it_reads(case)]


def test_nothing_to_count_is_a_sum_of_zero_or_a_count(audited):
    """A batch of empty samples (no hole, no second view) gives no NaN: where the count is 0 so is
    the sum.
    """
    audit, _ = audited
    case = case_of(audited, settings=audit.sparse, seed=7, images=2, empty=(0, 1), size=1.0)
    raw = case.raw.requires_grad_()
    total, count = case.term(case.prediction(raw), case.batch, case.settings)
    assert torch.isfinite(total)
    assert count > 0 or total == 0
    if total.requires_grad:
        total.backward()
        assert torch.isfinite(raw.grad).all()


@hypothesis_settings(max_examples=min(6, hypothesis_settings.default.max_examples))
@given(cuts=st.sets(st.integers(1, 5)), seed=st.integers(0, 100))
def test_the_mean_is_exact_under_ragged_splits(audited, cuts, seed):
    audit, name = audited
    batch = audit.batch(seed=seed, images=6, empty=(1, 4), size=16)
    raw = audit.raw(batch, seed=seed, size=1.0)
    case = rules.TermCase(
        name, "", audit.terms[name], audit.sparse, batch, raw, audit.prediction
    )
    assert not list(rules.is_a_sum_over_samples(case, (0, *sorted(cuts), 6)))


def test_what_depends_on_the_cut_keeps_the_law_of_sets(audited):
    """Of a term with `splits`; its count adds up all the same (above)."""
    case = case_of(audited, seed=8)
    assert not [str(fault) for rule in sets.RULES for fault in rule(case)]
