"""Codebooks through the loop: cuts of a step, a resume, and the sign of dead codes."""

from __future__ import annotations

import pytest
import torch

from metrics.health_signs import SIGNS
from settings.flat import replace
from settings.schema import SettingsError
from settings.stop_reasons import HealthStop
from trainables.checkpoints import checkpoint
from trainables.compression.system import Compression
from trainables.contract.examined import SHORT
from trainables.loop import fit
from trainables.run import LocalRun

SYSTEM = Compression()
SMALL = {
    **Compression.small,
    **SHORT,
    "discriminator.enabled": False,
    "loss.adversarial.enabled": False,
    "loss.perceptual.enabled": False,
    "model.kind": "vqvae",
    "model.vqvae.widths": (8, 16),
    "model.vqvae.codes": 32,
    "augment.kind": "none",
    "optimizer.eps": 1e-4,  # with 1e-8 Adam takes a whole step for a gradient of rounding
}
LIVELY = {
    "model.vqvae.start": "kmeans",
    "model.vqvae.revive": "encoder",
    "model.vqvae.revive_below": 0.9,
    "model.vqvae.decay": 0.5,  # codes die within a step
}
SIGN = "health.codebook_utilisation"
CODEBOOK = "module.autoencoder.network.quantizer.quantizer."


@pytest.fixture
def train(shared_cache, tmp_path, one_thread):
    """(reports, tensors of the last checkpoint) of a short training in a folder."""

    def run(name, stop=None, resume=False, **changes):
        named = {key.replace("__", "."): value for key, value in changes.items()}
        tree = replace(SYSTEM.Settings(), {**SMALL, **named})
        there = LocalRun(tmp_path / name, resume=resume, stop_step=stop)
        fit(SYSTEM, tree, there, SYSTEM.prepare(tree, shared_cache))
        newest = checkpoint.available(tmp_path / name / "checkpoints")[-1]
        reports = [{k: v for k, v in row.items() if k != "seconds"} for row in there.history]
        return reports, checkpoint.load(newest, SYSTEM.name).tensors

    return run


def lively(**changes):
    return {**{key.replace(".", "__"): value for key, value in LIVELY.items()}, **changes}


@pytest.mark.slow
def test_a_resume_between_two_revivals_is_exact(train):
    whole, tensors = train("whole", **lively(train__ema_decay=0.5))
    train("part", stop=2, **lively(train__ema_decay=0.5))
    rest, found = train("part", resume=True, **lively(train__ema_decay=0.5))
    assert rest[-1] == whole[-1]
    assert all(torch.equal(found[key], value) for key, value in tensors.items())
    _, plain = train("plain", train__ema_decay=0.5)
    assert plain.keys() == tensors.keys(), "checkpoints of before have no other tensors"
    key = f"{CODEBOOK}embedding.weight"
    assert not torch.allclose(plain[key], tensors[key])
    _, started = train("started", **lively(train__ema_decay=0.5, model__vqvae__revive="none"))
    assert not torch.allclose(started[key], tensors[key]), "nothing was revived"


@pytest.mark.parametrize("settings", [{}, LIVELY], ids=["as it was", "start and revival"])
def test_a_codebook_moves_once_an_update_however_that_is_cut(train, settings):
    settings = {key.replace(".", "__"): value for key, value in settings.items()}
    cuts = ({"train__batch_size": 4}, {"train__batch_size": 1, "train__accumulate": 4})
    (_, whole), (_, cut) = (
        train(str(place), **settings, **each) for place, each in enumerate(cuts)
    )
    for key, value in whole.items():
        torch.testing.assert_close(cut[key], value, rtol=1e-4, atol=1e-5)


def test_dead_codes_are_told_of_once_and_end_a_training_that_asks_for_it(train, capsys):
    """With 512 codes for 96 cells of validation most are dead, whatever is learnt."""
    dead = {"model__vqvae__codes": 512, "train__report_every": 1}
    reports, _ = train("told", **dead)
    said = [row for row in capsys.readouterr().err.splitlines() if "dead" in row]
    assert len(said) == 1 and said[0].startswith("warning: step 1: codes that validation uses")
    for report in reports:
        assert report[SIGN] == report["val.codebook_utilisation"] < 0.5
        assert report[SIGN] == 1.0 - report["val.codebook_dead_codes"] / 512
        assert report[f"{SIGN}.warned"] == 1.0
    few, _ = train("few", health__codebook_utilisation=0.0, **dead)
    assert [report[f"{SIGN}.warned"] for report in few] == [0.0] * len(few)
    ended, _ = train("ended", health__stop=("codebook_utilisation",), health__stop_after=2, **dead)
    stop = HealthStop.parse(ended[-1]["stop_reason"])
    assert (stop.name, stop.step, len(ended)) == ("codebook_utilisation", 2, 2)
    assert stop.value < stop.threshold == 0.5


def test_where_codes_are_revived_already_the_way_out_is_another(train, capsys):
    train("plain", model__vqvae__codes=512)
    assert "(see model.vqvae.revive): share" in capsys.readouterr().err
    reports, _ = train("revived", model__vqvae__codes=512, model__vqvae__revive="encoder")
    (said,) = [row for row in capsys.readouterr().err.splitlines() if "dead" in row]
    assert "see model.vqvae.revive" not in said
    assert "raise model.vqvae.revive_below, or take fewer model.vqvae.codes): share" in said
    assert said.endswith("(health.codebook_utilisation=0.5)")
    assert reports[-1][f"{SIGN}.warned"] == 1.0


def test_a_model_without_a_codebook_has_no_such_sign():
    tree = replace(SYSTEM.Settings(), {"health.stop": ("codebook_utilisation", "term_share")})
    other = replace(tree, {"model.kind": "vqvae", "health.overfit_ratio": 3.0})
    own, none = SYSTEM.health(other), SYSTEM.health(replace(other, {"model.kind": "dcae"}))
    assert [sign.name for sign in own.measured] == ["codebook_utilisation"]
    assert not none.measured and none.stop == ("term_share",) and none.overfit_ratio == 3.0
    assert own is other.health
    revived = replace(other, {"model.vqvae.revive": "encoder"})
    assert SYSTEM.health(revived).overfit_ratio == 3.0 and SYSTEM.health(revived).stop == own.stop
    with pytest.raises(SettingsError, match=r"health\.stop"):
        replace(tree, {"health.stop": ("cap_saturation",)})
    assert set(SIGNS) < {"codebook_utilisation", *SIGNS}
