"""The micro-batches of a step on their way to the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from losses.terms import Tensors
from trainables.stepping.devices import to_device


class MicroBatches:
    """This rank's micro-batches of one step: on the host, and one after the other on the device.

    Args:
        host: as the loader made them.
    """

    def __init__(
        self, host: Sequence[Tensors], device: torch.device, channels_last: bool = False
    ) -> None:
        self._host, self._device, self._channels_last = list(host), device, channels_last
        self._shared: list[dict[str, Tensor]] = [{} for _ in self._host]
        self._moved: tuple[int, Tensors] | None = None

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[Tensors]:
        """Each with its tensors on the device; it goes there when it is asked for, and gives way
        to the next. A single one stays for the phases that follow.
        """
        for index, shared in enumerate(self._shared):
            if self._moved is None or self._moved[0] != index:
                self._moved = None
                host = self._host[index]
                self._moved = index, to_device(host, self._device, self._channels_last)
            yield {**self._moved[1], **shared}

    @property
    def host(self) -> list[Tensors]:
        """Each as the loader made it, with what earlier phases have shared, which is on the
        device.
        """
        return [{**batch, **more} for batch, more in zip(self._host, self._shared, strict=True)]

    def share(self, outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds what a phase hands to later ones, for each micro-batch."""
        for shared, more in zip(self._shared, outputs, strict=True):
            shared.update(more)
