"""The presets and spaces of npt: what the document says of its weights, step by step."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from losses.schedules import schedule_factor
from models.npt.llama import config_of, make_llama
from models.npt.student import Converters
from search_spaces.npt import PROPOSALS, SPACES
from settings.files import preset_file
from settings.flat import flatten, replace
from trainables.npt.settings import NptSettings
from trainables.npt.system import Npt


def tree_of(preset):
    return tree_with(preset, {})


def tree_with(preset, changes):
    return replace(NptSettings(), {**preset_file("npt", preset).values, **changes})


def weights(preset, steps):
    """Of each step, the weight of each term that is on."""
    (phase,) = Npt().phases(tree_of(preset), None)
    return [phase.composite.weights(step, steps) for step in range(steps)]


def test_the_documents_weights_are_those_of_its_stages():
    """003.A's table, S = 1,000 of 30,000."""
    by_step = weights("document", 30_000)

    def at(step):
        names = ("direct", "encoding", "fidelity", "regularisation", "guidance", "bottleneck")
        return [by_step[step][name] for name in names]

    assert at(0) == at(990) == pytest.approx([0.1, 0.8, 0.1, 0.01, 2.0, 0.5])
    assert at(2000) == pytest.approx([0.3, 0.55, 0.2, 0.01, 2.0, 0.5], rel=1e-2)
    assert at(2999) == pytest.approx([0.5, 0.3, 0.3, 0.01, 2.0, 0.5], rel=1e-2)
    assert at(3001) == at(29_999) == pytest.approx([10.0, 1.0, 1.0, 0.01, 2.0, 0.5])


def test_the_right_stages_end_where_the_documents_do_and_do_not_jump():
    by_step = weights("stages", 300)
    for before, after in pairwise(by_step):
        for name, weight in before.items():
            if weight or after[name]:
                assert 1.0 / 1.05 <= after[name] / weight <= 1.05, name
    first, last = by_step[0], by_step[-1]
    assert [first[n] for n in ("direct", "encoding", "fidelity")] == pytest.approx([0.1, 0.8, 0.1])
    expected = {"direct": 10.0, "encoding": 1.0, "fidelity": 1.0, "regularisation": 0.01}
    expected |= {"guidance": 0.5, "bottleneck": 0.5}
    assert {n: w for n, w in last.items() if w} == pytest.approx(expected)


def test_a_proposal_is_one_change_of_the_static_weights():
    """Each has its own keys, and none of another's."""
    static = preset_file("npt", "static").values
    changed = []
    for name in PROPOSALS:
        values = preset_file("npt", name).values
        assert {key: values[key] for key in static} == dict(static), name
        keys = {key for key in values if key not in static}
        assert keys, name
        changed.append(keys)
    everything = [key for keys in changed for key in keys]
    assert len(everything) == len(set(everything))
    assert set(PROPOSALS) <= set(SPACES["full"].points)


def test_the_adaptive_weights_of_the_document_are_a_sixth():
    by_step = weights("document_adaptive", 10)
    on = [{n: w for n, w in each.items() if w} for each in by_step]
    assert all(len(each) == 6 for each in on)
    assert all(w == pytest.approx(1 / 6) for each in on for w in each.values())


def test_the_full_space_has_the_documented_tunables():
    """003.B, but for the length and the warm-up, which are the sweep's."""
    domains = SPACES["full"].domains
    terms = ("direct", "encoding", "regularisation", "guidance", "bottleneck", "variance")
    more = ("error_parallel", "error_orthogonal", "modulation", "orthogonality")
    keys = [f"loss.{name}.weight" for name in (*terms, *more)]
    keys += ["loss.bottleneck.beta", "loss.variance.gamma", "loss.orthogonality.directions"]
    keys += ["loss.direct.schedule.start", "loss.direct.schedule.end", "npt.curriculum.share.end"]
    keys += ["loss.balancer.kind", "loss.balancer.decay", "loss.balancer.alpha", "model.rank"]
    keys += ["model.pairs", "model.scale", "model.identity", "optimizer.lr", "train.clip_norm"]
    keys += ["model.gradient", "optimizer.rate.converter"]
    assert not [key for key in keys if key not in domains]
    assert not [key for key in domains if key not in flatten(NptSettings())]
    assert schedule_factor(tree_of("curriculum").npt.curriculum.share, 0, 10) == 0.3


@pytest.mark.slow  # the import of Llama takes seconds
def test_the_preset_of_llama_has_its_shapes():
    """1.24 thousand million parameters with its vocabulary, on no device."""
    tree = tree_with(
        "paper",
        {
            "data.source": "files",
            "data.path": "texts",
            "data.tokenizer": "llama",
            "teacher.path": "llama",
        },
    )
    with torch.device("meta"):
        llama = make_llama(config_of(tree.teacher.network, 128_256, 128_000, 512))
        layers = tree.model.chosen(tree.teacher.layers)
        converters = Converters(layers, 2048, 8192, tree.model, 64)
    assert sum(p.numel() for p in llama.parameters()) == 1_235_814_400
    # W_down, W_a and W_b of 16 layers
    each = 256 * (2048 + 2048 + 8192)
    assert sum(p.numel() for p in converters.parameters()) == 16 * each
    assert tree.train.batch_size * tree.train.accumulate == 64
