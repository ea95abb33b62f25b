"""The audit that every term of every system must pass. A new system adds one case.

Per term: finite, with a finite and non-zero gradient on random input; bounded below; at its
minimum where it claims one; every key of its own changes something; what it does not declare in
`reads` changes nothing; its mean is exact however the samples are split into batches.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from losses.adversarial import adversarial_term
from losses.composite import Composite
from losses.compression import TERMS as COMPRESSION_TERMS
from losses.conditioner import TERMS as CONDITIONER_TERMS
from losses.hdr_patch import TERMS as HDR_TERMS
from losses.terms import TermSettings
from settings.flat import flatten, leaves, replace
from settings.schema import SettingsError, child_nodes, own_leaves

ADVERSARIAL = {
    name: {"adversarial": adversarial_term("least_squares", name)} for name in ("target", "image")
}
TERMS_OF = {
    "hdr_patch": {**HDR_TERMS, **ADVERSARIAL["target"]},
    "conditioner": CONDITIONER_TERMS,
    "compression": {**COMPRESSION_TERMS, **ADVERSARIAL["image"]},
    "compression_3d": {name: COMPRESSION_TERMS[name] for name in ("perceptual", "boundary")},
}
AUDITED = [(system, name) for system, terms in TERMS_OF.items() for name in terms]
LOOSE = {("hdr_patch", "range"): 8.0}
"""Size of the raw output at which a term with a dead zone has a gradient; 0.5 for the others."""

MINIMUM_ELSEWHERE = {
    ("hdr_patch", "sparsity"): "at the prefill",
    ("hdr_patch", "range"): "small raw",
}
LEAST = {("conditioner", "spectral"): (1 / 6 + 1 / 8) / 2}
"""The least mean, where it is not 0: equal singular values in maps of 6 and 8 channels."""

UNTRIED_KEYS = {
    ("hdr_patch", "perceptual", "backbone"): "the other one needs weights not in a package",
    ("conditioner", "consistency", "teacher"): "the forward reads it",
    ("compression", "perceptual", "backbone"): "as above",
    ("compression", "perceptual", "slice_share"): "of volumes",
    ("compression_3d", "perceptual", "backbone"): "as above",
}


@pytest.fixture
def systems(hdr, conditioner, compression):
    """By system: settings under which every term is at work, settings under which a count may be
    0, and makers of its tensors.
    """
    tuned = hdr.settings(hdr__prefill="push_pull", hdr__mask=False, loss__log__kind="smooth_l1")
    weighted = compression.settings(loss__l1__regional__enabled=True)
    images = SimpleNamespace(
        settings=weighted,
        sparse=weighted,
        tree=compression.Tree,
        batch=compression.batch,
        raw=compression.raw,
        prediction=compression.prediction,
        perfect=compression.perfect,
    )
    flat = functools.partial(compression.batch, size=16, dims=3, depth=9)
    return {
        "hdr_patch": SimpleNamespace(
            settings=tuned,
            sparse=replace(tuned, {"hdr.mask": True}),
            tree=hdr.Tree,
            batch=functools.partial(hdr.batch, size=32),
            raw=hdr.raw,
            prediction=hdr.prediction,
            perfect=hdr.perfect,
        ),
        "conditioner": SimpleNamespace(
            settings=conditioner.settings(),
            sparse=conditioner.settings(),
            tree=conditioner.Tree,
            batch=conditioner.batch,
            raw=conditioner.raw,
            prediction=conditioner.prediction,
            perfect=conditioner.perfect,
        ),
        "compression": images,
        "compression_3d": SimpleNamespace(**vars(images) | {"batch": flat}),
    }


def off_default(key, leaf, value):
    """Another legal value of a leaf; None where the leaf has only one."""
    if leaf.is_tuple:
        return value[:-1] or None
    if leaf.choices is not None:
        others = [choice for choice in leaf.choices if choice != value and choice != "vgg16"]
        return others[0] if others else None
    if leaf.type is bool:
        return not value
    candidates = [value + 2, value - 2] if leaf.type is int else [value * 1.5, value / 2, 0.5]
    low = -float("inf") if leaf.low is None else leaf.low
    high = float("inf") if leaf.high is None else leaf.high
    return next((x for x in candidates if low <= x <= high and x != value), None)


def changed(tree, key):
    """The tree with that key at another legal value, or None."""
    value = off_default(key, leaves(type(tree))[key], flatten(tree)[key])
    try:
        return None if value is None else replace(tree, {key: value})
    except SettingsError:
        return None


@pytest.mark.parametrize(("system", "name"), AUDITED)
def test_finite_with_a_gradient(systems, system, name):
    s, term = systems[system], TERMS_OF[system][name]
    batch = s.batch(seed=1)
    raw = s.raw(batch, size=LOOSE.get((system, name), 0.5)).requires_grad_()
    total, count = term(s.prediction(batch, s.settings, raw), batch, s.settings)
    total.backward()
    assert torch.isfinite(total) and total.ndim == 0
    assert count > 0 and not count.requires_grad
    assert torch.isfinite(raw.grad).all() and raw.grad.abs().max() > 0


@pytest.mark.parametrize(("system", "name"), AUDITED)
def test_bounded_below(systems, system, name):
    s, term = systems[system], TERMS_OF[system][name]
    if term.unbounded:
        pytest.skip(term.unbounded)
    batch = s.batch(seed=2)
    for size in (0.0, 0.1, 1.0, 30.0):
        prediction = s.prediction(batch, s.settings, s.raw(batch, seed=3, size=size))
        assert term.sum(prediction, batch, s.settings) >= 0.0


@pytest.mark.parametrize(("system", "name"), AUDITED)
def test_least_at_the_target(systems, system, name):
    s, term = systems[system], TERMS_OF[system][name]
    batch = s.batch(seed=4)
    best = s.perfect(batch, s.settings)
    if (system, name) in MINIMUM_ELSEWHERE:
        best = torch.zeros_like(best)
    total, count = term(s.prediction(batch, s.settings, best), batch, s.settings)
    other, _ = term(s.prediction(batch, s.settings, best + 3.0), batch, s.settings)
    least = LEAST.get((system, name), 0.0)
    assert abs(float(total / count) - least) <= 1e-4
    assert other - least * count > 10 * abs(total - least * count)


@pytest.mark.parametrize(("system", "name"), AUDITED)
def test_every_key_of_its_own_changes_something(systems, system, name):
    s, term = systems[system], TERMS_OF[system][name]
    batch = s.batch(seed=5)
    prediction = s.prediction(batch, s.settings, s.raw(batch, size=1.0))
    settings = replace(s.settings, {f"loss.{name}.enabled": True})
    node = type(getattr(settings.loss, name))
    for field in leaves(node):
        if field.startswith("schedule."):
            continue
        pair = settings, changed(settings, f"loss.{name}.{field}")
        if field in own_leaves(TermSettings):  # weight, enabled: they change what is applied
            before, after = (Composite({name: term}, x.loss).weights(0, 10)[name] for x in pair)
        elif (system, name, field) in UNTRIED_KEYS:
            continue
        else:
            before, after = (float(term.sum(prediction, batch, x)) for x in pair)
        assert before != after, field
    assert "schedule" in child_nodes(node)


@pytest.mark.parametrize(("system", "name"), AUDITED)
def test_reads_are_complete_and_exist(systems, system, name):
    """With the prediction fixed no undeclared key changes sum or count; all patterns exist."""
    s, term = systems[system], TERMS_OF[system][name]
    keys = [key for key in leaves(s.tree) if ".schedule." not in key]
    for pattern in term.reads:
        assert fnmatch.filter(keys, pattern), pattern
    batch = s.batch(seed=6, images=1, size=16)
    prediction = s.prediction(batch, s.settings, s.raw(batch, size=1.0))
    before = [float(x) for x in term(prediction, batch, s.settings)]
    undeclared = [k for k in keys if not any(fnmatch.fnmatchcase(k, p) for p in term.reads)]
    other, tried = s.settings, []
    for key in undeclared:
        after = changed(other, key)
        if after is not None:
            other, tried = after, [*tried, key]
    assert tried or "*" in term.reads
    if [float(x) for x in term(prediction, batch, other)] != before:
        guilty = [
            key
            for key in tried
            if [float(x) for x in term(prediction, batch, changed(s.settings, key))] != before
        ]
        pytest.fail(f"term {name} reads {guilty or 'some of ' + str(tried)} without declaring it")


@pytest.mark.parametrize(("system", "name"), AUDITED)
def test_nothing_to_count_is_a_sum_of_zero_or_a_count(systems, system, name):
    """A batch of empty samples (no hole, no second view) gives no NaN: where the count is 0 so is
    the sum.
    """
    s, term = systems[system], TERMS_OF[system][name]
    batch = s.batch(seed=7, images=2, empty=(0, 1))
    raw = s.raw(batch, size=1.0).requires_grad_()
    total, count = term(s.prediction(batch, s.sparse, raw), batch, s.sparse)
    assert torch.isfinite(total)
    assert count > 0 or total == 0
    if total.requires_grad:
        total.backward()
        assert torch.isfinite(raw.grad).all()


@hypothesis_settings(max_examples=6)
@given(cuts=st.sets(st.integers(1, 5)), seed=st.integers(0, 100))
@pytest.mark.parametrize(("system", "name"), AUDITED)
def test_the_mean_is_exact_under_ragged_splits(request, system, name, cuts, seed):
    s = request.getfixturevalue("systems")[system]
    term = TERMS_OF[system][name]
    batch = s.batch(seed=seed, images=6, empty=(1, 4), size=16)
    prediction = s.prediction(batch, s.sparse, s.raw(batch, seed=seed, size=1.0))
    total, count = term(prediction, batch, s.sparse)
    edges = [0, *sorted(cuts), 6]
    parts = []
    for start, end in itertools.pairwise(edges):
        piece = [{k: v[start:end] for k, v in group.items()} for group in (prediction, batch)]
        parts.append(term(*piece, s.sparse))
    assert sum(float(c) for _, c in parts) == float(count)
    assert sum(float(x) for x, _ in parts) == pytest.approx(float(total), rel=2e-5, abs=1e-5)
