"""What a student has to beat: its teacher's layers with no attention, with less of it, and with
the best affine map of attention to what is missing without it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.npt.layers import (
    Rule,
    parallel,
    with_affine,
    with_constant,
    with_rules,
    without_attention,
)
from models.npt.llama import logits_of
from trainables.api import Reference, Tensors
from trainables.npt.teacher import Teacher, load


def references(teacher: Teacher, layers: tuple[int, ...]) -> dict[str, Reference]:
    """Fitted to the training documents, and put in place of the same layers as the converters."""
    llama, facts = load(teacher.external.file, teacher.config), load_file(teacher.facts)

    def reference(rules: Mapping[int, Rule], about: str) -> Reference:
        student = with_rules(llama, rules)

        @torch.no_grad()
        def predict(batch: Tensors) -> Tensors:
            tokens: Tensor = batch["tokens"]
            llama.to(tokens.device)
            pair = {"logits": student, "teacher_logits": llama}
            return {name: logits_of(model, tokens) for name, model in pair.items()}

        return Reference(predict, about)

    means = {at: with_constant(facts["mean"][at]) for at in layers}
    maps = {at: with_affine(facts["weight"][at], facts["bias"][at]) for at in layers}
    return {
        "no_attention": reference(
            dict.fromkeys(layers, without_attention), "h + MLP(norm(h)), attention left out"
        ),
        "mean_attention": reference(means, "the mean of a over training tokens in its place"),
        "parallel": reference(
            dict.fromkeys(layers, parallel), "h + a + MLP(norm(h)), a beside the MLP"
        ),
        "ridge": reference(maps, "h + MLP(norm(h)) and the best affine map of a to the rest"),
    }
