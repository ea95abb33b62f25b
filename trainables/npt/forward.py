"""The forward of npt: the student on the teacher's weights, and what each of its converted layers
was to do. Shapes as in `losses.npt.terms`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from losses.npt.terms import SHARE
from models.npt.converter import Conversion
from models.npt.layers import gate_change, gate_of_attention, layers_of, target
from models.npt.student import Converters, Window, one_by_one, teach
from trainables.api import Modules, Tensors, draw_normal, draw_uniform
from trainables.npt.settings import NptSettings
from trainables.stepping.inputs import SCHEDULE, SEED

WINDOW = "window"
"""Settings key of the schedule by which layers open one after another."""

CURRICULUM = SHARE.removeprefix(SCHEDULE)
"""Of the share of the tokens that a curriculum keeps."""


def convert(modules: Modules, batch: Tensors, settings: NptSettings) -> dict[str, Tensor]:
    """The prediction of `losses.npt.terms`. In training some samples feed the converted layers
    what the teacher does (`model.teacher_share`), and codes are drawn; in validation the student
    is all by itself.
    """
    teacher, converters, tokens = modules["teacher"], modules["converter"], batch["tokens"]
    chosen = of(modules).layers
    window = window_of(batch, chosen, settings) if converters.training else None
    teacher_logits, records = teach(teacher, tokens, chosen)
    noise, hidden, is_fed = None, None, None
    if converters.training:
        seed, node = batch[SEED], settings.model
        if node.bottleneck:
            shape = (tokens.shape[1], node.rank)
            noise = {at: draw_normal(seed, f"npt.code.{at}", shape) for at in chosen}
        if node.teacher_share:
            is_fed = draw_uniform(seed, "npt.fed") < node.teacher_share
            hidden = {at: record.hidden for at, record in records.items()}
    logits, conversions = converters(teacher, tokens, noise, hidden, is_fed, window)
    learning = chosen if window is None else window.open
    layers = [layers_of(teacher)[at] for at in learning]
    places = [chosen.index(at) for at in learning]
    prediction = {"logits": logits, "teacher_logits": teacher_logits}
    if SHARE in batch:
        threshold = of(modules).threshold(batch[SHARE][0])[places]
        lengths = torch.stack([records[at].attention.norm(dim=-1) for at in learning], dim=1)
        prediction["kept"] = lengths <= threshold[:, None]
    return prediction | described(layers, conversions, of(modules).directions[places])


def window_of(batch: Tensors, layers: tuple[int, ...], settings: NptSettings) -> Window | None:
    """Which of the converted layers learn at the step of the batch; None where all do. A layer is
    the teacher's until it learns for the first time.
    """
    value = batch.get(f"{SCHEDULE}{WINDOW}")
    if value is None:
        return None
    return one_by_one(layers, int(value[0]), are_converted=settings.npt.layers.start > 0.0)


def described(
    layers: list[nn.Module], conversions: list[Conversion], directions: Tensor
) -> dict[str, Tensor]:
    """Of all layers that learn, [B, N, ...]. What a layer is given is no more than a fact to it:
    it has no gradient, whatever converters before it have done.
    """
    each = [_of_layer(*pair) for pair in zip(layers, conversions, strict=True)]
    stacked = {name: torch.stack([one[name] for one in each], dim=1) for name in each[0]}
    count = len(conversions[0].hidden)
    return {**stacked, "directions": directions.expand(count, *directions.shape)}


def _of_layer(layer: nn.Module, made: Conversion) -> dict[str, Tensor]:
    h, a = made.hidden.detach(), made.attention.detach()
    entries = {
        "hidden": h,
        "attention": a,
        "normed": made.normed.detach(),
        "target": target(layer, h, a),
        "true_change": gate_change(layer, h, a),
        "gate_of_attention": gate_of_attention(layer, a),
        "encoded": made.encoded,
        "v_a": made.v_a,
        "v_b": made.v_b,
        "scalar": made.scalar,
        "change": made.change,
        "mlp": made.mlp,
    }
    if made.code.log_sigma is not None:
        entries |= {"mu": made.code.mu, "log_sigma": made.code.log_sigma}
    return entries


def of(modules: Modules) -> Converters:
    """The converters themselves, whatever is wrapped around them."""
    converters: nn.Module = modules["converter"]
    inner = getattr(converters, "module", converters)
    if not isinstance(inner, Converters):
        raise TypeError(f"the module `converter` is Converters, not {type(inner).__name__}")
    return inner
