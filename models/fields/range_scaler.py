"""An affine map onto [-reach, reach] whose constants are buffers: differentiable, moved with the
model and stored in its checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RangeScaler(nn.Module):
    """y = reach * (x - center) / half_range, by column or, with shape (), for all values alike.

    Fit it on the training split only (000-M17: a range that includes validation leaks); a value
    outside that range maps beyond +-reach and is not clipped. A column that is constant in
    training maps to 0 and back to its constant, whatever comes: the limit of an ever narrower one.

    Args:
        shape: of the columns, the last axes of the values; () for one range.
    """

    center: Tensor
    half_range: Tensor
    reach: Tensor

    def __init__(self, shape: Sequence[int], reach: float) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(tuple(shape)))
        self.register_buffer("half_range", torch.ones(tuple(shape)))
        self.register_buffer("reach", torch.tensor(float(reach)))

    def fit(self, values: Tensor) -> RangeScaler:
        """Sets the range to that of the values [..., *shape]."""
        columns = values.reshape(-1, *self.center.shape)
        return self.fit_range(columns.amin(dim=0), columns.amax(dim=0))

    def fit_range(self, low: Tensor, high: Tensor) -> RangeScaler:
        """Sets ranges that are known.

        Raises:
            ValueError: a bound is not finite.
        """
        low, high = torch.as_tensor(low).double(), torch.as_tensor(high).double()
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise ValueError(
                "the values to scale are not all finite: their range is "
                f"{float(low.min()):g} .. {float(high.max()):g}. Mend or leave out the samples "
                "with NaN or infinity."
            )
        self.center.copy_((low + high) / 2.0)
        self.half_range.copy_((high - low) / 2.0)
        return self

    @property
    def constant_columns(self) -> int:
        return int((self.half_range == 0).sum())

    def forward(self, values: Tensor) -> Tensor:
        width = torch.where(self.half_range > 0, self.half_range, torch.inf)
        return (values - self.center) * (self.reach / width)

    def inverse(self, scaled: Tensor) -> Tensor:
        return scaled * (self.half_range / self.reach) + self.center
