"""The converted layers of a Llama: real layers with rotary embeddings, grouped queries and the
causal mask of the library.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from losses.npt.loss import TERMS
from models.npt.converter import Converter, in_gauge
from models.npt.layers import (
    Recorded,
    as_it_is,
    gate_change,
    layers_of,
    parallel,
    target,
    with_affine,
    with_constant,
    with_rules,
    without_attention,
)
from models.npt.llama import (
    TeacherError,
    config_of,
    freeze,
    logits_of,
    make_llama,
    open_llama,
    read_config,
)
from models.npt.settings import GAUGES, ConverterSettings, LlamaSettings
from models.npt.student import Converters, teach
from settings.flat import replace
from settings.schema import SettingsError
from trainables.npt.forward import convert
from trainables.npt.settings import NptSettings

pytestmark = pytest.mark.slow  # the import of Llama alone takes seconds

V, L = 61, 12
SIZES = LlamaSettings(layers=3, width=24, hidden=40, heads=4, key_heads=2)


@pytest.fixture(scope="module")
def llama():
    """Far from its initial weights, under which attention adds next to nothing."""
    torch.manual_seed(0)
    config = {**config_of(SIZES, V, V - 1, 64), "initializer_range": 0.3}
    model = make_llama(config)
    freeze(model)
    return model.eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, V - 1, (3, L), generator=torch.Generator().manual_seed(1))


def converters_for(layers=(0, 1, 2), seed=2, **changes):
    torch.manual_seed(seed)
    settings = ConverterSettings(rank=8, scale=0.3, **changes)
    return Converters(layers, SIZES.width, SIZES.hidden, settings, directions=3).eval()


def student_of(llama, converters):
    return with_rules(llama, converters.rules())


def test_without_a_converted_layer_the_logits_are_the_teachers_to_the_bit(llama, tokens):
    expected = llama(input_ids=tokens).logits
    logits, conversions = converters_for(layers=())(llama, tokens)
    assert conversions == []
    assert torch.equal(logits, expected)
    recorded, records = teach(llama, tokens, (0, 2))
    assert torch.equal(recorded, expected)
    hidden = llama(input_ids=tokens, output_hidden_states=True).hidden_states
    assert torch.equal(records[0].hidden, hidden[0])
    assert torch.equal(records[2].hidden, hidden[2])


def test_the_teacher_is_as_it_was_and_shares_its_weights(llama, tokens):
    before = [id(layer) for layer in layers_of(llama)]
    student = student_of(llama, converters_for(layers=(1,)))
    assert [id(layer) for layer in layers_of(llama)] == before
    pointers = {parameter.data_ptr() for parameter in llama.parameters()}
    assert {parameter.data_ptr() for parameter in student.parameters()} == pointers
    assert not torch.allclose(logits_of(student, tokens), logits_of(llama, tokens), atol=1e-3)


def norm_of(x, norm):
    """RMSNorm as its paper has it (arXiv 1910.07467, equation 4)."""
    return x / (x.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("gauge", GAUGES)
def test_a_modulation_is_an_explicit_matrix_for_each_token(llama, pairs, gauge):
    """(W_gate + sum_k v_b v_a') h~, with v_a and v_b of their maps, in float64."""
    torch.manual_seed(3)
    settings = ConverterSettings(rank=5, pairs=pairs, gauge=gauge, scale=0.5, noise=0.5)
    converter = Converter(SIZES.width, SIZES.hidden, settings).double()
    layer = make_llama({**config_of(SIZES, V, 0, 64), "initializer_range": 0.3}).model.layers[0]
    layer = layer.double()
    h, a = torch.randn(2, 2, 4, SIZES.width, dtype=torch.float64)
    made = converter(layer, h, a)
    d, f = SIZES.width, SIZES.hidden
    for sample in range(2):
        for token in range(4):
            z = converter.down.weight @ a[sample, token]
            x = made.normed[sample, token]
            matrix = layer.mlp.gate_proj.weight.clone()
            for pair in range(pairs):
                v_a = converter.to_a.weight[pair * d : (pair + 1) * d] @ z
                v_b = converter.to_b.weight[pair * f : (pair + 1) * f] @ z
                matrix += torch.outer(v_b, v_a)
            inner = F.silu(matrix @ x) * (layer.mlp.up_proj.weight @ x)
            expected = layer.mlp.down_proj.weight @ inner
            torch.testing.assert_close(made.mlp[sample, token], expected, rtol=1e-9, atol=1e-9)
    expected = norm_of(h, layer.post_attention_layernorm)
    torch.testing.assert_close(made.normed, expected, rtol=1e-5, atol=1e-5)  # float32 inside


@pytest.mark.parametrize("gauge", GAUGES)
def test_a_gauge_fixes_lengths_and_leaves_the_update(gauge):
    generator = torch.Generator().manual_seed(4)
    v_a = torch.randn(2, 3, 2, 7, dtype=torch.float64, generator=generator)
    v_b = torch.randn(2, 3, 2, 9, dtype=torch.float64, generator=generator)
    new_a, new_b = in_gauge(v_a, v_b, gauge)
    outer = torch.einsum("blki,blkj->blkij", new_b, new_a)
    torch.testing.assert_close(outer, torch.einsum("blki,blkj->blkij", v_b, v_a))
    if gauge == "unit":
        torch.testing.assert_close(new_a.norm(dim=-1), torch.ones_like(new_a[..., 0]))
    if gauge == "equal":
        torch.testing.assert_close(new_a.norm(dim=-1), new_b.norm(dim=-1))
    zero_a, zero_b = in_gauge(torch.zeros_like(v_a), torch.zeros_like(v_b), gauge)
    assert torch.isfinite(zero_a).all() and torch.isfinite(zero_b).all()


def tree_of(**changes):
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return replace(NptSettings(), {"model.rank": 8, **values})


def predicted(llama, converters, tokens, settings, mask=None):
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    batch = {"tokens": tokens, "mask": mask, "seed": torch.arange(len(tokens))}
    return convert({"teacher": llama, "converter": converters}, batch, settings), batch


@pytest.mark.parametrize("gauge", GAUGES)
def test_rescaled_pairs_are_the_same_to_output_regularisation_and_modulation(llama, tokens, gauge):
    settings = tree_of()
    measured = []
    for factor in (1.0, 7.0):
        converters = converters_for(gauge=gauge, pairs=2)
        with torch.no_grad():
            for converter in converters.each.values():
                converter.to_a.weight.mul_(factor)
                converter.to_b.weight.div_(factor)
        prediction, batch = predicted(llama, converters, tokens, settings)
        values = [
            TERMS[name].sum(prediction, batch, settings)
            for name in ("regularisation", "modulation")
        ]
        measured.append([prediction["logits"], *values])
    for one, other in zip(*measured, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    plain = replace(settings, {"loss.regularisation.form": "document"})
    by_form = [TERMS["regularisation"].sum(prediction, batch, s) for s in (settings, plain)]
    assert not torch.isclose(*by_form)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("converted", [(), (1,), (0, 1, 2)])
def test_a_token_changes_nothing_before_it(llama, tokens, converted, cached):
    """To the bit, teacher and student; with a cache token by token."""
    model = student_of(llama, converters_for(layers=converted))
    j = 7
    other = tokens.clone()
    other[:, j] = (other[:, j] + 1) % (V - 1)

    @torch.no_grad()
    def run(given):
        if not cached:
            return logits_of(model, given)
        logits, cache = [], None
        for place in range(L):
            step = model(input_ids=given[:, place : place + 1], use_cache=True, **cache_of(cache))
            cache = step
            logits.append(step.logits)
        return torch.cat(logits, dim=1)

    one, two = run(tokens), run(other)
    assert torch.equal(one[:, :j], two[:, :j])
    assert not torch.allclose(one[:, j + 1 :], two[:, j + 1 :], atol=1e-3)  # attention looks back
    torch.testing.assert_close(one, logits_of(model, tokens), rtol=1e-4, atol=1e-4)


def cache_of(step):
    """The cache of the step before, by the name that this version of the library has for it."""
    if step is None:
        return {}
    name = "cache" if "cache" in step else "past_key_values"
    return {name: step[name]}


def test_attention_knows_places(llama, tokens):
    """Without the model's rotary embedding the last token would not see the order of the others
    (003-M13).
    """
    swapped = tokens.clone()
    swapped[:, [2, 5]] = tokens[:, [5, 2]]
    student = student_of(llama, converters_for(layers=(0, 1, 2)))
    for model in (llama, student):
        last = [logits_of(model, given)[:, -1] for given in (tokens, swapped)]
        assert not torch.allclose(*last, atol=1e-3)


def test_appended_padding_changes_no_term(llama, tokens):
    settings = tree_of(model__bottleneck=True)
    converters = converters_for(pairs=2, bottleneck=True)
    with torch.no_grad():
        converters.directions.copy_(torch.linalg.qr(torch.randn(3, SIZES.width, 3)).Q)
    padded = torch.cat([tokens, torch.full((3, 5), V - 1)], dim=1)
    mask = (torch.arange(L + 5) < L).expand(3, -1)
    for form in ("right", "document"):
        forms = {f"loss.{n}.form": form for n in TERMS if n not in ("variance",)}
        tree = replace(settings, forms)
        values = []
        for prediction, batch in (
            predicted(llama, converters, tokens, tree),
            predicted(llama, converters, padded, tree, mask),
        ):
            values.append(
                [float(term(prediction, batch, tree)[0].detach()) for term in TERMS.values()]
            )
            assert float(next(iter(TERMS.values())).count(batch, tree)) == 3 * L
        for name, *sums in zip(TERMS, *values, strict=True):
            one, other = (value / (3 * L) for value in sums)
            assert other == pytest.approx(one, rel=1e-6, abs=1e-6), (form, name)


def test_what_a_converted_layer_is_to_do(llama, tokens):
    """h + target is what the layer gives, and the change of the gate makes the gate its own."""
    _, records = teach(llama, tokens, (1,))
    layer, h, a = layers_of(llama)[1], records[1].hidden, records[1].attention
    hidden = llama(input_ids=tokens, output_hidden_states=True).hidden_states
    torch.testing.assert_close(h + target(layer, h, a), hidden[2], rtol=1e-5, atol=1e-5)
    norm, gate = layer.post_attention_layernorm, layer.mlp.gate_proj
    changed = gate(norm(h)) + gate_change(layer, h, a)
    torch.testing.assert_close(changed, gate(norm(h + a)), rtol=1e-4, atol=1e-4)


def test_rules_of_what_needs_no_training(llama):
    layer = layers_of(llama)[0]
    h, a = torch.randn(2, 1, 5, SIZES.width, generator=torch.Generator().manual_seed(5))
    zero, eye = torch.zeros(SIZES.width), torch.eye(SIZES.width)
    torch.testing.assert_close(
        without_attention(layer, h, a), as_it_is(layer, h, torch.zeros_like(a))
    )
    torch.testing.assert_close(with_constant(zero)(layer, h, a), without_attention(layer, h, a))
    torch.testing.assert_close(with_affine(eye, zero)(layer, h, a), parallel(layer, h, a))
    shifted = with_affine(0.0 * eye, zero + 1.0)(layer, h, a)
    torch.testing.assert_close(shifted, without_attention(layer, h, a) + 1.0)
    recorded = Recorded()
    assert torch.equal(recorded(layer, h, a), as_it_is(layer, h, a))
    assert recorded.attention is a


def test_fed_samples_do_not_see_what_converters_before_them_do(llama, tokens):
    """With every sample fed what the teacher feeds, the first converter has no gradient of the
    second one's error.
    """
    converters = converters_for(layers=(0, 1))
    _, records = teach(llama, tokens, (0, 1))
    hidden = {at: record.hidden for at, record in records.items()}
    for fed, expected in ((True, False), (False, True)):
        converters.zero_grad()
        is_fed = torch.full((3,), fed)
        _, made = converters(llama, tokens, hidden=hidden, is_fed=is_fed)
        made[1].mlp.square().sum().backward()
        first = converters.each["0"].down.weight.grad
        assert (first is not None and bool(first.abs().sum() > 0)) == expected
        assert converters.each["1"].down.weight.grad.abs().sum() > 0
        if fed:
            torch.testing.assert_close(made[1].hidden, records[1].hidden)


def test_a_code_is_drawn_by_the_samples_seeds_in_training_alone(llama, tokens):
    settings = tree_of(model__bottleneck=True)
    converters = converters_for(bottleneck=True)
    still = [predicted(llama, converters, tokens, settings)[0]["logits"] for _ in range(2)]
    assert torch.equal(*still)
    converters.train()
    drawn = [predicted(llama, converters, tokens, settings)[0]["logits"] for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.allclose(drawn[0], still[0], atol=1e-4)
    first = predicted(llama, converters, tokens[:1], settings)[0]["logits"]
    torch.testing.assert_close(first, drawn[0][:1], rtol=1e-4, atol=1e-4)


def test_a_converter_begins_as_documented():
    settings = ConverterSettings(rank=64, pairs=2, identity=0.3, noise=0.01, scale=0.02)
    torch.manual_seed(6)
    converter = Converter(32, 48, settings)
    limit = (6.0 / (32 + 64)) ** 0.5
    assert converter.down.weight.abs().max() <= limit
    assert converter.to_b.weight.abs().max() <= 0.02
    first, second = converter.to_a.weight.detach().chunk(2)
    assert first.diagonal().mean() == pytest.approx(0.3, abs=0.01)
    assert (first - 0.3 * torch.eye(32, 64)).std() == pytest.approx(0.01, rel=0.1)
    assert (second - 0.3 * torch.eye(32, 64).roll(1, dims=0)).std() == pytest.approx(0.01, rel=0.1)


def test_layers_that_the_teacher_lacks_are_refused():
    assert ConverterSettings(layers=(2, 0)).chosen(3) == (0, 2)
    assert ConverterSettings().chosen(3) == (0, 1, 2)
    with pytest.raises(SettingsError, match="must lie below 3"):
        ConverterSettings(layers=(3,)).chosen(3)
    with pytest.raises(SettingsError, match="names a layer once"):
        ConverterSettings(layers=(1, 1))
    with pytest.raises(SettingsError, match="even multiple"):
        LlamaSettings(width=30, heads=4)
    with pytest.raises(SettingsError, match=r"must divide model\.heads"):
        LlamaSettings(heads=4, key_heads=3)


def test_a_folder_is_opened_and_other_architectures_are_refused(llama, tokens, tmp_path):
    with pytest.raises(TeacherError, match=r"found no config\.json"):
        read_config(tmp_path)
    llama.save_pretrained(tmp_path / "llama")
    again = open_llama(tmp_path / "llama").eval()
    assert torch.equal(logits_of(again, tokens), logits_of(llama, tokens))
    (tmp_path / "llama" / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match="expected the weights of a Llama"):
        open_llama(tmp_path / "llama")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(TeacherError, match="found model_type=gpt2"):
        open_llama(tmp_path)


def test_llama_3_2_1b_is_built_without_memory():
    """Its published shapes; tied embeddings are counted once."""
    sizes = LlamaSettings(layers=16, width=2048, hidden=8192, heads=32, key_heads=8)
    with torch.device("meta"):
        model = make_llama(config_of(sizes, 128_256, 128_000, 131_072))
        converters = Converters((0, 15), 2048, 8192, ConverterSettings(rank=256))
    assert sum(p.numel() for p in model.parameters()) == 1_235_814_400
    assert sum(p.numel() for p in converters.parameters()) == 2 * 256 * (2048 + 2048 + 8192)


def test_a_forward_put_around_the_teachers_own_is_not_the_students(llama, tokens):
    """As mixed precision does it: the student would be the teacher."""
    prepared = copy.deepcopy(llama)
    bare = prepared.forward
    prepared.forward = lambda *args, **options: bare(*args, **options)
    rules = {0: without_attention}
    expected = logits_of(with_rules(llama, rules), tokens)
    assert torch.equal(logits_of(with_rules(prepared, rules), tokens), expected)
    assert not torch.equal(logits_of(prepared, tokens), expected)
