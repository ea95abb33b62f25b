"""`style_flow` on images keeps what it keeps on fields: rules of the contract, two workers as one;
and it shows images.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from models.draws import draw_normal
from settings.flat import flatten
from trainables.contract import beginning, declarations, metrics, samples
from trainables.contract.check import keeps_the_rules_of_terms
from trainables.contract.examined import SHORT, Examined
from trainables.contract.terms import counts_the_batch_alone
from trainables.reporting.examine import exam_of
from trainables.style_flow.examine import examinations
from trainables.style_flow.system import StyleFlow

pytestmark = pytest.mark.slow

SYSTEM = StyleFlow()

FEW = {"data.validation_samples": 12, "train.validation_batch_size": 6}
"""Pairs of validation, of 30."""

GENTLE = {
    "optimizer.lr": 1e-3,
    "optimizer.warmup": 0.0,
    # With 1e-8 Adam takes a whole step for a gradient that is nothing but rounding.
    "optimizer.eps": 1e-4,
    "train.steps": 2,
    "train.report_every": 2,
    "train.test": False,
    "label_drop.share": 0.4,
}


RULES = (
    *declarations.RULES,
    *samples.RULES,
    *beginning.RULES,
    counts_the_batch_alone,
    keeps_the_rules_of_terms,
    *metrics.RULES,
)
"""Those that see the data; trainings and examinations are the same on fields."""


@pytest.fixture(scope="module")
def examined(embedded, shared_cache):
    return Examined(SYSTEM, shared_cache, {**flatten(embedded()), **SHORT, **FEW})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_it_keeps_the_rule(examined, rule):
    assert not [str(fault) for fault in rule(examined)]


def test_two_workers_train_on_images_as_one_does(embedded, ranks, shared_cache, tmp_path):
    settings = {**flatten(embedded()), **FEW, **GENTLE}
    ranks.same_however_cut(tmp_path, "style_flow", settings, rel=1e-5, cache=str(shared_cache))


def test_no_setting_draws_other_images(embedded):
    """They are cut one way: other seeds are no other units."""
    assert SYSTEM.unit_key(embedded()) == ""
    assert SYSTEM.unit_key(SYSTEM.Settings()) == "data.seed"


def test_its_figure_has_images_of_contents_styles_and_results(embedded, shared_cache):
    settings = embedded(data__validation_samples=12)
    prepared = SYSTEM.prepare(settings, shared_cache)
    modules = {name: m.eval() for name, m in SYSTEM.build(settings, prepared).modules.items()}
    loaders, phase = SYSTEM.loaders(settings, prepared), SYSTEM.phases(settings, prepared)[0]
    (used,) = (exam for exam in examinations() if exam.draw is not None)
    accelerator = Accelerator(cpu=True)
    cases = range(used.cases)
    exam = exam_of(
        modules, loaders, "validation", settings, accelerator, used.name, cases, phase
    )
    with torch.no_grad():
        (figure,) = used.draw(exam).values()
    assert figure.shape == (3, 3 * 32, 8 * 32)
    batch = exam.fetch([case * 12 // 8 for case in cases])
    content = 0.5 * (modules["codec"].decode(batch["latent"]) + 1.0)
    drawn = figure[:, :32].unflatten(2, (8, 32)).permute(2, 0, 1, 3)
    np.testing.assert_allclose(drawn, content, atol=1e-6)
    # an untrained flow does not move: results are their contents among a fifth of noise
    seeds = torch.tensor([exam.seed(case) for case in cases])
    noise = draw_normal(seeds, "flow.noise", batch["latent"].shape[1:])
    expected = 0.5 * (modules["codec"].decode(0.2 * noise + 0.8 * batch["latent"]) + 1.0)
    results = figure[:, 64:].unflatten(2, (8, 32)).permute(2, 0, 1, 3)
    np.testing.assert_allclose(results, expected, atol=1e-5)
