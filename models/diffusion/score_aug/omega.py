"""Omega, the code of a transformation, and what a network's time embedding has of it.

| place | |
|---|---|
| 0 - 3 | turned or flipped; shifted; cut out; pattern |
| 4 - 8 | turned; flipped along W; along H; turned, then flipped along W; flipped along D |
| 10 | quarter turns / 3 |
| 11 - 13 | shift along W, H, D, shares of the sides |
| 14 | nothing of all this: `identity=own_bit` |
| 15 | logarithm of the brightness factor |
| 16 - 31 | number of the pattern |
| 32 - 35 | modality |

9 is spare. The document has 14 and 15 spare and says "nothing" at 0, where it also says "turned or
flipped" (001-M9, `identity=shared_bit`); of a cutout it has the same code wherever the box lies,
which its zeros show. In volumes its places 4 - 9 are turns about D, H and W and flips of them.

Shapes: B samples, E the width of the network's embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion.score_aug.patterns import COUNT
from models.diffusion.score_aug.settings import IDENTITIES
from models.diffusion.score_aug.transforms import Plan
from settings.mri import MODALITIES

WIDTH = 36

_SPATIAL, _SHIFTED, _CUT, _PATTERN = range(4)
_KINDS, _TURNS, _SHIFT, _IDENTITY, _FACTOR, _NUMBER, _MODES = 4, 10, 11, 14, 15, 16, 32


def omega_code(plan: Plan, identity: str = "own_bit", modes: Tensor | None = None) -> Tensor:
    """Float32 [B, 36], a row for each sample.

    Args:
        identity: one of `IDENTITIES`.
        modes: int64 [B] as in `by_modality`, where the noisy image has a factor of its modality;
            the document has that of the first sample in the code of all.
    """
    if identity not in IDENTITIES:
        raise ValueError(f"identity is one of {', '.join(IDENTITIES)}, not {identity!r}.")
    code = torch.zeros(len(plan), WIDTH, device=plan.turns.device)
    nothing = _SPATIAL if identity == "shared_bit" else _IDENTITY
    code[:, nothing] = plan.is_identity.float()
    code[:, _SPATIAL] += plan.is_spatial
    code[:, _SHIFTED], code[:, _CUT] = plan.is_shifted.float(), plan.is_cut.float()
    code[:, _PATTERN] = plan.has_pattern.float()
    for place, is_one in enumerate(_kinds(plan)):
        code[:, _KINDS + place] = is_one.float()
    code[:, _TURNS] = plan.turns / 3.0
    if plan.shift is not None:
        code[:, _SHIFT : _SHIFT + plan.dimensions] = plan.shift.flip(1)
    if plan.factor is not None:
        code[:, _FACTOR] = plan.factor.log()
    if plan.pattern is not None:
        numbers = F.one_hot(plan.pattern.clamp(min=0), COUNT) * plan.has_pattern[:, None]
        code[:, _NUMBER : _NUMBER + COUNT] = numbers.float()
    if modes is not None:
        names = len(MODALITIES)
        code[:, _MODES:] = F.one_hot(modes.to(code.device), names + 1)[:, :names].float()
    return code


def _kinds(plan: Plan) -> tuple[Tensor, ...]:
    """Bool [B] of each of the places 4 - 8."""
    turned, flip = plan.turns > 0, plan.flip
    return (
        turned & (flip == 0),
        ~turned & (flip == 1),
        ~turned & (flip == 2),
        turned & (flip == 1),
        ~turned & (flip == 3),
    )


class OmegaEmbedding(nn.Module):
    """Codes [B, 36] -> embedding [B, E] that is added to the time embedding: two linear layers, of
    which the last begins with zeros, so that a network begins as if it were told nothing.

    Validation and generating have the code of `unchanged`, which says something too.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(WIDTH, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, code: Tensor) -> Tensor:
        """code: as `omega_code` makes it."""
        output: Tensor = self.layers(code)
        return output
