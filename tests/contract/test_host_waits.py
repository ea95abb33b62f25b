"""How often the host waits for the device in a step, of every system.

There is no device here: tensors of the modules and of the batches that the loop has moved are
taken for one's, and so is all that is computed from them. Whatever then needs their values on the
host would wait on a GPU; `tests/trainables/test_loop_gpu.py` asks a real one.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from losses.sliced_wasserstein import ascending
from settings.flat import replace
from trainables.loop import Training
from trainables.run import LocalRun
from trainables.stepping.batches import Share, train_loader

ATEN = torch.ops.aten
READS = {  # the values decide what follows, or how large it is
    ATEN._local_scalar_dense,
    ATEN.nonzero,
    ATEN.masked_select,
    ATEN._unique2,
    ATEN.equal,
}
INDEXED = {ATEN.index, ATEN.index_put, ATEN.index_put_}
"""By a mask these look for its places first."""

COPIES = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__array__}

BY_THE_CPU_ALONE = {("sliced_wasserstein.py", "ascending"): ascending}
"""(File, function) that takes another way for a tensor of the CPU than for one of a device: as
all tensors here are the CPU's, it would be seen on the wrong one.
"""


class Device(TorchDispatchMode):
    """Follows which storages would be on a device, and notes where the host needs their values."""

    def __init__(self, modules):
        super().__init__()
        self.storages, self.waits = {}, []
        for module in modules.values():
            self.take([*module.parameters(), *module.buffers()])

    def take(self, tree):
        for leaf in tree_leaves(tree):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = storage

    def holds(self, tree):
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return any(tensor.untyped_storage()._cdata in self.storages for tensor in tensors)

    def wait(self, function):
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        caller = frames[-3]
        if (Path(caller.filename).name, caller.name) not in BY_THE_CPU_ALONE:
            self.waits.append(f"{function}: {caller.filename}:{caller.lineno}")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_there = self.holds((args, kwargs))
        packet = func.overloadpacket
        masks = args[1] if packet in INDEXED else ()
        by_mask = any(mask is not None and mask.dtype == torch.bool for mask in masks)
        if is_there and (packet in READS or by_mask):
            self.wait(func)
        result = func(*args, **(kwargs or {}))
        if is_there:
            self.take(result)
        return result


class Transfers(TorchFunctionMode):
    """Notices what goes to the device, which is `Tensor.to(device, non_blocking=...)`, and what
    comes back as a whole.
    """

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.to and "non_blocking" in (kwargs or {}):
            self.device.take(result)
        if func in COPIES and self.device.holds(args):
            self.device.wait(func.__name__)
        return result


def waits_of(case, tree, directory, steps):
    """What the host would wait for in each of the first steps."""
    training = Training(case.system, tree, LocalRun(directory), case.prepared)
    share = Share(tree.train.batch_size, tree.train.accumulate)
    batches = iter(train_loader(training.loaders, share, tree.train.seed, 0, steps))
    device, waits = Device(training.modules), []
    for average in training.ema.values():
        device.take([*average.module.parameters(), *average.module.buffers()])
    for _ in range(steps):
        micro = [next(batches) for _ in range(tree.train.accumulate)]
        with Transfers(device), device:
            training.one_step(micro)
        waits.append(device.waits)
        device.waits = []
    training.close()
    return waits


@pytest.mark.parametrize("function", BY_THE_CPU_ALONE.values())
def test_what_only_the_cpu_takes_to_the_host_stays_on_a_device(function):
    values = torch.empty(2, 5, device="meta", requires_grad=True)  # has no numbers to copy
    assert function(values).device == values.device


LONG = {"train.steps": 100, "train.report_every": 100, "train.ema_decay": 0.9}


def groups(case):
    """How many groups of phases a step applies one after the other."""
    _, *later = case.system.phases(case.settings, case.prepared)
    return 1 + sum(not phase.ignores_updates for phase in later)


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["small", "every term on"])
def test_a_step_waits_once_for_all_phases_that_can_be_applied_together(case, tree, tmp_path):
    settings = case.settings if tree == "small" else case.audited
    for waits in waits_of(case, replace(settings, {**LONG, "train.accumulate": 2}), tmp_path, 3):
        assert len(waits) == groups(case), waits


@pytest.mark.slow
def test_systems_of_ours_wait_once(case):
    is_toy = case.system.name == "trainables.toy:ToyGan"  # its critic reads the updated model
    assert groups(case) == 1 + is_toy


@pytest.mark.slow
@pytest.mark.parametrize("report_every", [100, 3])
def test_no_step_waits_between_looks(case, tmp_path, report_every):
    """One wait for all phases at every fourth step, and at one that ends with a report."""
    changes = {**LONG, "train.report_every": report_every, "train.finite_check_every": 4}
    found = waits_of(case, replace(case.settings, changes), tmp_path, 8)
    looked = {3, 7} if report_every == 100 else {2, 3, 5, 7}
    expected = [int(step in looked) for step in range(8)]
    assert [len(waits) for waits in found] == expected, found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inverse_gradient", "dwa"])
def test_a_balancer_waits_together_with_the_look(case, tmp_path, kind):
    if not hasattr(case.settings.loss, "balancer"):
        pytest.skip("the system has no balancer")
    balancer = {"loss.balancer.kind": kind, "loss.balancer.interval": 2}
    found = waits_of(case, replace(case.settings, {**LONG, **balancer}), tmp_path, 3)
    assert [len(waits) for waits in found] == 3 * [groups(case)], found
    changes = {**LONG, **balancer, "train.finite_check_every": 100}
    found = waits_of(case, replace(case.settings, changes), tmp_path, 3)
    looks = {"inverse_gradient": [1, 0, 1], "dwa": [1, 1, 1]}[kind]
    assert [len(waits) for waits in found] == looks, found
