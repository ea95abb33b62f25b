from __future__ import annotations

import json

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.optuna.distributions import decode, distribution, encode, suggest
from search_spaces.domains import (
    Choice,
    Integer,
    LogUniform,
    Uniform,
    domain_from_json,
    domain_from_yaml,
)
from settings.schema import SettingsError

optuna.logging.set_verbosity(optuna.logging.WARNING)

REALS = st.floats(-1e6, 1e6, allow_nan=False)
WORDS = st.text("abcxyz_", min_size=1, max_size=5)
CONDITIONS = st.dictionaries(
    WORDS, st.lists(st.one_of(st.booleans(), WORDS), min_size=1, max_size=3).map(tuple), max_size=2
)


@st.composite
def stepped(draw):
    """Grids of decimals: low, step and high as a person writes them."""
    places = draw(st.integers(0, 4))
    low, step = draw(st.integers(-500, 500)), draw(st.integers(1, 50))
    count = draw(st.integers(1, 40))
    texts = [f"{number / 10**places:.{places}f}" for number in (low, low + count * step, step)]
    return Uniform(*map(float, texts), when=draw(CONDITIONS))


@st.composite
def ranges(draw, numbers):
    low, high = sorted(draw(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1])))
    return low, high


OPTIONS = st.one_of(
    st.just((True, False)),
    st.lists(st.integers(-9, 9), min_size=2, max_size=5, unique=True),
    st.lists(REALS, min_size=2, max_size=5, unique=True),
    st.lists(WORDS, min_size=2, max_size=5, unique=True),
    st.lists(st.lists(REALS, max_size=3).map(tuple), min_size=2, max_size=4, unique=True),
).map(tuple)

DOMAINS = st.one_of(
    stepped(),
    st.builds(lambda ends, when: Uniform(*ends, when=when), ranges(REALS), CONDITIONS),
    st.builds(lambda ends: LogUniform(*ends), ranges(st.floats(1e-12, 1e6))),
    st.builds(lambda ends: Integer(*ends, log=True), ranges(st.integers(1, 10**6))),
    st.builds(
        lambda low, step, count: Integer(low, low + step * count, step=step),
        st.integers(-100, 100),
        st.integers(1, 9),
        st.integers(1, 20),
    ),
    st.builds(Choice, OPTIONS, when=CONDITIONS),
)


@given(DOMAINS)
def test_json_gives_back_an_equal_domain(domain):
    back = domain_from_json(json.loads(json.dumps(domain.to_json())))
    assert back == domain
    assert type(back) is type(domain)
    assert [type(end) for end in back.ends] == [type(end) for end in domain.ends]


@given(DOMAINS, st.integers(0, 2**32 - 1))
def test_a_draw_lies_in_the_domain_and_survives_optuna(domain, seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    value = suggest(study.ask(), "key", domain)
    assert domain.contains(value)
    assert domain.contains(json.loads(json.dumps(value))) or isinstance(value, tuple)
    held = encode(domain, value)
    told = optuna.trial.create_trial(
        params={"key": held}, distributions={"key": distribution(domain)}, value=0.0
    )
    study.add_trial(told)  # validates: the distribution contains what we tell
    back = decode(domain, study.trials[-1].params["key"])
    assert back == value
    assert type(back) is type(value)


@given(DOMAINS)
def test_the_distribution_has_exactly_the_ends_of_the_domain(domain):
    made = distribution(domain)
    if isinstance(domain, Choice):
        assert [decode(domain, held) for held in made.choices] == list(domain.options)
    else:
        assert (made.low, made.high) == domain.ends
        assert made.log == (isinstance(domain, LogUniform) or getattr(domain, "log", False))


def test_quantised_integers_and_decimals_survive_exactly():
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3, n_startup_trials=5))
    widths, scales = set(), set()
    for _ in range(40):
        trial = study.ask()
        width = suggest(trial, "width", Integer(8, 32, step=8))
        scale = suggest(trial, "scale", Uniform(0.1, 0.7, step=0.1))
        widths.add(width)
        scales.add(scale)
        study.tell(trial, width * scale)
    assert widths == {8, 16, 24, 32}
    assert all(type(width) is int for width in widths)
    # 0.1 + 2 * 0.1 is 0.30000000000000004
    assert scales <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert len(scales) >= 5


def test_contains_keeps_types_and_grids_apart():
    assert not Choice((True, False)).contains(1)
    assert not Choice((0, 1)).contains(True)
    assert Choice((1.0, 2.0)).contains(1)
    assert not Integer(0, 4).contains(True)
    assert not Integer(8, 32, step=8).contains(12)
    assert not Uniform(0.0, 1.0, step=0.25).contains(0.3)
    assert Uniform(0.0, 1.0).contains(0.3)
    assert not Uniform(0.0, 1.0).contains(float("nan"))
    assert not LogUniform(0.1, 10).contains(0.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Uniform(0, 1, step=0.3), ["does not divide", "0.9", "1.2"]),
        (lambda: Integer(8, 30, step=8), ["does not divide", "24", "32"]),
        (lambda: Integer(1, 9, step=2, log=True), ["no step", "choice"]),
        (lambda: domain_from_yaml("k", {"log_uniform": [1, 8], "step": 2}), ["k:", "no step"]),
        (lambda: LogUniform(0, 1), ["above 0", "loss.<term>.enabled"]),
        (lambda: Integer(0, 9, log=True), ["1 or above"]),
        (lambda: Uniform(2, 1), ["low < high"]),
        (lambda: Uniform(0, float("inf")), ["finite"]),
        (lambda: Integer(1, 2.5), ["whole number", "uniform"]),
        (lambda: Choice(("a",)), ["two options"]),
        (lambda: Choice(("a", "a")), ["twice"]),
        (lambda: Choice((1, True)), ["one kind"]),
        (lambda: Choice("ab"), ["list of options"]),
        (lambda: Uniform(0, 1, when={"a": ()}), ["never active"]),
        (lambda: domain_from_yaml("k", {"uniform": [0, 1], "choice": [1, 2]}), ["exactly one"]),
        (lambda: domain_from_yaml("k", [0, 1]), ["k:", "mapping", "Example"]),
        (lambda: domain_from_yaml("k", {"uniform": 3}), ["[low, high]"]),
        (lambda: domain_from_yaml("k", {"uniform": [0, 1], "stpe": 1}), ["stpe"]),
        (lambda: domain_from_json({"kind": "normal"}), ["normal", "log_uniform"]),
    ],
)
def test_refusals_state_the_rule_and_the_way_out(make, words):
    with pytest.raises(SettingsError) as error:
        make()
    for word in words:
        assert word in str(error.value)


def test_yaml_forms():
    assert domain_from_yaml("k", {"log_uniform": ["1e-6", 10]}) == LogUniform(1e-6, 10.0)
    assert domain_from_yaml("k", {"integer": [8, 32], "step": 8}) == Integer(8, 32, step=8)
    assert domain_from_yaml("k", {"choice": ["1e-4", 0.5]}) == Choice((1e-4, 0.5))
    assert domain_from_yaml("k", {"choice": [[1, 2], [3]]}) == Choice(((1, 2), (3,)))
    given_when = domain_from_yaml("k", {"uniform": [2, 16], "when": {"mode": ["learnable"]}})
    assert given_when == Uniform(2.0, 16.0, when={"mode": ("learnable",)})
    assert domain_from_yaml("k", {"uniform": [0, 1], "when": {"on": True}}).when == {"on": (True,)}
