"""The spaces of diffusion: that of the document's tunables has every row of them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from search.log import SweepState
from search.samplers.ask import ask
from search_spaces.checks import check_anchor, check_space
from search_spaces.diffusion import FULL, SPACES, STRATEGY
from search_spaces.domains import Choice
from settings.files import preset_file
from settings.flat import flatten, leaves, replace
from trainables.system import load_system

SYSTEM = load_system("diffusion")

# The document's table of tunables, one row a line, and its keys.
DOCUMENTED = {
    "logit-normal loc, scale": ("strategy.rflow.mean", "strategy.rflow.std"),
    "timestep transform ratio": (
        "strategy.rflow.transform.enabled",
        "strategy.rflow.transform.scale",
    ),
    "curriculum start, end, epochs": ("strategy.curriculum.high_start", "progress.end"),
    "jitter": ("strategy.jitter.enabled", "strategy.jitter.std"),
    "gradient noise": ("optimizer.noise.eta", "optimizer.noise.gamma"),
    "noise augmentation": ("regulariser.input_noise.std",),
    "feature perturbation": (
        "regulariser.feature_noise.std",
        "regulariser.feature_noise.place",
    ),
    "self-consistency": (
        "loss.consistency.probability",
        "loss.consistency.weight",
        "regulariser.self_conditioning.probability",
    ),
    "SAM": ("optimizer.sam.radius", "optimizer.sam.adaptive"),
    "EMA": ("train.ema_decay", "train.ema_start", "train.ema_every"),
    "Min-SNR": ("strategy.min_snr.enabled", "strategy.min_snr.gamma"),
    "perceptual weight": ("loss.perceptual.enabled", "loss.perceptual.weight"),
    "CFG dropout": (
        "condition.mask.dropout",
        "condition.mode.dropout",
        "condition.sizes.dropout",
    ),
    "regional weights": tuple(
        f"loss.regional.size.{size}" for size in ("tiny", "small", "medium", "large")
    ),
    "ScoreAug compose, nondestructive, destructive, split": (
        "score_aug.kind",
        "score_aug.compose_probability",
        "score_aug.v2.nondestructive",
        "score_aug.v2.destructive",
        "score_aug.v2.cutout_share",
    ),
    "translation, cutout": (
        "score_aug.translation.width",
        "score_aug.translation.height",
        "score_aug.cutout.least",
        "score_aug.cutout.most",
    ),
    "SDA": ("loss.sda.probability", "loss.sda.shift", "loss.sda.weight"),
    "lr, batch, clip, weight decay": (
        "optimizer.lr",
        "train.batch_size",
        "train.clip_norm",
        "optimizer.weight_decay",
    ),
    "drop-path": ("model.dit.drop_path",),
    "patch size, depth, width": ("model.dit.patch_size", "model.dit.size"),
    "size bins: count, embedding": ("condition.sizes.largest", "condition.sizes.entry_width"),
}

# Rows that no trial of a sweep can tell apart, or that trials share.
PREPARED = (
    "condition.sizes.edges_mm",
    "augmented_diffusion.min_channels",
    "augmented_diffusion.channel_step",
)
AFTERWARDS = ("sampling.",)

BY_OVERRIDE = {f"condition.{name}.enabled" for name in ("mask", "mode", "sizes")}
BY_OVERRIDE |= {"condition.sizes.enters"}
"""Conditions of keys that a sweep of masked or labelled images has, and the demo has not."""


@pytest.mark.parametrize("row", DOCUMENTED)
def test_the_documented_tunables_are_covered(row):
    assert set(DOCUMENTED[row]) <= set(FULL.domains)


def test_what_the_full_space_leaves_out_cannot_be_searched_or_is_not_seen():
    """What is prepared once is refused; what makes images does not change the objective."""
    known = leaves(SYSTEM.Settings)
    for key in PREPARED:
        assert key not in FULL.domains
        low, high = ((0.0, 5.0), (0.0, 9.0)) if known[key].is_tuple else (8, 32)
        more = dataclasses.replace(FULL, domains={key: Choice((low, high))})
        with pytest.raises(ValueError, match="the preparation that all trials share"):
            check_space(more, known, prepare_reads=SYSTEM.prepare_reads)
    objective = SYSTEM.metrics(SYSTEM.Settings(), None)[0]
    assert objective.name == "denoising_mse"
    for prefix in AFTERWARDS:
        assert not [key for key in FULL.domains if key.startswith(prefix)]
        assert not [key for key in objective.reads if key.startswith(prefix)]


def test_the_full_space_has_the_four_others():
    others = [space for space in SPACES.values() if space is not FULL]
    assert len(others) == 4
    assert all(set(space.domains) <= set(FULL.domains) for space in others)
    assert next(iter(SPACES.values())) is STRATEGY


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space_keeps_the_anchor_whatever_terms_are_on(space):
    tree = replace(SYSTEM.Settings(), {**space.fixed})
    check_anchor(space, list(SYSTEM.phases(tree, None)[0].composite.terms))
    assert space.fixed == {"loss.mse.enabled": True, "loss.mse.weight": 1.0}
    assert not set(space.fixed) & set(space.domains)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_condition_is_on_a_searched_choice_that_can_hold(space):
    for domain in space.domains.values():
        for other, values in domain.when.items():
            if other in BY_OVERRIDE:
                continue
            parent = space.domains[other]
            assert isinstance(parent, Choice)
            assert all(parent.contains(value) for value in values)


def test_ranges_of_regional_weights_do_not_overlap():
    """So that a smaller lesion never weighs less than a larger one, nor a lesion less than 1."""
    ranges = [FULL.domains[key] for key in DOCUMENTED["regional weights"]]
    assert all(larger.high <= smaller.low for smaller, larger in pairwise(ranges))
    assert ranges[-1].low == 1.0
    for key, domain in zip(DOCUMENTED["regional weights"], ranges, strict=True):
        assert domain.contains(flatten(SYSTEM.Settings())[key])


@pytest.mark.parametrize("name", SPACES)
def test_what_a_space_searches_has_the_point_right_within(name):
    """What it does not search may differ there; the sampler is told of no such point."""
    setup = new_setup(SweepOptions(system="diffusion", space=name))
    right = next(point for point in setup.plan.points if point.name == "right")
    assert not set(right.outside) & set(SPACES[name].domains)


def test_asam_is_drawn_with_its_own_radii():
    """Of 0.5 to 2, ten times those of SAM, which has both."""
    setup = new_setup(SweepOptions(system="diffusion", space="full", sampler="random"))
    plan = dataclasses.replace(setup.plan, points=())
    drawn = [ask(plan, SweepState(), number) for number in range(200)]
    radii = {
        adaptive: {
            each["optimizer.sam.radius"]
            for each in drawn
            if each.get("optimizer.sam.adaptive", False) == adaptive
        }
        for adaptive in (False, True)
    }
    assert radii[True] == {0.5, 1.0, 2.0} < radii[False]
    assert {0.0, 0.01, 0.05, 0.1} < radii[False]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_spaces_are_legal_for_the_system(space):
    checked = check_space(space, leaves(SYSTEM.Settings), prepare_reads=SYSTEM.prepare_reads)
    bound = checked.bind(flatten(replace(SYSTEM.Settings(), space.fixed)))
    of_conditions = {key for key in space.domains if key.startswith("condition.")}
    assert set(bound.domains) == set(space.domains) - of_conditions


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("mode_bravo", {"condition.mask.dropout"}),
        ("mode_multi", {"condition.mode.dropout", "condition.mode.batches"}),
        ("mode_seg_conditioned_input", {"condition.sizes.dropout", "condition.sizes.largest"}),
    ],
)
def test_a_condition_that_is_on_brings_its_keys(preset, more):
    values = preset_file("diffusion", preset).values
    tree = replace(SYSTEM.Settings(), {**FULL.fixed, **values})
    searched = set(FULL.bind(flatten(tree)).domains)
    found = {key for key in searched if key.startswith("condition.")}
    masked = {"condition.mask.dropout"} if values.get("condition.mask.enabled") else set()
    assert found == more | masked


def test_right_is_a_trial_of_the_full_space_and_document_but_for_forms_that_none_has():
    setup = new_setup(SweepOptions(system="diffusion", space="full"))
    assert {point.name: set(point.outside) for point in setup.plan.points} == {
        "right": set(),
        "document": {
            "space.statistics",
            "strategy.rflow.transform.base",
            "sampling.rflow.solver",
        },
    }


@pytest.mark.parametrize("name", SPACES)
def test_drawn_settings_make_a_legal_tree(name):
    setup = new_setup(SweepOptions(system="diffusion", space=name, sampler="random"))
    plan = dataclasses.replace(setup.plan, points=())
    for number in range(40):
        drawn = ask(plan, SweepState(), number)
        tree = setup.configured.under(drawn).settings  # refuses what breaks a rule
        trial = flatten(tree)
        assert all(trial[key] == value for key, value in drawn.items())
        composite = SYSTEM.phases(tree, None)[0].composite
        assert composite.weights(tree.train.steps, tree.train.steps)["mse"] == 1.0
