"""The curriculum of npt, which keeps the tokens whose attention is short, and the adapter that a
converter is compared with.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.text.dataset import open_split
from losses.npt.terms import SHARE
from models.npt.layers import layers_of, with_rules, without_attention
from models.npt.llama import logits_of
from models.npt.student import LEVELS, teach
from settings.flat import replace
from settings.schema import SettingsError
from trainables.loop import fit
from trainables.npt.forward import convert, of
from trainables.npt.system import Npt
from trainables.npt.teacher import load
from trainables.run import LocalRun
from trainables.stepping.inputs import batch_of, in_training, in_validation

pytestmark = pytest.mark.slow  # the import of Llama alone takes seconds

SYSTEM = Npt()
CURRICULUM = {"npt.curriculum.enabled": True}
ADAPTER = {
    "model.kind": "adapter",
    "loss.encoding.enabled": False,
    "loss.regularisation.enabled": False,
}


def settings_of(changes):
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})


@pytest.fixture(scope="module")
def prepared(shared_cache, module_on_one_thread):
    return SYSTEM.prepare(settings_of({}), shared_cache)


def built_for(settings, prepared):
    torch.manual_seed(0)
    return SYSTEM.build(settings, prepared).modules


def training_batch(settings, prepared, share, count=24):
    """Windows of all documents, as at a step at which the schedule has that share."""
    (phase,) = SYSTEM.phases(settings, prepared)
    loaders = SYSTEM.loaders(settings, prepared)
    keys = [(index * len(loaders.train) // count, index) for index in range(count)]
    batch = in_training(phase, 0, 0, 10)(batch_of(loaders, "train", keys))
    assert SHARE in batch
    return {**batch, SHARE: torch.full((count,), share)}


def test_the_quantiles_are_those_of_all_tokens_together(prepared):
    settings, teacher = settings_of({}), prepared.teacher
    llama = load(teacher.external.file, teacher.config)
    windows = open_split(prepared.text, "train", settings.data)
    chosen = np.linspace(0, len(windows) - 1, 128).round().astype(int)
    samples = [windows[int(index)] for index in chosen]
    tokens, mask = (torch.stack([s[name] for s in samples]) for name in ("tokens", "mask"))
    _, records = teach(llama, tokens, (0, 1))
    stored = load_file(teacher.facts)["lengths"].numpy()
    for at in (0, 1):
        lengths = np.linalg.norm(records[at].attention[mask].numpy(), axis=-1)
        expected = np.quantile(lengths, np.linspace(0, 1, LEVELS))
        np.testing.assert_allclose(stored[at], expected, rtol=1e-4, atol=1e-6)
        converters = of(built_for(settings, prepared))
        for share in (0.05, 0.3, 0.7345, 0.999):
            threshold = converters.threshold(torch.tensor(share))[at]
            levels = np.linspace(0, 1, LEVELS)
            assert float(threshold) == pytest.approx(
                np.interp(share, levels, stored[at]), rel=1e-4
            )
    assert torch.isinf(converters.threshold(torch.tensor(1.0))).all()


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_a_term_is_a_mean_over_the_tokens_with_a_short_attention(prepared, share):
    """By its formula over the tokens chosen by numpy; the count is the share of the tokens."""
    settings = settings_of(CURRICULUM)
    modules = built_for(settings, prepared)
    batch = training_batch(settings, prepared, share)
    batch["mask"][0, 20:] = False
    of(modules).train()
    prediction = convert(modules, batch, settings)
    _, records = teach(modules["teacher"], batch["tokens"], (0, 1))
    stored = load_file(prepared.teacher.facts)["lengths"].numpy()
    total = 0.0
    real = batch["mask"].numpy()
    for at in (0, 1):
        lengths = np.linalg.norm(records[at].attention.numpy(), axis=-1)
        level = np.interp(share, np.linspace(0, 1, LEVELS), stored[at])
        short = (lengths <= level) | (share == 1.0)
        total += (prediction["change"][:, at].detach().numpy() ** 2).mean(-1)[
            short & real
        ].sum() / 2
        if share < 1.0:
            assert abs((short & real).sum() / real.sum() - share) < 0.15
    (phase,) = SYSTEM.phases(settings, prepared)
    terms = phase.composite.terms
    measured, count = terms["regularisation"](prediction, batch, settings)
    assert float(measured.detach()) == pytest.approx(total, rel=1e-4)
    assert float(count) == pytest.approx(share * real.sum(), rel=1e-6)
    assert float(terms["fidelity"].count(batch, settings)) == real.sum()


def test_validation_keeps_all_tokens(prepared):
    settings = settings_of(CURRICULUM)
    (phase,) = SYSTEM.phases(settings, prepared)
    batch = in_validation(phase)(batch_of(SYSTEM.loaders(settings, prepared), "validation", [0]))
    assert SHARE not in batch
    modules = built_for(settings, prepared)
    of(modules).eval()
    assert "kept" not in convert(modules, batch, settings)


def test_the_share_is_a_column(prepared, tmp_path):
    settings = settings_of({**CURRICULUM, "train.steps": 4, "train.report_every": 2})
    run = LocalRun(tmp_path)
    fit(SYSTEM, settings, run, prepared)
    column = f"train.{SHARE}"
    assert [report[column] for report in run.history[-2:]] == pytest.approx([0.65, 1.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"npt.curriculum.share.first": 0.0},
        {"npt.curriculum.share.last": 1.5},
        {"npt.curriculum.share.kind": "warmup"},
    ],
)
def test_a_curriculum_without_tokens_is_refused(changes):
    with pytest.raises(SettingsError, match=r"must lie between 0\.05 and 1"):
        settings_of({**CURRICULUM, **changes})
    settings_of(changes)


# The adapter


def test_an_adapter_adds_a_linear_map_of_attention(prepared):
    settings = settings_of(ADAPTER)
    modules = built_for(settings, prepared)
    of(modules).eval()
    batch = batch_of(SYSTEM.loaders(settings, prepared), "validation", [0, 1])
    llama = modules["teacher"]
    rules = dict.fromkeys((0, 1), without_attention)
    without = logits_of(with_rules(llama, rules), batch["tokens"])
    with torch.no_grad():
        assert torch.equal(convert(modules, batch, settings)["logits"], without), "B = 0"
        adapter = of(modules).each["1"]
        adapter.up.weight.normal_()
        prediction = convert(modules, batch, settings)
        layer = layers_of(llama)[1]
        h, a = prediction["hidden"][:, 1], prediction["attention"][:, 1]
        product = adapter.up.weight @ adapter.down.weight
        expected = layer.mlp(layer.post_attention_layernorm(h)) + a @ product.T
    torch.testing.assert_close(prediction["mlp"][:, 1], expected, rtol=1e-4, atol=1e-5)
    assert not prediction["change"].any()
    assert product.shape == (16, 16) and np.linalg.matrix_rank(product.detach()) == 8


def test_an_adapter_learns(prepared, tmp_path):
    changes = {"train.steps": 12, "train.report_every": 2, "optimizer.lr": 2e-2}
    run = LocalRun(tmp_path)
    fit(SYSTEM, settings_of({**ADAPTER, **changes}), run, prepared)
    assert run.history[-1]["val.direct_error"] < 0.95 * run.history[0]["val.direct_error"]


def test_terms_of_pairs_are_refused_with_an_adapter():
    with pytest.raises(SettingsError, match=r"encoding, regularisation read\. Set loss\.encoding"):
        settings_of({"model.kind": "adapter"})
    with pytest.raises(SettingsError, match=r"draws no code"):
        settings_of({**ADAPTER, "model.bottleneck": True})
