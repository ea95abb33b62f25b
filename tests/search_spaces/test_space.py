from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from search_spaces.checks import check_space
from search_spaces.domains import Choice, Integer, LogUniform, Uniform
from search_spaces.space import Space, load_space, space_from_json
from settings.flat import flatten, leaves
from settings.schema import Settings, SettingsError, setting


@dataclass(frozen=True, kw_only=True)
class Cap(Settings):
    mode: str = setting("absolute", "how", choices=("absolute", "learnable"))
    init: float = setting(6.0, "start", low=1.0, high=20.0)
    bounds: tuple[float, ...] = setting((2.0, 24.0), "range", low=0.0)


@dataclass(frozen=True, kw_only=True)
class Term(Settings):
    weight: float = setting(1.0, "factor", low=0.0, high=100.0)
    enabled: bool = setting(True, "on")


@dataclass(frozen=True, kw_only=True)
class Loss(Settings):
    l1: Term = field(default_factory=Term)
    hole: Term = field(default_factory=Term)


@dataclass(frozen=True, kw_only=True)
class Tree(Settings):
    width: int = setting(24, "channels", low=8, high=64)
    steps: int = setting(100, "length", low=1)
    cap: Cap = field(default_factory=Cap)
    loss: Loss = field(default_factory=Loss)


LEAVES = leaves(Tree)
BASE = flatten(Tree())


def space(**domains):
    named = {key.replace("__", "."): domain for key, domain in domains.items()}
    return Space("test", "toy", named)


def conditional():
    return space(
        cap__init=Uniform(2, 16, when={"cap.mode": ("learnable",)}),
        cap__mode=Choice(("absolute", "learnable")),
        loss__hole__weight=LogUniform(0.1, 10, when={"loss.hole.enabled": (True,)}),
        width=Integer(8, 32, step=8),
    )


def test_a_legal_space_passes_with_typed_options():
    checked = check_space(space(width=Choice(("8", "16")), cap__init=Choice((10, 2))), LEAVES)
    assert checked.domains["width"].options == (8, 16)
    assert [type(o) for o in checked.domains["cap.init"].options] == [float, float]
    checked = check_space(space(cap__bounds=Choice(([1, 2], [3, 4]))), LEAVES)
    assert checked.domains["cap.bounds"].options == ((1.0, 2.0), (3.0, 4.0))


@pytest.mark.parametrize(
    ("domains", "overrides", "words"),
    [
        ({"cap__inti": Uniform(2, 3)}, (), ["cap.inti", "cap.init"]),
        ({"cap__init": Uniform(0.5, 3)}, (), ["cap.init", "1 .. 20", "0.5"]),
        ({"cap__init": Uniform(2, 30)}, (), ["cap.init", "1 .. 20", "30"]),
        ({"cap__mode": Choice(("absolute", "batch"))}, (), ["cap.mode", "batch", "learnable"]),
        ({"width": Integer(8, 32)}, ("width",), ["width", "override"]),
        ({"width": Uniform(8, 32)}, (), ["whole numbers", "integer: [8, 32]"]),
        ({"cap__init": Integer(2, 16)}, (), ["real numbers", "uniform"]),
        ({"loss__l1__enabled": Uniform(0, 1)}, (), ["choice"]),
        ({"cap__bounds": Uniform(0, 1)}, (), ["choice"]),
        ({"width": Integer(8, 9, when={"nope": (1,)})}, (), ["nope", "does not exist"]),
        ({"width": Integer(8, 9, when={"cap.mode": ("x",)})}, (), ["cap.mode", "'x'"]),
        (
            {"cap__init": Uniform(2, 3), "width": Integer(8, 9, when={"cap.init": (2.5,)})},
            (),
            ["continuous"],
        ),
        (
            {"width": Choice((8, 16)), "cap__init": Uniform(2, 3, when={"width": (32,)})},
            (),
            ["never be active", "width"],
        ),
    ],
)
def test_refusals(domains, overrides, words):
    with pytest.raises(SettingsError) as error:
        check_space(space(**domains), LEAVES, overrides)
    for word in words:
        assert word in str(error.value)


def test_a_key_that_the_shared_preparation_reads_is_refused():
    with pytest.raises(SettingsError, match="preparation"):
        check_space(space(width=Integer(8, 9)), LEAVES, prepare_reads=("wid*",))


def test_a_key_cannot_be_searched_and_fixed():
    both = Space("test", "toy", {"width": Integer(8, 9)}, fixed={"width": 8})
    with pytest.raises(SettingsError, match="both searches and fixes"):
        check_space(both, LEAVES)
    with pytest.raises(SettingsError, match="wdith"):
        check_space(Space("test", "toy", {"width": Integer(8, 9)}, fixed={"wdith": 8}), LEAVES)


def test_cycles_and_empty_spaces_are_refused():
    with pytest.raises(SettingsError, match="cycle"):
        space(a=Choice((1, 2), when={"b": (1,)}), b=Choice((1, 2), when={"a": (1,)}))
    with pytest.raises(SettingsError, match="nothing"):
        Space("test", "toy", {})


def test_the_anchor_rule():
    weights = {f"loss.{t}.weight": LogUniform(0.1, 10) for t in ("l1", "hole")}
    everything = Space("test", "toy", weights)
    with pytest.raises(SettingsError) as error:
        check_space(everything, LEAVES, enabled_terms=("l1", "hole"))
    for word in ("anchor", "l1, hole", "loss.l1.weight", "leave it at 1"):
        assert word in str(error.value)
    check_space(everything, LEAVES, enabled_terms=())  # nothing said about terms, nothing checked
    hole_only = space(loss__hole__weight=LogUniform(0.1, 10))
    check_space(hole_only, LEAVES, enabled_terms=("l1", "hole"))
    with pytest.raises(SettingsError, match="anchor"):
        check_space(hole_only, LEAVES, enabled_terms=("hole",))


def test_a_term_that_may_be_switched_off_is_no_anchor():
    switched = space(
        loss__hole__weight=LogUniform(0.1, 10), loss__l1__enabled=Choice((True, False))
    )
    with pytest.raises(SettingsError, match=r"loss\.hole\.weight"):
        check_space(switched, LEAVES, enabled_terms=("l1", "hole"))
    only_switches = space(loss__l1__enabled=Choice((True, False)))
    check_space(only_switches, LEAVES, enabled_terms=("l1", "hole"))  # no weight is searched


def test_order_puts_conditions_first_and_keeps_the_rest():
    assert conditional().order() == ("cap.mode", "cap.init", "loss.hole.weight", "width")


def test_binding_decides_conditions_on_keys_that_are_not_searched():
    bound = conditional().bind(BASE)
    assert list(bound.domains) == ["cap.init", "cap.mode", "loss.hole.weight", "width"]
    assert bound.domains["loss.hole.weight"].when == {}
    assert bound.domains["cap.init"].when == {"cap.mode": ("learnable",)}
    off = conditional().bind({**BASE, "loss.hole.enabled": False})
    assert "loss.hole.weight" not in off.domains
    with pytest.raises(SettingsError, match="no key is active"):
        space(cap__init=Uniform(2, 3, when={"cap.mode": ("learnable",)})).bind(BASE)


def test_a_key_below_an_inactive_key_is_inactive():
    nested = space(
        a=Choice((True, False)),
        b=Choice(("x", "y"), when={"a": (True,)}),
        c=Uniform(0, 1, when={"b": ("x",)}),
    )
    assert nested.active({"a": True, "b": "x", "c": 0.5}) == ("a", "b", "c")
    assert nested.active({"a": False, "b": "x", "c": 0.5}) == ("a",)
    with pytest.raises(SettingsError, match="bind"):
        conditional().active({"cap.mode": "absolute"})


def test_points_inside_and_outside():
    bound = check_space(conditional(), LEAVES).bind(BASE)
    inside = bound.place("doc", {"cap.mode": "learnable", "cap.init": 8.0}, BASE)
    assert inside.outside == ()
    assert inside.sampled == {
        "cap.mode": "learnable",
        "cap.init": 8.0,
        "loss.hole.weight": 1.0,
        "width": 24,
    }
    assert bound.place("doc", {"loss.hole.weight": 20.0}, BASE).outside == ("loss.hole.weight",)
    assert bound.place("doc", {"loss.l1.weight": 2.0}, BASE).outside == ("loss.l1.weight",)
    same = bound.place("doc", {"loss.l1.weight": 1.0}, BASE)
    assert same.outside == ()
    assert "loss.l1.weight" not in same.sampled
    assert bound.place("doc", {"steps": 9}, BASE).outside == ("steps",)
    # a value that has no effect does not put a point outside
    idle = bound.place("doc", {"cap.mode": "absolute", "cap.init": 19.0}, BASE)
    assert idle.outside == ()
    with pytest.raises(SettingsError, match=r"cap\.init"):
        bound.place("doc", {"cap.inti": 2.0}, BASE)


def test_json_gives_back_an_equal_space():
    full = Space("test", "toy", conditional().domains, ("document",), {"cap.bounds": (1.0, 2.0)})
    assert space_from_json(json.loads(json.dumps(full.to_json()))) == full


def test_a_yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "about: a test\npoints: [document]\nfixed: {loss.l1.weight: 1}\nmetrics: [val.l1]\n"
        "width: {integer: [8, 32], step: 8}\n"
        "cap.init: {uniform: [2, 16], when: {cap.mode: [learnable]}}\n"
        "cap.mode: {choice: [absolute, learnable]}\n"
    )
    loaded = check_space(load_space("toy", str(path)), LEAVES)
    assert loaded.name == "mine"
    assert loaded.points == ("document",)
    assert loaded.fixed == {"loss.l1.weight": 1.0}
    assert loaded.metrics == ("val.l1",)
    assert loaded.domains["cap.init"] == Uniform(2.0, 16.0, when={"cap.mode": ("learnable",)})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            "width: {integer: [8, 32]}\nwidth: {integer: [8, 16]}\n",
            ":2: width is given twice (first in line 1)",
        ),
        ("points: []\nwidth: {integer: [8, 32]}\npoints: []\n", ":3: points is given twice"),
        ("fixed: [width]\ncap.init: {uniform: [2, 3]}\n", "fixed is a mapping"),
        ("width: [8, 32]\n", "width: a domain is a mapping"),
        ("- width\n", "mapping"),
        ("width: {integer: [8\n", "not YAML"),
        ("points: document\nwidth: {integer: [8, 32]}\n", "points is a list of presets"),
        ("metrics: val.l1\nwidth: {integer: [8, 32]}\n", "metrics is a list of columns"),
        ("about: nothing\n", "searches nothing"),
    ],
)
def test_yaml_refusals_name_the_file(tmp_path, text, word):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_space("toy", str(path))
    assert word in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_a_file_is_read_by_the_rules_of_settings_files(tmp_path):
    """YAML 1.2: in 1.1 `no` and `off` are false, `1e-4` is text, `1:30` is ninety."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "fixed: {cap.bounds: [2, 24], cap.mode: no}\n"
        "a: {choice: [no, bf16, 1:30]}\n"
        "b: {log_uniform: [1e-4, 1e2], when: {a: [off]}}\n"
    )
    loaded = load_space("toy", str(path))
    assert loaded.domains["a"] == Choice(("no", "bf16", "1:30"))
    assert loaded.domains["b"] == LogUniform(1e-4, 100.0, when={"a": ("off",)})
    assert loaded.fixed == {"cap.bounds": (2, 24), "cap.mode": "no"}


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes("about: Gr\u00f6\u00dfe\nwidth: {integer: [8, 32]}\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"mine\.yaml: is not UTF-8 \(byte 9\)"):
        load_space("toy", str(path))


def test_points_by_path_are_seen_from_the_file_that_names_them(tmp_path):
    folder = tmp_path / "spaces"
    folder.mkdir()
    absolute = tmp_path / "elsewhere.yml"
    path = folder / "mine.yaml"
    path.write_text(f"points: [document, own/arm.yaml, {absolute}]\nwidth: {{integer: [8, 32]}}\n")
    loaded = load_space("toy", str(path))
    assert loaded.points == ("document", str(folder / "own/arm.yaml"), str(absolute))
    assert space_from_json(json.loads(json.dumps(loaded.to_json()))).points == loaded.points


def test_unknown_names_list_the_known():
    with pytest.raises(SettingsError, match="caps"):
        load_space("hdr_patch", "cap")
    with pytest.raises(SettingsError, match="hdr_patch"):
        load_space("toy", "caps")
    with pytest.raises(SettingsError, match=r"/nowhere/mine\.yaml: cannot be read \(No such"):
        load_space("toy", "/nowhere/mine.yaml")
    assert load_space("hdr_patch").name == "caps"
