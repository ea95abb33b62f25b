from __future__ import annotations

import dataclasses

import pytest

from ray_jobs.sweeping.options import SweepOptions
from ray_jobs.sweeping.planning import new_setup
from search.log import SweepState
from search.samplers.ask import ask
from search_spaces.checks import check_anchor, check_space
from search_spaces.compression import DATA, FULL, GAN, KINDS, MASKS, SPACES, WEIGHTS
from search_spaces.domains import Choice
from settings.files import preset_file
from settings.flat import flatten, leaves, replace
from trainables.system import load_system

SYSTEM = load_system("compression")

ANCHOR = {name: "loss.bce" if name == "masks" else "loss.l1" for name in SPACES}

# The document's table of tunables, one row a line: the space and its keys.
DOCUMENTED = {
    "KL, perceptual": (FULL, ("loss.kl.weight", "loss.perceptual.weight")),
    "adversarial": (FULL, ("loss.adversarial.weight", "loss.adversarial.enabled")),
    "start and ramp of the GAN": (
        FULL,
        ("loss.adversarial.schedule.start", "loss.adversarial.schedule.end"),
    ),
    "rate of the critic": (FULL, ("critic_optimizer.lr",)),
    "VQ commitment, codes": (FULL, ("loss.vq.weight", "model.vqvae.codes")),
    "regional weights": (
        FULL,
        tuple(f"loss.l1.regional.{size}" for size in ("tiny", "small", "medium", "large")),
    ),
    "seg bce, dice, boundary": (MASKS, ("loss.dice.weight", "loss.boundary.weight")),
    "lr, batch, clip, weight decay": (
        FULL,
        ("optimizer.lr", "train.batch_size", "train.clip_norm", "optimizer.weight_decay"),
    ),
    "augmentation": (DATA, ("augment.kind",)),
}


@pytest.mark.parametrize("row", DOCUMENTED)
def test_the_documented_tunables_are_covered(row):
    space, keys = DOCUMENTED[row]
    assert set(keys) <= set(space.domains)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space_keeps_the_anchor_whatever_terms_are_on(space):
    tree = replace(SYSTEM.Settings(), {**space.fixed})
    check_anchor(space, list(SYSTEM.phases(tree, None)[0].composite.terms))
    anchor = ANCHOR[space.name]
    assert space.fixed[f"{anchor}.weight"] == 1.0
    assert space.fixed[f"{anchor}.enabled"] is True
    assert not {f"{anchor}.weight", f"{anchor}.enabled"} & set(space.domains)


def test_every_condition_is_on_a_searched_choice_that_can_hold():
    for space in SPACES.values():
        for domain in space.domains.values():
            for other, values in domain.when.items():
                if other in space.fixed:
                    assert other == "model.kind"  # another by an override
                    continue
                parent = space.domains[other]
                assert isinstance(parent, Choice)
                assert all(parent.contains(value) for value in values)


@pytest.mark.parametrize("space", [FULL, KINDS, MASKS], ids=lambda space: space.name)
def test_what_only_one_kind_reads_is_searched_for_that_kind_alone(space):
    kinds = ("vae", "vqvae", "dcae") if "model.kind" in space.domains else ("vqvae", "dcae")
    for kind in kinds:
        others = {*kinds} - {kind}
        own = {key: domain for key, domain in space.domains.items() if f"model.{kind}." in key}
        assert own
        assert all(domain.when["model.kind"] == (kind,) for domain in own.values())
        assert not any(f"model.{other}." in key for key in own for other in others)
    for term, kind in (("kl", "vae"), ("vq", "vqvae")):
        if kind in kinds:
            assert space.domains[f"loss.{term}.weight"].when == {"model.kind": (kind,)}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_spaces_are_legal_for_the_system(space):
    tree = replace(SYSTEM.Settings(), space.fixed)
    checked = check_space(space, leaves(SYSTEM.Settings), prepare_reads=SYSTEM.prepare_reads)
    bound = set(checked.bind(flatten(tree)).domains)
    of_others = {"model.dcae.latent_channels"} if space is MASKS else set()
    assert bound == set(space.domains) - of_others


@pytest.mark.parametrize("space", [FULL, KINDS, MASKS], ids=lambda space: space.name)
def test_the_share_below_which_a_code_begins_anew_is_searched_where_one_does(space):
    kind = {"model.kind": ("vqvae",)}
    assert space.domains["model.vqvae.start"] == Choice(("normal", "kmeans"), when=kind)
    assert space.domains["model.vqvae.revive"] == Choice(("none", "encoder"), when=kind)
    revived = {**kind, "model.vqvae.revive": ("encoder",)}
    assert space.domains["model.vqvae.revive_below"].when == revived


def test_masks_have_a_second_kind():
    options = SweepOptions(system="compression", space="masks", overrides=("model.kind=dcae",))
    searched = set(new_setup(options).plan.space.domains)
    kind = {key for key in MASKS.domains if key.startswith("model.vqvae.")} | {"loss.vq.weight"}
    assert searched == set(MASKS.domains) - kind
    assert "model.dcae.latent_channels" in searched


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("weights", {"document_vae", "lapped"}),
        ("gan", {"document"}),
        ("kinds", {"document_vae", "document_vqvae", "document_dcae"}),
        ("augment", {"document_vae", "document_regional"}),
        ("masks", {"document_masks"}),
        ("full", {"document", "document_vqvae", "document_dcae"}),
    ],
)
def test_the_documented_points_are_trials_that_the_sampler_is_told_of(name, inside):
    setup = new_setup(SweepOptions(system="compression", space=name))
    assert {point.name for point in setup.plan.points if not point.outside} == inside
    for point in setup.plan.points:
        preset = preset_file("compression", point.name).values
        trial = flatten(setup.configured.under(point.sampled).settings)
        assert {key: trial[key] for key in preset} == preset


@pytest.mark.parametrize("name", SPACES)
def test_drawn_settings_make_a_legal_tree(name):
    setup = new_setup(SweepOptions(system="compression", space=name, sampler="random"))
    plan = dataclasses.replace(setup.plan, points=())
    for number in range(40):
        drawn = ask(plan, SweepState(), number)
        tree = setup.configured.under(drawn).settings  # refuses what breaks a rule
        trial = flatten(tree)
        assert all(trial[key] == value for key, value in drawn.items())
        composite = SYSTEM.phases(tree, None)[0].composite
        weights = composite.weights(tree.train.steps, tree.train.steps)
        assert weights[ANCHOR[name].removeprefix("loss.")] == 1.0


def test_without_the_gan_nothing_of_it_is_searched_and_the_critic_begins_before_its_term():
    """One switch; the critic stays, so that all trials have the same columns."""
    switch, ramp = "loss.adversarial.enabled", "loss.adversarial.schedule"
    parts = ("loss.adversarial.", "discriminator.", "critic.", "critic_optimizer.")
    for space in (GAN, FULL):
        assert space.fixed["discriminator.enabled"] is True
        searched = {key for key in space.domains if key.startswith(parts)} - {switch}
        of_ramp = {f"{ramp}.start", f"{ramp}.end"}
        assert of_ramp < searched
        for key in searched:
            more = {f"{ramp}.kind": ("warmup",)} if key in of_ramp else {}
            assert space.domains[key].when == {switch: (True,), **more}
        assert space.domains[f"{ramp}.start"].high <= space.domains[f"{ramp}.end"].low
        assert not [key for key in (*space.fixed, *space.domains) if key.startswith("critic.")]


@pytest.mark.parametrize("name", SPACES)
def test_who_searches_the_size_of_the_latent_is_judged_by_its_bits_as_well(name):
    setup = new_setup(SweepOptions(system="compression", space=name))
    found = [one.metric for one in setup.plan.goal.objectives]
    sizes = {"latent_channels", "codes", "code_width"}
    searched = {key.rsplit(".", 1)[-1] for key in SPACES[name].domains}
    distortion = "val.dice_quantised" if name == "masks" else "val.psnr_quantised_db"
    assert found == [distortion, *(["val.rate_bpp"] if sizes & searched else [])]


def test_the_command_line_is_above_the_metrics_of_the_space():
    options = SweepOptions(system="compression", space="kinds", metrics=("val.ms_ssim",))
    assert [one.metric for one in new_setup(options).plan.goal.objectives] == ["val.ms_ssim"]


def test_the_default_space_is_small():
    assert next(iter(SPACES.values())) is WEIGHTS
    assert len(WEIGHTS.domains) <= 7
