"""The terms of npt against their formulas, written with numpy token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from losses.npt.divergence import chunked_kl
from losses.npt.loss import TERMS, LossSettings, terms
from settings.flat import replace
from settings.schema import SettingsError

B, N, L, D, F, K, R, Q, V = 2, 2, 6, 5, 7, 2, 4, 2, 11
LENGTHS = (6, 4)


class Tree:
    """What the terms read of a system's settings."""

    def __init__(self, **changes):
        self.loss = replace(LossSettings(), {k.replace("__", "."): v for k, v in changes.items()})


SHAPES = {
    **dict.fromkeys(("hidden", "normed", "attention", "mlp", "target", "encoded"), (D,)),
    **dict.fromkeys(("change", "true_change", "gate_of_attention"), (F,)),
    **dict.fromkeys(("mu", "log_sigma"), (R,)),
    "v_a": (K, D),
    "v_b": (K, F),
    "scalar": (K,),
}


def given(seed=0):
    rng = np.random.default_rng(seed)
    prediction = {name: rng.normal(size=(B, N, L, *shape)) for name, shape in SHAPES.items()}
    prediction |= {name: rng.normal(size=(B, L, V)) for name in ("logits", "teacher_logits")}
    prediction["directions"] = np.linalg.qr(rng.normal(size=(B, N, D, Q)))[0]
    mask = np.arange(L) < np.array(LENGTHS)[:, None]
    return (
        {name: torch.from_numpy(value) for name, value in prediction.items()},
        {"mask": torch.from_numpy(mask)},
    )


def of_term(name, tree, prediction=None, batch=None):
    default = given()
    return float(TERMS[name].sum(prediction or default[0], batch or default[1], tree))


def samples(seed=0):
    """Each sample and layer by itself, its real tokens alone: a dictionary of numpy arrays."""
    prediction, _ = given(seed)
    for b, length in enumerate(LENGTHS):
        for n in range(N):
            yield {
                name: value[b, n, :length].numpy()
                for name, value in prediction.items()
                if name in SHAPES
            } | {"directions": prediction["directions"][b, n].numpy()}


def over_layers(of_sample):
    """Sum over samples of the mean over layers of `of_sample(values) -> [tokens]`."""
    return sum(float(np.sum(of_sample(values))) for values in samples()) / N


def square(x):
    return (x**2).mean(axis=-1)


def cos(x, y):
    return (x * y).sum(axis=-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def relative(error, size, form):
    return square(error) / (
        np.sqrt(square(size).mean()) + 1e-6 if form == "document" else square(size).mean() + 1e-6
    )


def standard(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6)


def importance(v):
    lengths = (np.linalg.norm(v[name], axis=-1) + 1e-6 for name in ("attention", "hidden"))
    return standard(np.log(np.divide(*lengths)))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def along(v):
    error = v["mlp"] - v["target"]
    axis = v["attention"] / np.linalg.norm(v["attention"], axis=-1, keepdims=True)
    return (error * axis).sum(axis=-1, keepdims=True) * axis, error


def info_nce(v, temperature):
    scores = np.array([[cos(x, y) for y in v["attention"]] for x in v["encoded"]]) / temperature
    return logsumexp(scores, axis=1) - np.diag(scores)


def normal_kl(v):
    """Of N(mu, sigma^2) from N(0, 1), integrated by Gauss and Hermite."""
    x, w = np.polynomial.hermite_e.hermegauss(40)
    w = w / w.sum()
    mu, sigma = v["mu"][..., None], np.exp(v["log_sigma"])[..., None]
    z = mu + sigma * x
    log_ratio = -np.log(sigma) - 0.5 * ((z - mu) / sigma) ** 2 + 0.5 * z**2
    return (log_ratio * w).sum(axis=-1).mean(axis=-1)


def singular(v):
    _, _, vectors = np.linalg.svd(v["normed"], full_matrices=False)
    return 0.01 * square(v["v_a"] @ vectors[:Q].T).mean(axis=-1)


def pearson(v):
    s, z = v["scalar"][:, 0], importance(v)
    return np.full(len(s), 1.0 - np.corrcoef(s, z)[0, 1])


def document_guidance(v):
    s = v["scalar"][:, 0]
    ratio = np.linalg.norm(v["attention"], axis=-1) / np.linalg.norm(v["normed"], axis=-1)
    return (sigmoid(s) - sigmoid(ratio)) ** 2 - 0.1 * s.var()


def hinge(v):
    std = np.sqrt(v["scalar"].var(axis=0) + 1e-4)
    return np.full(len(v["scalar"]), np.maximum(0.0, 1.5 - std).mean())


def projected(v):
    unit = v["v_a"] / np.linalg.norm(v["v_a"], axis=-1, keepdims=True)
    return ((unit @ v["directions"]) ** 2).sum(axis=-1).mean(axis=-1)


def consistency(v):
    spread = square(v["v_b"] - v["v_b"].mean(axis=0)).mean(axis=-1)
    return spread + 1.0 - cos(v["v_b"], v["gate_of_attention"][:, None]).mean(axis=-1)


def both(form):
    def of_sample(v):
        error = relative(v["encoded"] - v["attention"], v["attention"], form)
        return error + 0.5 * (1.0 - cos(v["encoded"], v["attention"]))

    return of_sample


FORMULAS = {
    "direct-right": (
        {},
        lambda v: relative(v["mlp"] - v["target"], v["target"], "right"),
    ),
    "direct-document": (
        {"form": "document"},
        lambda v: relative(v["mlp"] - v["target"], v["target"], "document"),
    ),
    "encoding-right": ({}, both("right")),
    "encoding-document": ({"form": "document"}, both("document")),
    "regularisation-right": ({}, lambda v: square(v["change"])),
    "regularisation-document": (
        {"form": "document"},
        lambda v: (square(v["v_a"]) + square(v["v_b"])).mean(axis=-1),
    ),
    "guidance-pearson": ({}, pearson),
    "guidance-square": (
        {"measure": "square", "scale": 3.0},
        lambda v: (v["scalar"][:, 0] / 3.0 - importance(v)) ** 2,
    ),
    "guidance-document": ({"form": "document"}, document_guidance),
    "variance": ({"gamma": 1.5}, hinge),
    "error_parallel-right": (
        {},
        lambda v: square(along(v)[0]) / (square(v["target"]).mean() + 1e-6),
    ),
    "error_parallel-document": (
        {"form": "document"},
        lambda v: square(v["mlp"] - v["attention"]),
    ),
    "error_orthogonal-right": (
        {},
        lambda v: square(along(v)[1] - along(v)[0]) / (square(v["target"]).mean() + 1e-6),
    ),
    "error_orthogonal-document": (
        {"form": "document"},
        lambda v: square(v["target"] - v["attention"]),
    ),
    "bottleneck-right": (
        {"beta": 0.3, "temperature": 0.2},
        lambda v: 0.3 * normal_kl(v) + info_nce(v, 0.2),
    ),
    "bottleneck-document": (
        {"form": "document", "beta": 0.3},
        lambda v: (
            0.3 * abs(cos(v["encoded"], v["normed"])) - abs(cos(v["encoded"], v["attention"]))
        ),
    ),
    "modulation-right": (
        {},
        lambda v: relative(v["change"] - v["true_change"], v["true_change"], "right"),
    ),
    "modulation-strength": (
        {"form": "strength"},
        lambda v: square(v["change"] - v["gate_of_attention"]),
    ),
    "modulation-document": ({"form": "document"}, consistency),
    "orthogonality-right": ({}, projected),
    "orthogonality-document": ({"form": "document", "directions": Q}, singular),
}


@pytest.mark.parametrize("label", FORMULAS)
def test_a_term_is_its_formula(label):
    name = label.partition("-")[0]
    changes, of_sample = FORMULAS[label]
    tree = Tree(**{f"{name}__{key}": value for key, value in changes.items()})
    assert of_term(name, tree) == pytest.approx(over_layers(of_sample), rel=1e-5)


def test_every_term_and_form_has_a_formula():
    forms = {label.partition("-")[0] for label in FORMULAS}
    assert forms == set(TERMS) - {"fidelity"}


def test_the_count_is_of_real_tokens():
    _, batch = given()
    assert all(float(term.count(batch, Tree())) == sum(LENGTHS) for term in TERMS.values())


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_fidelity_is_the_divergence_at_a_temperature(chunk):
    prediction, _ = given()
    temperature = 2.5
    student, teacher = (
        log_softmax(prediction[name].numpy() / temperature, axis=-1)
        for name in ("logits", "teacher_logits")
    )
    kl = temperature**2 * (np.exp(teacher) * (teacher - student)).sum(axis=-1)
    expected = sum(kl[b, :length].sum() for b, length in enumerate(LENGTHS))
    tree = Tree(fidelity__temperature=temperature, fidelity__chunk=chunk)
    assert of_term("fidelity", tree) == pytest.approx(expected, rel=1e-9)


def test_the_documents_fidelity_moves_with_a_constant_that_changes_no_probability():
    prediction, _ = given()
    document = Tree(fidelity__form="document")
    expected = sum(
        float((prediction["logits"] - prediction["teacher_logits"])[b, :n].square().mean(-1).sum())
        for b, n in enumerate(LENGTHS)
    )
    assert of_term("fidelity", document) == pytest.approx(expected)
    moved = {**prediction, "logits": prediction["logits"] + 3.0}
    assert of_term("fidelity", Tree(), moved) == pytest.approx(of_term("fidelity", Tree()))
    assert of_term("fidelity", document, moved) > of_term("fidelity", document) + 1.0


def test_the_gradient_of_chunks_is_that_of_the_whole():
    rng = np.random.default_rng(1)
    teacher, logits = (torch.from_numpy(rng.normal(size=(9, V))) for _ in range(2))
    gradients = []
    for chunk in (2, 9):
        student = logits.clone().requires_grad_()
        chunked_kl(teacher, student, 1.5, chunk).sum().backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)
    # d/dq T^2 KL(p || q) = T (softmax(q / T) - softmax(p / T))
    expected = 1.5 * (torch.softmax(student / 1.5, -1) - torch.softmax(teacher / 1.5, -1))
    torch.testing.assert_close(gradients[0], expected.detach())
    # of any weight of each token
    assert torch.autograd.gradcheck(
        lambda x: chunked_kl(teacher, x, 1.5, 2), logits.clone().requires_grad_()
    )


def test_both_parts_of_the_error_are_the_direct_error():
    parts = [of_term(f"error_{part}", Tree()) for part in ("parallel", "orthogonal")]
    assert sum(parts) == pytest.approx(of_term("direct", Tree()), rel=1e-6)


def test_the_documents_second_component_is_a_constant():
    prediction, batch = given()
    prediction["mlp"].requires_grad_()
    tree = Tree(error_orthogonal__form="document")
    TERMS["error_orthogonal"].sum(prediction, batch, tree).backward()
    assert not prediction["mlp"].grad.any()


@pytest.mark.parametrize("name", ["direct", "encoding", "error_parallel", "modulation"])
def test_the_right_forms_have_no_unit(name):
    """All that is measured in the stream's unit, a hundred times larger; the document's direct
    and encoding grow with it (003-M10).
    """
    prediction, _ = given()
    larger = {k: 100.0 * value for k, value in prediction.items()}
    assert of_term(name, Tree(), larger) == pytest.approx(of_term(name, Tree()), rel=1e-4)
    if name in ("direct", "encoding"):
        document = Tree(**{f"{name}__form": "document"})
        assert of_term(name, document, larger) > 50.0 * of_term(name, document)


def test_the_documents_guidance_has_no_lower_bound_and_says_so():
    prediction, _ = given()
    document = Tree(guidance__form="document")
    larger = {**prediction, "scalar": 1e3 * prediction["scalar"]}
    assert of_term("guidance", document, larger) < -1e5
    assert terms(document)["guidance"].unbounded
    assert not terms(Tree())["guidance"].unbounded
    assert of_term("guidance", Tree(), larger) >= 0.0


def test_importance_has_no_gradient_and_the_right_guidance_ignores_the_scale_of_s():
    prediction, batch = given()
    for name in ("attention", "hidden", "scalar"):
        prediction[name].requires_grad_()
    TERMS["guidance"].sum(prediction, batch, Tree(guidance__measure="square")).backward()
    assert prediction["attention"].grad is None and prediction["hidden"].grad is None
    assert prediction["scalar"].grad[..., 0].any() and not prediction["scalar"].grad[..., 1].any()
    with torch.no_grad():
        larger = {**prediction, "scalar": 50.0 * prediction["scalar"]}
        assert of_term("guidance", Tree(), larger) == pytest.approx(
            of_term("guidance", Tree(), prediction), rel=1e-4
        )


def test_a_code_that_is_not_drawn_has_no_divergence():
    prediction, _ = given()
    without = {k: v for k, v in prediction.items() if k not in ("mu", "log_sigma")}
    expected = over_layers(lambda v: info_nce(v, 0.1))
    assert of_term("bottleneck", Tree(), without) == pytest.approx(expected, rel=1e-6)


def test_padding_pays_nothing_whatever_stands_there():
    prediction, batch = given()
    beyond = ~batch["mask"]
    disturbed = {}
    for name, value in prediction.items():
        changed = value.clone()
        if name in SHAPES:
            changed.movedim(1, 2)[beyond] = 1e3
        elif name != "directions":
            changed[beyond] = 1e3
        disturbed[name] = changed
    for label, (changes, _) in FORMULAS.items():
        name = label.partition("-")[0]
        tree = Tree(**{f"{name}__{key}": value for key, value in changes.items()})
        assert of_term(name, tree, disturbed) == pytest.approx(of_term(name, tree)), label
    assert of_term("fidelity", Tree(), disturbed) == pytest.approx(of_term("fidelity", Tree()))


def test_the_documents_guidance_beside_a_hinge_on_the_same_deviation_is_refused():
    with pytest.raises(SettingsError, match="has a variance of its own"):
        Tree(guidance__form="document", variance__enabled=True)
