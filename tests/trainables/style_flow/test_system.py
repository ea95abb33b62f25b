"""The forward, the references and the use of `style_flow`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.style_flow.conditioning import NULL_STYLE
from settings.flat import replace
from settings.schema import SettingsError
from trainables.request import Request
from trainables.stepping.inputs import UPDATE_SEED, batch_of
from trainables.style_flow.forward import stylise
from trainables.style_flow.system import StyleFlow, column_names
from trainables.style_flow.use import GenerateSettings, generate

SYSTEM = StyleFlow()
NAMES = ("field_0", "field_1")


def settings_of(**changes):
    """The small settings, changed; "__" stands for a dot."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **values})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("styles")


def batch_for(settings, cache, split="train", count=6):
    loaders = SYSTEM.loaders(settings, SYSTEM.prepare(settings, cache))
    keys = [(n, 100 + n) if split == "train" else n for n in range(count)]
    return batch_of(loaders, split, keys)


class Recorded(torch.nn.Module):
    """v = x (1 + style), which remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, style):
        self.asked.append((t.clone(), style.clone()))
        return x * (1.0 + style[:, None, None, None])


def predict(settings, batch, training):
    network = Recorded().train(training)
    return stylise({"network": network}, batch, settings), network.asked


@pytest.mark.parametrize("training", [True, False])
def test_the_end_point_is_reached_at_exactly_1(cache, training):
    settings = settings_of(label_drop__share=0.0)
    prediction, asked = predict(settings, batch_for(settings, cache), training)
    assert prediction["last_t"].tolist() == [1.0] * 6
    steps = asked[: settings.flow.steps]
    assert all(bool((t < 1.0).all()) for t, _ in steps)


def test_validation_starts_where_it_is_told_whatever_a_training_draws(cache):
    given = batch_for(settings_of(), cache, "validation")
    ends = []
    for low in (0.0, 0.4):
        settings = settings_of(flow__t0_low=low, label_drop__share=1.0)
        prediction, asked = predict(settings, given, training=False)
        assert asked[0][0].tolist() == pytest.approx([0.8] * 6)
        assert asked[0][1].tolist() == given["target"].tolist()  # no style is withheld
        ends.append(prediction["x1"])
    assert torch.equal(*ends)


def test_a_style_is_withheld_by_the_sample_or_by_the_update(cache):
    settings = settings_of(label_drop__share=0.5)
    given = batch_for(settings, cache, count=12)
    dropped = predict(settings, given, training=True)[0]["dropped"]
    assert 0 < int(dropped.sum()) < 12
    document = replace(settings, {"label_drop.per": "update"})
    seen = set()
    for seed in range(12):
        update = {**given, UPDATE_SEED: torch.full((12,), seed)}
        prediction, asked = predict(document, update, training=True)
        assert len(prediction["dropped"].unique()) == 1
        assert bool((asked[0][1] == NULL_STYLE).all()) == bool(prediction["dropped"][0])
        seen.add(bool(prediction["dropped"][0]))
    assert seen == {True, False}


def test_the_schedule_moves_the_lower_bound_of_t0(cache):
    settings = settings_of(flow__t0_low=0.5, flow__t0_high=1.0, label_drop__share=0.0)
    given = batch_for(settings, cache)
    plain, none = (
        predict(settings, {**given, **added}, training=True)[1][0][0]
        for added in ({}, {"schedule.t0": torch.zeros(6)})
    )
    share = (plain - 0.5) / 0.5
    torch.testing.assert_close(none, share)


def test_velocity_and_divergence_are_made_where_a_term_reads_them(cache):
    settings = settings_of(label_drop__share=0.0, train__measure_idle_terms=False)
    given = batch_for(settings, cache)
    assert "velocity" not in predict(settings, given, training=True)[0]
    some = replace(settings, {"loss.trajectory.enabled": True})
    prediction = predict(some, given, training=True)[0]
    assert "velocity" in prediction
    assert "divergence" not in prediction
    every = replace(settings, {"loss.divergence.enabled": True})
    trace = predict(every, given, training=True)[0]["divergence"]
    # v = x (1 + style): the trace is (1 + style) times the values of a latent
    torch.testing.assert_close(trace, (1.0 + given["target"]) * given["latent"][0].numel())
    for measured in (True, False):  # an evaluation measures every term whatever this says
        told = settings_of(train__measure_idle_terms=measured)
        assert {"velocity", "divergence"} <= predict(told, given, training=False)[0].keys()


def test_the_source_may_be_its_own_reference_in_training_alone(cache):
    settings = settings_of(pairs__references_of="source")
    given = batch_for(settings, cache)
    assert bool((given["references"] == given["latent"][:, None]).all())
    judged = batch_for(settings, cache, "validation")
    plain = batch_for(settings_of(), cache, "validation")
    assert torch.equal(judged["references"], plain["references"])


def test_references_have_the_moments_of_the_target_style(cache):
    settings = settings_of()
    prepared = SYSTEM.prepare(settings, cache)
    given = batch_for(settings, cache, "validation")
    train = SYSTEM.loaders(settings, prepared).train
    made = SYSTEM.references(settings, prepared)
    moved, coloured = (
        made[name].predict(given)["x1"] for name in ("channel_moments", "whitening")
    )
    for place, target in enumerate(given["target"].tolist()):
        rows = np.moveaxis(train.latents[train.members[target]].astype(np.float64), 1, -1)
        style = rows.reshape(-1, rows.shape[-1])
        vectors = (x[place].flatten(1).double().numpy() for x in (moved, coloured))
        for x in vectors:
            np.testing.assert_allclose(x.mean(axis=1), style.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(x.std(axis=1), style.std(axis=0), rtol=1e-3)
        found = np.cov(coloured[place].flatten(1).double().numpy(), bias=True)
        np.testing.assert_allclose(found, np.cov(style.T, bias=True), atol=2e-3)
    assert torch.equal(made["input"].predict(given)["x1"], given["latent"])
    rows = made["random"].predict(given)["x1"]
    for target, row in zip(given["target"].tolist(), rows, strict=True):
        real = torch.from_numpy(train.latents[train.members[target]])
        assert bool((real == row).flatten(1).all(dim=1).any())


def test_names_of_columns_are_words_and_differ():
    assert column_names(["van gogh", "van-gogh", "ihc"]) == ["van_gogh_0", "van_gogh_1", "ihc"]


# The use


@pytest.fixture
def trained():
    settings = settings_of()
    torch.manual_seed(0)
    built = SYSTEM.rebuild(settings, {"channels": 4, "styles": list(NAMES)})
    with torch.no_grad():
        for parameter in built.modules["network"].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return settings, {name: module.eval() for name, module in built.modules.items()}


def request_of(tmp_path, name, batch_size=2, **options):
    target = tmp_path / name
    target.mkdir()
    asked = replace(GenerateSettings(), {"sampling.steps": 2, "sampling.inversion_steps": 2})
    asked = replace(asked, {key.replace("__", "."): value for key, value in options.items()})
    return Request(
        target=target, source=tmp_path / "in", options=asked, count=2, batch_size=batch_size
    )


@pytest.fixture
def contents(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(2):
        latent = np.random.default_rng(n).normal(size=(4, 8, 8)).astype(np.float32)
        np.save(tmp_path / "in" / f"{n}.npy", latent)


def test_generated_latents_hang_on_their_seed_alone(trained, contents, tmp_path):
    asked = {"style": "field_1", "source_style": "field_0", "sampling__langevin__sigma": 0.1}
    first, again = (
        request_of(tmp_path, name, size, **asked) for name, size in (("a", 2), ("b", 3))
    )
    measures = generate(*trained, first)
    generate(*trained, again)
    assert measures["samples"] == 4
    made = [np.load(first.target / f"{n:06d}.npy") for n in range(4)]
    for n, x in enumerate(made):
        np.testing.assert_allclose(np.load(again.target / f"{n:06d}.npy"), x, atol=1e-5)
    assert not np.allclose(made[0], made[1])  # two draws of one content
    assert (first.target / "grid_000000.png").exists()


def test_what_generate_refuses(trained, contents, tmp_path):
    settings, modules = trained
    with pytest.raises(SettingsError, match="field_0, field_1, not nothing"):
        generate(settings, modules, request_of(tmp_path, "none"))
    untold = replace(settings, {"label_drop.share": 0.0})
    with pytest.raises(SettingsError, match=r"label_drop\.share=0"):
        generate(untold, modules, request_of(tmp_path, "guided", style="field_1"))
    np.save(tmp_path / "in" / "odd.npy", np.zeros((4, 6, 8), np.float32))
    with pytest.raises(ValueError, match=r"odd\.npy: expected a latent of 4 channels"):
        generate(settings, modules, request_of(tmp_path, "odd", style="field_1"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__source": "embedded", "data__crop": 40}, "multiple of 16"),
        ({"loss__swd__dropped": "pooled"}, "pooled_references=true"),
        ({"data__field_side": 10}, "multiple of 4"),
        ({"loss__swd__style_weights": (1.0,)}, "each of the 2 styles"),
    ],
)
def test_settings_that_do_not_go_together(changes, said):
    with pytest.raises(SettingsError, match=said):
        settings_of(**changes)
