"""Principal components, for references that are linear.

Shapes: n rows of P values; K components.
"""

from __future__ import annotations

import torch
from torch import Tensor


def principal_axes(rows: Tensor, middle: Tensor, numbers: int) -> Tensor:
    """At most as many orthonormal directions [K, P] of `rows` [n, P] as `numbers`, those of most
    variance about `middle` first; only those along which there is any.
    """
    centred = (rows - middle).double()
    is_wide = centred.shape[0] < centred.shape[1]
    square = centred @ centred.T if is_wide else centred.T @ centred
    variances, vectors = torch.linalg.eigh(square)
    largest = float(variances[-1].clamp_min(torch.finfo(torch.float64).tiny))
    count = min(numbers, int((variances > 1e-10 * largest).sum()))
    chosen = vectors.flip(1)[:, :count]
    if is_wide:
        scale = variances.flip(0)[:count].sqrt()
        chosen = centred.T @ chosen / scale
    return chosen.T.float().contiguous()
