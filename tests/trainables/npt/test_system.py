"""Teacher, references, refusals and a training of `npt`, and the system that its teacher is."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from data.files import DataError
from data.text.dataset import open_split
from models.npt.layers import layers_of, mlp, target, with_rules, without_attention
from models.npt.llama import TeacherError, logits_of
from models.npt.student import teach
from settings.flat import replace
from settings.schema import SettingsError
from trainables.checkpoints.restore import open_checkpoint
from trainables.loop import fit
from trainables.npt.byte_llama import ByteLlama
from trainables.npt.forward import convert, of
from trainables.npt.system import Npt, first_maps
from trainables.npt.teacher import Cost, cost_of, load
from trainables.run import LocalRun
from trainables.stepping.inputs import batch_of

pytestmark = pytest.mark.slow  # the import of Llama alone takes seconds

SYSTEM = Npt()


def settings_of(**changes):
    """The small settings, changed; "__" stands for a dot."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **values})


@pytest.fixture(scope="module")
def prepared(shared_cache, module_on_one_thread):
    return SYSTEM.prepare(settings_of(), shared_cache)


def built_for(settings, prepared):
    torch.manual_seed(0)
    return SYSTEM.build(settings, prepared)


def batch_for(settings, prepared, count=4):
    return batch_of(SYSTEM.loaders(settings, prepared), "validation", list(range(count)))


def test_the_teacher_is_found_again_and_stored_apart(prepared, shared_cache):
    again = SYSTEM.prepare(settings_of(model__rank=3), shared_cache)
    assert again.teacher == prepared.teacher
    built = built_for(settings_of(), prepared)
    assert set(built.external) == {"teacher"}
    assert not any(p.requires_grad for p in built.modules["teacher"].parameters())
    assert all(p.requires_grad for p in built.modules["converter"].parameters())
    meta = json.loads(json.dumps(built.meta))
    rebuilt = SYSTEM.rebuild(settings_of(), meta)
    for name, module in built.modules.items():
        rebuilt.modules[name].load_state_dict(module.state_dict())


def test_costs_are_of_the_teacher_without_attention_there(prepared):
    """Cross entropy by torch's own function, document by document."""
    settings, teacher = settings_of(), prepared.teacher
    llama = load(teacher.external.file, teacher.config)
    every = dataclasses.replace(settings.data, validation_windows=0)
    windows = open_split(prepared.text, "validation", every)
    sums = {}
    for index in np.linspace(0, len(windows) - 1, 128).round().astype(int).tolist():
        name, sample = windows.units[index], windows[index]
        tokens = sample["tokens"][sample["mask"]][None]
        for which, model in enumerate((llama, with_rules(llama, {1: without_attention}))):
            with torch.no_grad():
                logits = logits_of(model, tokens)[0, :-1]
            nats = F.cross_entropy(logits, tokens[0, 1:], reduction="sum")
            totals = sums.setdefault(name, [0.0, 0.0, 0])
            totals[which] += float(nats)
        totals[2] += tokens.shape[1] - 1
    differences = np.array([(b - a) / count for a, b, count in sums.values()])
    cost = teacher.costs["1"]
    assert cost.mean == pytest.approx(differences.mean(), rel=1e-3, abs=1e-5)
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    assert cost.error == pytest.approx(error, rel=1e-3, abs=1e-5)
    assert set(teacher.costs) == {"0", "1", "all"}


def test_facts_are_those_of_least_squares(prepared):
    """The mean of a, the affine map of a to what is missing, and the principal axes of norm(h),
    by numpy over all tokens at once.
    """
    settings, teacher = settings_of(), prepared.teacher
    llama, facts = load(teacher.external.file, teacher.config), load_file(teacher.facts)
    windows = open_split(prepared.text, "train", settings.data)
    chosen = np.linspace(0, len(windows) - 1, 128).round().astype(int)
    samples = [windows[int(index)] for index in chosen]
    tokens, mask = (torch.stack([s[name] for s in samples]) for name in ("tokens", "mask"))
    _, records = teach(llama, tokens, (1,))
    layer, record = layers_of(llama)[1], records[1]
    with torch.no_grad():
        missing = target(layer, record.hidden, record.attention) - mlp(layer, record.hidden)
        normed = layer.post_attention_layernorm(record.hidden)
    a, y, z = (x[mask].double().numpy() for x in (record.attention, missing, normed))
    np.testing.assert_allclose(facts["mean"][1], a.mean(axis=0), rtol=1e-3, atol=1e-5)
    ridge = 1e-3 * (a**2).sum(axis=0).mean()
    x, centre = a - a.mean(axis=0), y.mean(axis=0)
    weight = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - centre))
    np.testing.assert_allclose(facts["weight"][1], weight, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(
        facts["bias"][1], centre - a.mean(axis=0) @ weight, rtol=1e-2, atol=1e-3
    )
    _, _, axes = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    overlap = np.abs(axes[:3] @ facts["directions"][1, :, :3].numpy())
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-2)


def test_references_replace_the_chosen_layers(prepared):
    settings = settings_of(model__layers=(1,))
    batch = batch_for(settings, prepared)
    teacher = prepared.teacher
    llama = load(teacher.external.file, teacher.config)
    references = SYSTEM.references(settings, prepared)
    assert set(references) == {"no_attention", "mean_attention", "parallel", "ridge"}
    predictions = {name: each.predict(batch) for name, each in references.items()}
    expected = logits_of(llama, batch["tokens"])
    for prediction in predictions.values():
        assert torch.equal(prediction["teacher_logits"], expected)
    without = logits_of(with_rules(llama, {1: without_attention}), batch["tokens"])
    assert torch.equal(predictions["no_attention"]["logits"], without)


def test_metrics_of_a_student_that_is_its_teacher(prepared):
    settings = settings_of()
    batch = batch_for(settings, prepared)
    llama = load(prepared.teacher.external.file, prepared.teacher.config)
    logits = logits_of(llama, batch["tokens"])
    measured = {}
    for metric in SYSTEM.metrics(settings, prepared)[:3]:
        sums, count = metric.measure({"logits": logits, "teacher_logits": logits}, batch, settings)
        measured[metric.name] = metric.finish(sums, float(count))
    assert measured["fidelity_kl"] == 0.0
    assert measured["perplexity"] == measured["teacher_perplexity"]
    mask = batch["mask"][:, 1:]
    nats = F.cross_entropy(logits[:, :-1][mask], batch["tokens"][:, 1:][mask])
    assert measured["perplexity"] == pytest.approx(float(nats.exp()), rel=1e-5)


def test_metrics_of_a_student_against_numpy(prepared):
    settings = settings_of(model__pairs=2)
    batch = batch_for(settings, prepared)
    batch["mask"][1, 20:] = False
    built = built_for(settings, prepared)
    with torch.no_grad():
        prediction = convert(
            {name: module.eval() for name, module in built.modules.items()}, batch, settings
        )
    values = {
        metric.name: metric.finish(*map_float(metric.measure(prediction, batch, settings)))
        for metric in SYSTEM.metrics(settings, prepared)
    }
    real = batch["mask"].numpy()

    def tokens_of(name):
        return np.moveaxis(prediction[name].double().numpy(), 1, 2)[real]  # [tokens, N, ...]

    m, t, s = tokens_of("mlp"), tokens_of("target"), tokens_of("scalar")
    assert values["direct_error"] == pytest.approx(((m - t) ** 2).sum() / (t**2).sum())
    assert values["scalar_std"] == pytest.approx(s[:, :, 0].std(axis=0).min(), rel=1e-4)
    for name in ("v_a", "v_b"):
        lengths = np.linalg.norm(tokens_of(name), axis=-1)
        assert values[f"{name}_norm"] == pytest.approx(lengths.mean())
    x, y = tokens_of("encoded"), tokens_of("attention")
    cosines = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    assert values["attention_cosine"] == pytest.approx(cosines.mean())
    p, q = (
        torch.softmax(prediction[name].double(), -1).numpy()[real]
        for name in ("teacher_logits", "logits")
    )
    assert values["fidelity_kl"] == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-5)


def map_float(measured):
    sums, count = measured
    return sums, float(count)


def test_layers_without_a_cost_are_refused(prepared):
    costs = {"0": Cost(0.30, 0.05), "1": Cost(0.03, 0.02), "all": Cost(0.4, 0.05)}
    teacher = dataclasses.replace(prepared.teacher, costs=costs)
    changed = dataclasses.replace(prepared, teacher=teacher)
    (finding,) = SYSTEM.preflight(settings_of(), changed)
    assert finding.hopeless and "1: 0.030 ± 0.020" in finding.text and "0: " not in finding.text
    assert not SYSTEM.preflight(settings_of(model__layers=(0,)), changed)
    single = cost_of({"a": 1.0}, {"a": 2.0})
    assert single.mean == 1.0 and not single.is_seen  # of one document no error is known


def test_a_training_stores_the_converter_alone_and_opens_again(prepared, tmp_path):
    settings = settings_of(train__steps=4, train__report_every=2, optimizer__rate__converter=2.0)
    reports = []
    fit(SYSTEM, settings, LocalRun(tmp_path, on_report=reports.append), prepared)
    assert reports[-1]["val.fidelity_kl"] < reports[0]["val.fidelity_kl"] + 1.0
    (newest,) = sorted((tmp_path / "checkpoints").glob("step-*"))[-1:]
    stored = set(load_file(newest / "modules.safetensors"))
    assert stored and not any("teacher" in name for name in stored)
    opened = open_checkpoint(newest)
    batch = batch_for(settings, prepared)
    with torch.no_grad():
        one = convert(opened.modules, batch, settings)["logits"]
    assert torch.isfinite(one).all()
    teacher = logits_of(opened.modules["teacher"], batch["tokens"])
    llama = load(prepared.teacher.external.file, prepared.teacher.config)
    assert torch.equal(teacher, logits_of(llama, batch["tokens"]))


def test_balancers_compare_gradients_of_the_first_maps(prepared):
    modules = built_for(settings_of(), prepared).modules
    shapes = [tuple(parameter.shape) for parameter in first_maps(modules)]
    assert shapes == [(8, 16), (8, 16)]
    assert of(modules).layers == (0, 1)


def test_settings_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"model\.bottleneck=false none is drawn"):
        settings_of(loss__bottleneck__enabled=True)
    with pytest.raises(SettingsError, match=r"data\.tokenizer is empty"):
        settings_of(teacher__path="somewhere")


def test_a_llama_of_a_folder_is_the_teacher(prepared, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    llama = load(prepared.teacher.external.file, prepared.teacher.config)
    folder = tmp_path / "llama"
    llama.save_pretrained(folder)
    text = tmp_path / "text.txt"
    text.write_text("if else while " * 200)
    settings = settings_of(
        data__source="files",
        data__path=str(text),
        data__tokenizer=str(folder),
        teacher__path=str(folder),
    )
    for last, fits in ((300, False), (256, True)):
        words = {"<s>": 0, "if": 1, "else": 2, "while": last}
        library = Tokenizer(models.WordLevel(words, unk_token="<s>"))
        library.pre_tokenizer = pre_tokenizers.Whitespace()
        library.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
        if not fits:
            with pytest.raises(DataError, match="expected a Llama of 301 tokens or more"):
                SYSTEM.prepare(settings, tmp_path / "cache")
            continue
        taken = SYSTEM.prepare(settings, tmp_path / "cache")
        assert taken.teacher.external.fingerprint == prepared.teacher.external.fingerprint
        (folder / "config.json").write_text('{"model_type": "mistral"}')
        with pytest.raises(TeacherError, match="found model_type=mistral"):
            SYSTEM.prepare(settings, tmp_path / "other")


def test_frequencies_of_tokens_are_what_the_bytes_of_the_text_say(shared_cache):
    system = ByteLlama()
    settings = replace(system.Settings(), system.small)
    prepared = system.prepare(settings, shared_cache)
    batch = batch_of(system.loaders(settings, prepared), "validation", [0, 1])
    references = system.references(settings, prepared)
    stream = open_split(prepared, "train", settings.data).tokens.astype(int)
    single = torch.softmax(references["unigram"].predict(batch)["logits"][0, 0], dim=-1)
    assert float(single[ord("e")]) == pytest.approx((stream == ord("e")).mean(), rel=1e-2)
    place = int((batch["tokens"][0] == ord("t")).nonzero()[0])
    pair = torch.softmax(references["bigram"].predict(batch)["logits"][0, place], dim=-1)
    follows = stream[1:][stream[:-1] == ord("t")]
    assert float(pair[ord("h")]) == pytest.approx((follows == ord("h")).mean(), rel=1e-2)


def test_a_byte_llama_learns_more_than_how_often_bytes_are(shared_cache, tmp_path, one_thread):
    system = ByteLlama()
    changes = {"train.steps": 100, "train.batch_size": 16, "optimizer.lr": 2e-2}
    settings = replace(system.Settings(), {**system.small, **changes})
    prepared = system.prepare(settings, shared_cache)
    reports = []
    fit(system, settings, LocalRun(tmp_path, on_report=reports.append), prepared)
    loaders = system.loaders(settings, prepared)
    batch = batch_of(loaders, "validation", list(range(len(loaders.validation))))
    prediction = system.references(settings, prepared)["unigram"].predict(batch)
    mask = batch["mask"][:, 1:]
    unigram = F.cross_entropy(prediction["logits"][:, :-1][mask], batch["tokens"][:, 1:][mask])
    assert reports[-1]["val.nats_per_token"] < float(unigram) - 0.1
    assert reports[-1]["val.perplexity"] == pytest.approx(
        np.exp(reports[-1]["val.nats_per_token"])
    )
