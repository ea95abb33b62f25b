"""What is measured of each converted layer, against numpy; and the signs of ill health."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy import stats

from metrics.health import findings
from metrics.health_signs import readings
from metrics.npt import effective_rank
from metrics.npt_signs import NptHealthSettings
from settings.flat import replace
from trainables.loop import fit
from trainables.npt.examine import layers_of
from trainables.npt.forward import convert
from trainables.npt.system import Npt
from trainables.reporting.examine import examine
from trainables.run import LocalRun
from trainables.stepping.inputs import batch_of

SYSTEM = Npt()
CASES = 8


def settings_of(**changes):
    return replace(SYSTEM.Settings(), {**SYSTEM.small, **changes})


@pytest.fixture(scope="module")
def prepared(shared_cache, module_on_one_thread):
    return SYSTEM.prepare(settings_of(), shared_cache)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [(), (1,)])
def test_columns_of_each_layer_are_those_of_numpy(prepared, layers):
    settings = settings_of(**{"model.pairs": 2, "model.scale": 0.3, "model.layers": layers})
    torch.manual_seed(0)
    modules = {name: m.eval() for name, m in SYSTEM.build(settings, prepared).modules.items()}
    loaders, phase = (
        SYSTEM.loaders(settings, prepared),
        SYSTEM.phases(settings, prepared)[0],
    )
    exams = SYSTEM.examinations(settings, prepared)
    values = examine(
        Accelerator(cpu=True), exams, modules, loaders, "validation", settings, phase
    )
    length = len(loaders.validation)
    chosen = [case * length // CASES % length for case in range(CASES)]
    batch = batch_of(loaders, "validation", chosen)
    with torch.no_grad():
        made = convert(modules, batch, settings)
    real = batch["mask"].numpy()
    correlations, ranks = [], []
    for place, at in enumerate(layers or (0, 1)):

        def tokens_of(name, place=place):
            return made[name][:, place].double().numpy()[real]

        m, target, s = tokens_of("mlp"), tokens_of("target"), tokens_of("scalar")[:, 0]
        a, h, v_a = tokens_of("attention"), tokens_of("hidden"), tokens_of("encoded")

        def value(measure, at=at):
            return values[f"val.{measure}_{at}"]

        error = ((m - target) ** 2).sum() / (target**2).sum()
        assert value("direct_error") == pytest.approx(error, rel=1e-4)
        lengths = np.linalg.norm(v_a, axis=1) * np.linalg.norm(a, axis=1)
        cosine = ((v_a * a).sum(axis=1) / lengths).mean()
        assert value("attention_cosine") == pytest.approx(cosine, rel=1e-4)
        assert value("scalar_std") == pytest.approx(s.std(), rel=1e-4)
        ratio = np.log(np.linalg.norm(a, axis=1) / np.linalg.norm(h, axis=1))
        correlations.append(stats.pearsonr(s, ratio).statistic)
        assert value("importance_correlation") == pytest.approx(correlations[-1], abs=1e-3)
        change = made["change"][:, place].double().numpy()
        of_windows = [rank_of(x[mask]) for x, mask in zip(change, real, strict=True)]
        ranks.append(np.mean(of_windows))
        assert value("change_rank") == pytest.approx(ranks[-1], rel=1e-3)
        for name in ("v_a", "v_b"):
            length_of = np.linalg.norm(tokens_of(name), axis=-1).mean()
            assert value(f"{name}_norm") == pytest.approx(length_of, rel=1e-4)
        expected = np.linalg.norm(change[real], axis=-1).mean()
        assert value("change_norm") == pytest.approx(expected, rel=1e-4)
    of_all = values["val.importance_correlation"]
    assert of_all == pytest.approx(np.mean(correlations), abs=1e-3)
    assert values["val.change_rank"] == pytest.approx(np.mean(ranks), rel=1e-3)
    assert 1.0 < values["val.change_rank"] <= 8.0  # that of z


def rank_of(x):
    """exp of the entropy that scipy has of the singular values of numpy."""
    return np.exp(stats.entropy(np.linalg.svd(x, compute_uv=False)))


def test_the_effective_rank_of_equal_directions_is_their_number():
    x = torch.zeros(7, 9, dtype=torch.float64)
    x[range(3), range(3)] = torch.tensor([2.0, -2.0, 2.0], dtype=torch.float64)
    assert float(effective_rank(x)) == pytest.approx(3.0, abs=1e-5)
    assert float(effective_rank(torch.ones(4, 6))) == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.zeros(4, 6)).isnan()
    random = np.random.default_rng(0).normal(size=(12, 20))
    assert float(effective_rank(torch.from_numpy(random))) == pytest.approx(rank_of(random))


def test_the_layers_of_a_teacher_elsewhere_are_not_known(tmp_path):
    given = {"teacher.path": str(tmp_path), "data.tokenizer": str(tmp_path)}
    settings = settings_of(**given)
    assert layers_of(settings, None) == ()
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 3}')
    assert layers_of(settings, None) == (0, 1, 2)
    assert layers_of(settings_of(**given, **{"model.layers": (1,)}), 5) == (1,)
    assert layers_of(settings_of(), None) == (0, 1)


@pytest.mark.parametrize(
    ("column", "value", "sign"),
    [
        ("val.scalar_std", 1e-7, "scalar_low"),
        ("val.v_b_norm", 0.05, "v_b_low"),
        ("val.v_b_norm", 11.0, "v_b_high"),
        ("val.attention_cosine", 0.4, "cosine_low"),
    ],
)
def test_signs(column, value, sign):
    settings = NptHealthSettings()
    fine = {"val.scalar_std": 0.3, "val.v_b_norm": 1.0, "val.attention_cosine": 0.9}
    assert not findings(list(readings(fine, (), settings.measured, {})), settings, 1)
    ill = list(readings({**fine, column: value}, (), settings.measured, {}))
    (finding,) = findings(ill, settings, 1)
    assert finding.name == sign
    early = list(readings({**fine, column: value}, (), settings.measured, {}, [sign]))
    assert not findings(early, settings, 1)


def test_an_adapter_has_no_signs_of_pairs():
    of_pairs = {f"loss.{name}.enabled": False for name in ("encoding", "regularisation")}
    changes = {"model.kind": "adapter", "health.stop": ("v_b_low", "term_share"), **of_pairs}
    adapter = SYSTEM.health(settings_of(**changes, **{"health.overfit_ratio": 7.0}))
    assert not adapter.measured and adapter.stop == ("term_share",)
    assert adapter.overfit_ratio == 7.0
    assert len(SYSTEM.health(settings_of()).measured) == 4


@pytest.mark.slow
def test_the_cosine_is_looked_at_after_the_first_stage(prepared, tmp_path, capsys):
    changes = {
        "train.steps": 4,
        "train.report_every": 1,
        "train.tensorboard": False,
        "health.cosine_since": 0.75,
        "health.cosine_low": 1.0,
    }
    reports = []
    run = LocalRun(tmp_path, on_report=reports.append)
    fit(SYSTEM, settings_of(**changes), run, prepared)
    looked = [report["health.cosine_low"] for report in reports]
    assert looked[:2] == [None, None]
    assert looked[2:] == [report["val.attention_cosine"] for report in reports[2:]]
    assert capsys.readouterr().err.count("step 3: v_a does not become a") == 1
    assert reports[-1]["val.change_rank"] > 1.0
