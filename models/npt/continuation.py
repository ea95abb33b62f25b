"""Texts that a Llama, or a student of one, goes on with.

Shapes: B texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.draws import draw_uniform

_STREAM = "npt.text"
"""Of the draws of tokens, by the seeds of the texts."""


class Drawn:
    """Leaves of the logits the token that is drawn of softmax(logits / T), for each text by a
    number of its own; what the library calls for each new token.
    """

    def __init__(self, uniform: Tensor, temperature: float, after: int) -> None:
        """
        Args:
            uniform: in [0, 1), for each text and new token [B, n].
            temperature: T, above 0.
            after: tokens of the prompts.
        """
        self.uniform, self.temperature, self.after = uniform, temperature, after

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        u = self.uniform[:, tokens.shape[1] - self.after].double()
        below = torch.softmax(logits.double() / self.temperature, dim=-1).cumsum(dim=-1)
        chosen = torch.searchsorted(below, (u * below[:, -1])[:, None], right=True)
        chosen = chosen.clamp_max(logits.shape[-1] - 1)
        return torch.full_like(logits, -torch.inf).scatter(1, chosen, 0.0)


@torch.no_grad()
def continued(
    llama: nn.Module,
    prompts: Sequence[Sequence[int]],
    length: int,
    separator: int,
    temperature: float = 0.0,
    seeds: Tensor | None = None,
) -> list[list[int]]:
    """What comes after each prompt: at most `length` tokens, up to the end of the document, which
    is left out.

    Args:
        prompts: tokens of B texts, one token or more each.
        separator: the token around documents; what the Llama itself calls the end is one as well.
        temperature: of the draws; 0 takes the likeliest token.
        seeds: of the draws, int64 [B]; not read at temperature 0.
    """
    from transformers import LogitsProcessorList

    model: Any = llama
    device = next(llama.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), longest), separator)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):  # padding stands before them: all go on from one place
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    processors = LogitsProcessorList()
    if temperature:
        if seeds is None:
            raise ValueError(f"temperature {temperature:g} draws tokens: give the texts' seeds")
        uniform = draw_uniform(seeds.to(device), _STREAM, (length,))
        processors.append(Drawn(uniform, temperature, longest))
    ends = ends_of(llama, separator)
    whole = model.generate(
        input_ids=tokens.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=length,
        do_sample=False,
        logits_processor=processors,
        eos_token_id=ends,
        pad_token_id=separator,
    )
    return [until(row, ends) for row in whole[:, longest:].tolist()]


def ends_of(llama: nn.Module, separator: int) -> list[int]:
    """The separator, and the tokens that the Llama's own configuration calls the end."""
    model: Any = llama
    end = model.config.eos_token_id
    named = end if isinstance(end, list) else [end]
    return sorted({separator, *(int(token) for token in named if token is not None)})


def until(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Those before the first that is an end."""
    places = (place for place, token in enumerate(tokens) if token in ends)
    return list(tokens[: next(places, len(tokens))])
