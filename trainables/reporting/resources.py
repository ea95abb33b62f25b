"""The machine's share in a training: floating-point operations and device memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FLOPS = ("train.tflops", "train.tflops_total")
_MEMORY = ("train.vram_allocated_gb", "train.vram_reserved_gb", "train.vram_max_gb")

TERA = 1e12
GIB = 1024.0**3


def columns(count_flops: bool, gpu: bool) -> tuple[str, ...]:
    """The columns of `Resources.report`."""
    return (*(_FLOPS if count_flops else ()), *(_MEMORY if gpu else ()))


class Resources:
    """Counts the operations of the first step that this process runs, and assumes the same of the
    others. Counting does not change a step's result.

    Forward and backward are counted, a multiply-add as two (`torch.utils.flop_counter`, matrix
    products, convolutions and attention; norms and activations are not in it).
    """

    def __init__(self, device: torch.device, count_flops: bool) -> None:
        self.device, self.count_flops = device, count_flops
        self.per_step: float | None = None
        self._reported_at: int | None = None

    @contextmanager
    def counting(self, step: int) -> Iterator[None]:
        if self._reported_at is None:
            self._reported_at = step
        if not self.count_flops or self.per_step is not None:
            yield
            return
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            yield
        self.per_step = counter.get_total_flops() / TERA

    def report(self, step: int) -> dict[str, float | str | None]:
        """`train.tflops` since the last report and `train.tflops_total` since step 0, of this
        rank; on a GPU its memory in GiB, `train.vram_max_gb` since the last report.
        """
        measured: list[float] = []
        if self.per_step is not None:
            measured += [self.per_step * (step - (self._reported_at or 0)), self.per_step * step]
        self._reported_at = step
        is_gpu = self.device.type == "cuda"
        if is_gpu:
            now = (torch.cuda.memory_allocated, torch.cuda.memory_reserved)
            peak = torch.cuda.max_memory_allocated
            measured += [memory(self.device) / GIB for memory in (*now, peak)]
            torch.cuda.reset_peak_memory_stats(self.device)
        return dict(zip(columns(self.per_step is not None, is_gpu), measured, strict=True))
