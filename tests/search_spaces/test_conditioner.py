from __future__ import annotations

import dataclasses
import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.balancers.settings import BalancerSettings, make_balancer
from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import SweepSetup, new_setup
from search.log import SweepState
from search.samplers.ask import ask
from search_spaces.checks import check_anchor, check_space
from search_spaces.conditioner import BALANCERS, FULL, POINTS, SPACES, TRAINING, WEIGHTS
from search_spaces.domains import Choice
from settings.files import preset_file
from settings.flat import flatten, leaves, replace
from settings.schema import SettingsError
from trainables.system import load_system

SYSTEM = load_system("conditioner")

TERMS = (
    *("main_mse", "main_mae", "main_huber", "main_perceptual"),
    *("hier_mse", "hier_mae", "hier_huber", "hier_perceptual"),
    *("decoded", "consistency", "spectral"),
)

# The document's table of tunables, one row a line.
DOCUMENTED = {
    "main : hierarchical": ("loss.main_mse.weight", "loss.balancer.ratio_max"),
    "mse, mae, huber": (
        *("loss.main_mae.weight", "loss.main_huber.weight"),
        *("loss.hier_mae.weight", "loss.hier_huber.weight"),
    ),
    "smooth-L1 beta": ("loss.main_huber.beta", "loss.hier_huber.beta"),
    "perceptual weight": ("loss.main_perceptual.weight", "loss.hier_perceptual.weight"),
    "perceptual widths": ("loss.main_perceptual.widths", "loss.hier_perceptual.widths"),
    "perceptual start": ("loss.main_perceptual.start", "loss.hier_perceptual.start"),
    "consistency weight": ("loss.consistency.weight",),
    "consistency target": ("loss.consistency.teacher", "train.ema_decay"),
    "spectral": ("loss.spectral.weight", "loss.spectral.kind"),
    "adaptive weighting": ("loss.balancer.kind", "loss.balancer.lr"),
    "lr, eta_min, warm-up": ("optimizer.lr", "optimizer.final", "optimizer.warmup"),
    "weight decay": ("optimizer.weight_decay",),
    "batch, clip": ("train.batch_size", "train.clip_norm"),
    "outer and inner probability": ("augment.outer_probability", "augment.inner_probability"),
    "flip": ("augment.flip_symmetric", "augment.flip_probability"),
    "shift": ("augment.shift_probability", "augment.shift_pixels"),
    "rotate": ("augment.rotation_probability", "augment.rotation_degrees"),
    "scale": ("augment.scale_probability", "augment.scale_change"),
    "mix-up": ("augment.mixup_probability", "augment.mixup_alpha"),
    "noise": ("augment.noise_probability", "augment.noise_sigma"),
    "head init gain": ("model.head_gain",),
    "SE reduction": ("model.reduction",),
    "dropout": ("model.dropout",),
    "the network": ("model.filters", "model.attention", "model.output_scale"),
}

ENDINGS = ("train.overfit_ratio", "train.patience")
"""Searched in `training` alone: they save time and improve no trial."""

REFUSED = {
    "vae.reach": "vae.reach: {uniform: [0.5, 0.95]}",  # the target range
    "train.steps": "train.steps: {integer: [100, 300]}",  # epochs
}


@pytest.mark.parametrize("row", DOCUMENTED)
def test_the_full_space_covers_the_documented_tunables(row):
    assert set(DOCUMENTED[row]) <= set(FULL.domains)


def test_the_rules_that_end_a_training_are_in_a_space_of_their_own():
    assert set(ENDINGS) <= set(TRAINING.domains)
    assert not set(ENDINGS) & set(FULL.domains)


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_in_no_space_cannot_be_searched(tmp_path, key):
    assert not any(key in space.domains for space in SPACES.values())
    (tmp_path / "space.yaml").write_text(REFUSED[key])
    with pytest.raises(SettingsError, match=f"{key} cannot be searched"):
        new_setup(SweepOptions(system="conditioner", space=str(tmp_path / "space.yaml")))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space_keeps_the_anchor_whatever_terms_are_on(space):
    check_anchor(space, TERMS)
    check_anchor(space, ("main_mse", "hier_mse"))
    assert "loss.hier_mse.weight" not in space.domains
    assert "loss.hier_mse.enabled" not in space.domains
    assert not set(space.fixed) & set(space.domains)


def test_a_weight_exists_only_while_its_term_is_on_and_weights_are_what_is_applied():
    switches = [key for key in FULL.domains if key.endswith(".enabled")]
    assert {f"loss.{name}.enabled" for name in TERMS if "mse" not in name} == set(switches)
    for key in switches:
        weight = FULL.domains[key.replace(".enabled", ".weight")]
        assert weight.when == {key: (True,), "loss.balancer.kind": ("fixed",)}


def test_every_condition_is_on_a_searched_choice_that_can_hold_or_on_the_data():
    for space in SPACES.values():
        for domain in space.domains.values():
            for other, values in domain.when.items():
                if other == "data.kind":
                    continue
                parent = space.domains[other]
                assert isinstance(parent, Choice)
                assert all(parent.contains(value) for value in values)


def test_every_setting_of_a_balancer_is_searched_where_that_balancer_reads_it():
    """By what the balancers are made with: another value of the key makes another state."""
    terms = SYSTEM.phases(SYSTEM.Settings(), None)[0].composite.terms
    assert set(TERMS) == set(terms)
    for kind in BALANCERS:
        plain = vars(make_balancer(BalancerSettings(kind=kind), terms))
        for name, leaf in leaves(BalancerSettings).items():
            if name in ("kind", "base", "groups", "adapts"):  # of a sweep, not of a trial
                continue
            other = leaf.default * 2 + 1 if leaf.type is int else leaf.default / 2 or 0.5
            changed = vars(make_balancer(BalancerSettings(kind=kind, **{name: other}), terms))
            domain = FULL.domains[f"loss.balancer.{name}"]
            is_read = repr(_plain(changed)) != repr(_plain(plain))
            assert is_read == (kind in domain.when["loss.balancer.kind"]), (kind, name)


def _plain(state):
    """The state with that of the objects in it."""
    return {k: vars(v) if hasattr(v, "__dict__") else v for k, v in state.items()}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_spaces_are_legal_for_the_system(space):
    tree = replace(SYSTEM.Settings(), space.fixed)
    checked = check_space(space, leaves(SYSTEM.Settings), prepare_reads=SYSTEM.prepare_reads)
    assert len(checked.bind(flatten(tree)).domains) == len(space.domains)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("weights", {"baseline"}),
        # The document's own have the soft-max, which no space asks for.
        ("full", set(POINTS) - {"document", "large_data"}),
        ("training", {"baseline"}),
    ],
)
def test_which_documented_points_the_sampler_is_told(name, inside):
    setup = new_setup(SweepOptions(system="conditioner", space=name))
    assert {point.name for point in setup.plan.points if not point.outside} == inside
    for point in setup.plan.points:
        preset = preset_file("conditioner", point.name).values
        tree = flatten(setup.configured.under(point.sampled).settings)
        kept = {k: v for k, v in preset.items() if not k.startswith(("train.", "data."))}
        assert all(tree[key] == pytest.approx(value) for key, value in _typed(kept).items())


@pytest.mark.parametrize("name", [*POINTS, "high_resolution"])
def test_the_documents_terms_have_its_own_forms(name):
    """At its own strength: linear layers as torch starts them, and the sum of squares."""
    values = preset_file("conditioner", name).values
    for term in ("main_perceptual", "hier_perceptual"):
        assert values.get(f"loss.{term}.start") == (
            "torch" if values.get(f"loss.{term}.enabled") else None
        )
    assert values.get("loss.spectral.kind") == (
        "energy" if values.get("loss.spectral.enabled") else None
    )


def _typed(values):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


GIVEN = ("data.source=folder", "data.images=i", "data.targets=t", "data.kind=latents")


@functools.cache
def setup_of(space: str, *overrides: str) -> SweepSetup:
    options = SweepOptions(
        system="conditioner", space=space, overrides=overrides, sampler="random"
    )
    return new_setup(options)


@pytest.mark.parametrize("overrides", [(), GIVEN], ids=["fields", "latents"])
@pytest.mark.parametrize("space", SPACES)
@given(number=st.integers(0, 10_000), seed=st.integers(0, 1000))
def test_drawn_settings_make_a_legal_tree(space, overrides, number, seed):
    setup = setup_of(space, *overrides)
    drawn = ask(dataclasses.replace(setup.plan, seed=seed, points=()), SweepState(), number)
    tree = setup.configured.under(drawn).settings  # refuses what breaks a rule
    trial = flatten(tree)
    assert all(trial[key] == value for key, value in drawn.items())
    weights = SYSTEM.phases(tree, None)[0].composite.weights(0, tree.train.steps)
    assert weights["main_mse"] > 0.0
    assert weights["hier_mse"] > 0.0


def test_given_latents_leave_the_decoded_field_out():
    for name in ("full", "weights"):
        assert "loss.decoded.enabled" in setup_of(name).plan.space.domains
        domains = setup_of(name, *GIVEN).plan.space.domains
        assert not [key for key in domains if key.startswith("loss.decoded")]


def test_the_default_space_is_small():
    assert next(iter(SPACES.values())) is WEIGHTS
    assert len(WEIGHTS.domains) <= 6
