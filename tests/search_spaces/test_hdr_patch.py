from __future__ import annotations

import dataclasses

import pytest

from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from search.log import SweepState
from search.samplers.ask import ask
from search_spaces.checks import check_anchor, check_space
from search_spaces.domains import Choice
from search_spaces.hdr_patch import CAPS, FULL, GAN, SPACES
from settings.files import preset_file
from settings.flat import flatten, leaves, replace
from trainables.system import load_system

TERMS = (
    "log",
    "l1",
    "edge",
    "boundary",
    "hole",
    "context",
    "sparsity",
    "range",
    "wasserstein",
    "moments",
    "perceptual",
    "color",
    "adversarial",
)

# The document's table of tunables, one key (or more) a row.
DOCUMENTED = (
    "hdr.cap.log_delta_max",
    "hdr.cap.alpha",
    "hdr.cap.log_delta_scale",
    "hdr.cap.mode",
    "hdr.cap.per_channel",
    "hdr.clamp.enabled",
    "hdr.clamp.max",
    "hdr.cap.scale_init",
    "hdr.cap.scale_low",
    "hdr.cap.scale_high",
    "loss.log.weight",
    "loss.log.kind",
    "loss.log.beta",
    "hdr.epsilon",
    "loss.sparsity.weight",
    "loss.range.weight",
    "loss.range.safe_range",
    "loss.wasserstein.weight",
    "loss.moments.weight",
    "hdr.ring_scale",
    "hdr.ring_kernel",
    "hdr.dither",
    "hdr.prefill",
    "hdr.mask",
)


def test_the_full_space_covers_the_documented_tunables():
    assert set(DOCUMENTED) <= set(FULL.domains)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space_keeps_the_anchor_whatever_terms_are_on(space):
    check_anchor(space, TERMS)
    check_anchor(space, ("l1", "log"))
    assert "loss.l1.weight" not in space.domains
    assert "loss.l1.enabled" not in space.domains
    assert not set(space.fixed) & set(space.domains)


def test_a_searched_weight_exists_only_while_its_term_is_on():
    switched = [
        key for key in FULL.domains if key.endswith(".enabled") and key.startswith("loss.")
    ]
    assert switched
    for key in switched:
        weight = FULL.domains[key.replace(".enabled", ".weight")]
        assert weight.when == {key: (True,)}
        assert FULL.domains[key].options == (True, False)


def test_every_condition_is_on_a_searched_choice_that_can_hold():
    for domain in FULL.domains.values():
        for other, values in domain.when.items():
            parent = FULL.domains[other]
            assert isinstance(parent, Choice)
            assert all(parent.contains(value) for value in values)


def test_the_start_of_the_scale_lies_inside_its_bounds_in_every_draw():
    default_start, default_low, default_high = 6.0, 2.0, 24.0
    start = FULL.domains["hdr.cap.scale_init"]
    assert default_low < start.low
    assert start.high < default_high
    assert FULL.domains["hdr.cap.scale_low"].high < default_start
    assert default_start < FULL.domains["hdr.cap.scale_high"].low


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_spaces_are_legal_for_the_system(space):
    system = load_system("hdr_patch")
    tree = replace(system.Settings(), space.fixed)
    checked = check_space(space, leaves(system.Settings), prepare_reads=system.prepare_reads)
    bound = checked.bind(flatten(tree))
    assert len(bound.domains) == len(space.domains)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("caps", {"prefill"}),
        ("full", {"prefill"}),
        ("gan", {"prefill", "gan"}),
    ],
)
def test_which_documented_points_the_sampler_is_told(name, inside):
    tree = replace(load_system("hdr_patch").Settings(), SPACES[name].fixed)
    space = check_space(SPACES[name], leaves(type(tree))).bind(flatten(tree))
    placed = {}
    for point in space.points:
        preset = preset_file("hdr_patch", point).values
        typed = flatten(replace(tree, preset))
        placed[point] = space.place(point, {key: typed[key] for key in preset}, flatten(tree))
    assert {point for point, where in placed.items() if not where.outside} == inside


@pytest.mark.parametrize("name", SPACES)
def test_drawn_settings_make_a_legal_tree(name):
    setup = new_setup(SweepOptions(system="hdr_patch", space=name, sampler="random"))
    plan = dataclasses.replace(setup.plan, points=())
    for number in range(60):
        drawn = ask(plan, SweepState(), number)
        trial = flatten(setup.configured.under(drawn).settings)  # refuses what breaks a rule
        assert all(trial[key] == value for key, value in drawn.items())


def test_the_demo_space_is_small():
    assert len(CAPS.domains) == 5
    assert CAPS.fixed["hdr.cap.alpha"] == 1.0


def test_without_the_gan_nothing_of_it_is_searched_and_with_it_everything():
    """One switch; the critic stays, so that all trials have the same columns."""
    switch = "loss.adversarial.enabled"
    parts = ("loss.adversarial.", "discriminator.", "critic.", "critic_optimizer.")
    searched = {key for key in GAN.domains if key.startswith(parts)} - {switch}
    assert GAN.fixed["discriminator.enabled"] is True
    assert {f"discriminator.{name}" for name in ("objective", "norm", "spectral")} <= searched
    for key, domain in GAN.domains.items():
        assert domain.when == ({switch: (True,)} if key in searched else {}), key
    starts = [GAN.domains[f"{key}.schedule.start"] for key in ("critic.patch", "loss.adversarial")]
    assert starts[0].high <= starts[1].low
    assert starts[1].high <= GAN.domains["loss.adversarial.schedule.end"].low
