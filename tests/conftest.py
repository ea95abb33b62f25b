"""What every test shares: threads, a place in memory, hypothesis, limits of the tiers, skipping
without a GPU.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# Before torch is imported, and in the environment, so that processes that a test starts (Ray's
# workers too) add floating point numbers in the same order as the test itself.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a limit on one example is a timed assertion, and fails on a busy machine.
# Reproducible, so that a build fails for what changed; `--hypothesis-profile=explore` looks for
# more, and `make test-fast` takes `fast`.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("fast", settings.get_profile("tests"), max_examples=5)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("tests")

TIER_LIMITS_SECONDS = {"slow": 600, "ray": 900, "gpu": 600}
"""Limits where the 120 s of setup.cfg are too few; a test's own `timeout` mark wins."""

IN_MEMORY, ROOM_BYTES = "/dev/shm", 2 * 2**30


CLUSTERS = Path(__file__).parent / "ray"
"""Whose tests start Ray; its conftest.py marks them."""

SYSTEMS = Path(__file__).parent / "systems"
"""A file a system: what the suites over all systems need of it beside its own members."""


@functools.cache
def _describe(stem: str) -> ModuleType:
    """The module tests/systems/<stem>.py; a test file cannot import another one."""
    name = f"description_of_{stem}"
    spec = importlib.util.spec_from_file_location(name, SYSTEMS / f"{stem}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`described` goes over the files of tests/systems, `audited` over their audits' terms."""
    stems = sorted(path.stem for path in SYSTEMS.glob("*.py"))
    if "described" in metafunc.fixturenames:
        metafunc.parametrize("described", stems, indirect=True, scope="session")
    if "audited" in metafunc.fixturenames:
        audits = [getattr(_describe(stem), "audits", dict)() for stem in stems]
        by_label = {label: audit for made in audits for label, audit in made.items()}
        pairs = [(audit, name) for audit in by_label.values() for name in audit.terms]
        ids = [f"{label}-{name}" for label, audit in by_label.items() for name in audit.terms]
        metafunc.parametrize("audited", pairs, ids=ids)


@pytest.fixture(scope="session")
def describe() -> Callable[[str], ModuleType]:
    """What the suites need of a system, by the name of its file in tests/systems."""
    return _describe


@pytest.fixture(scope="session")
def described(request: pytest.FixtureRequest) -> ModuleType:
    """Every file of tests/systems in turn."""
    return _describe(request.param)


def pytest_configure() -> None:
    """Temporary directories in memory: what a training writes is forced to the disk, which takes a
    third of the fast tier. Not where memory is small (a container's 64 MB), nor where TMPDIR or
    --basetemp names a place.
    """
    if "TMPDIR" in os.environ or not os.access(IN_MEMORY, os.W_OK):
        return
    if shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("ray") and CLUSTERS not in item.path.parents:
            raise pytest.UsageError(f"{item.nodeid}: what is marked `ray` lies in tests/ray")
        limits = [
            seconds
            for name, seconds in TIER_LIMITS_SECONDS.items()
            if item.get_closest_marker(name)
        ]
        if limits and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(max(limits)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Garbage is looked for after it, and only among what tests make: the modules and tests that
    it loads stay, and are most of what each search would go through (a tenth of the fast tier).
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What systems prepare, made once for all processes of a run; a test of what a cache does has
    a folder of its own. The template of the synthetic patients, which takes a second, is read once
    by each process.
    """
    from data.mri import phantom

    read = functools.lru_cache(maxsize=1)(phantom.read_template)
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "read_template", lambda spacing_mm: read(tuple(spacing_mm)))
        yield (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prepared"


@pytest.fixture
def real_mri() -> Path:
    """Real tumours as patients. They are fetched on request and never committed, so a machine
    without them, or without the network, has nothing to run on.
    """
    root = Path(os.environ.get("MRI_REAL_DATA", ".cache/real-data/mri"))
    if not root.is_dir():
        pytest.skip(f"no real MRI at {root}: `make real-data` fetches it, or set MRI_REAL_DATA")
    return root


def _on_one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors only wait for a second thread, for long where the machine is busy; and the
    order of a sum depends on the number of threads.
    """
    yield from _on_one_thread()


@pytest.fixture(scope="module")
def module_on_one_thread() -> Iterator[None]:
    """The same for trainings that the tests of a module share."""
    yield from _on_one_thread()
