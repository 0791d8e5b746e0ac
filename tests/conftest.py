"""Eight host devices and a compilation cache inside the checkout, before anything imports jax."""

import collections
import contextlib
import ctypes
import gc
import importlib.metadata
import inspect
import os
import pathlib
import resource
import sys
import types

import pytest

JAXLIB = importlib.metadata.version("jaxlib")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The tests compile much and compute little.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # At level 0 a step of the tests is ready in half the time. Later ones do not know the flag.
        *(["--xla_cpu_use_fusion_emitters=false"] if JAXLIB.startswith("0.10.") else []),
    ]
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".cache" / "xla")
)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as many processes as cores are at work
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # nobody looks who made an operation

import jax  # noqa: E402 (not before the environment is set)

from tada_jax.system import garbage, memo  # noqa: E402 (not before the environment is set)
from tada_jax.training import heldout  # noqa: E402 (not before the environment is set)

# What compiled programs are made of: whoever changes it shares none with other tests.
TRACED = (
    *("tada_jax.augment", "tada_jax.transforms", "tada_jax.resample", "tada_jax.tada", "jax"),
    *("tada_jax.model", "tada_jax.methods", "tada_jax.setup.build", "tada_jax.system.backend"),
    *("tada_jax.training.step", "tada_jax.training.heldout"),
)


# Python looks through all that was imported, and JAX has traced, for what can be thrown away: less
# often, and not through the former.
gc.collect()
gc.freeze()
garbage.collect_seldom()

heldout.EXAMPLES = 128  # a quarter of a run's: a program that is compiled in haste takes its time

MOST_BYTES = 1.25 * 2**30  # that a process may have between two tests, at first
MORE_BYTES = 2**29  # that it may grow by after it has given back what it can
STATM = pathlib.Path("/proc/self/statm")  # of Linux: pages, the second those in memory


class Patch(pytest.MonkeyPatch):
    """pytest's, that forgets compiled programs where what they are made of is changed."""

    traced = False

    def setattr(self, target, *arguments, **options):
        super().setattr(target, *arguments, **options)
        owner = target if isinstance(target, type) else type(target)
        name = getattr(target, "__name__", "") if inspect.ismodule(target) else owner.__module__
        if (target if isinstance(target, str) else name).startswith(TRACED):
            memo.forget()
            self.traced = True

    def undo(self):
        super().undo()
        if self.traced:
            memo.forget()


@pytest.fixture
def monkeypatch():
    """As pytest's."""
    patch = Patch()
    yield patch
    patch.undo()


def forget_programs():
    """Gives back what compiled programs take: a process would grow to gigabytes otherwise."""
    memo.forget()
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes():
    """What this process has in memory; 0 where that is not known."""
    return int(STATM.read_text().split()[1]) * resource.getpagesize() if STATM.exists() else 0


@pytest.fixture(scope="session")
def allowance():
    """The bytes that a process may have, as a dict's only entry.

    Not all of its memory comes back. Were the limit to stay below what is left, the programs would
    be forgotten after every single test.
    """
    return {"bytes": MOST_BYTES}


@pytest.fixture(autouse=True)
def no_process_grows(allowance):
    """Tests that compute step by step compile a program for each operation."""
    yield
    if resident_bytes() > allowance["bytes"]:
        forget_programs()
        allowance["bytes"] = max(MOST_BYTES, resident_bytes() + MORE_BYTES)


def pytest_collection_modifyitems(items):
    """Files of few tests, which take long each, go first: no process is left alone with one."""
    tests = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (tests[item.path], item.path))


@pytest.fixture(scope="session", autouse=True)
def small_networks():
    """Runs inside tests train `tiny.SmallNet`; those by main.py, and of `whole_network`, a UNet."""
    from tada_jax.setup import build
    from tests import tiny

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "unet", types.SimpleNamespace(UNet=tiny.SmallNet))
        yield


@contextlib.contextmanager
def _no_figures():
    from tests import tiny

    with pytest.MonkeyPatch.context() as patch:
        for name in ("tada_jax.training.describe", "tada_jax.training.observe"):
            if name in sys.modules:
                patch.setattr(sys.modules[name], "figures", tiny.NoFigures())
        yield


@contextlib.contextmanager
def _whole():
    from tada_jax.model import unet
    from tada_jax.setup import build

    with pytest.MonkeyPatch.context() as patch:
        memo.forget()  # equal configurations would get what was made for the other network
        patch.setattr(build, "unet", unet)
        yield
    memo.forget()


@pytest.fixture
def whole_network(small_networks):
    """A test whose subject is the network has the one that is configured."""
    with _whole():
        yield


@pytest.fixture(scope="module")
def whole_networks(small_networks):
    """A file whose subject is the network has the one that is configured."""
    with _whole():
        yield


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """`forked(*arguments)`: main.py, see `tests.forked`."""
    from tests.forked import Forked

    with contextlib.closing(Forked(tmp_path_factory.mktemp("forked"))) as call:
        yield call


@pytest.fixture(autouse=True)
def no_figures():
    """Runs inside tests draw none, for they take seconds; that of the fixture `finished` does."""
    with _no_figures():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A whole run of six steps: (config, workdir, final state). Not to be written to."""
    return _finished(tmp_path_factory)


@pytest.fixture(scope="session")
def finished_moves(tmp_path_factory):
    """The same, of digits that move; without figures."""
    return _finished_moves(tmp_path_factory)


@pytest.fixture(scope="session")
def finished_unet(tmp_path_factory, small_networks):
    """The same, of a UNet and of digits that move: for tests of a `whole_network`."""
    with _whole():
        return _finished_moves(tmp_path_factory)


def _finished_moves(tmp_path_factory):
    from tada_jax.training import loop  # noqa: F401 (what draws must be there to be kept from it)
    from tests import tiny

    with _no_figures():
        return _finished(tmp_path_factory, augment__ops=tiny.MOVES)


def _finished(tmp_path_factory, **fields):
    from tada_jax.training import loop
    from tests import tiny

    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config(**fields)
    return config, workdir, loop.train(config, workdir)
