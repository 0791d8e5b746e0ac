"""Nothing is read from, or written to, the caches of who runs the tests; and no network."""

import sys

import numpy as np
import pytest

from tada_jax.data import cifar10, extras
from tests.data.cifar10_copies import SIZES, free_port


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No copy of CIFAR-10 anywhere, and a server that refuses connections."""
    for name, folder in (
        ("TADA_JAX_CACHE", "cache"),
        ("TFDS_DATA_DIR", "tfds"),
        ("KERAS_HOME", "keras"),
    ):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(cifar10, "_URL", f"http://127.0.0.1:{free_port()}/cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar10, "_OFFICIAL_COUNTS", (15, 4))


@pytest.fixture
def pillow_alone(monkeypatch):
    """None of the optional libraries is installed."""
    for name in extras.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def folder(tmp_path):
    """An empty one for a data set."""
    made = tmp_path / "set"
    made.mkdir()
    return made


@pytest.fixture(scope="session")
def batches():
    """Made-up batches: file name -> (images [N,32,32,3], labels [N])."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n))
        for name, n in SIZES.items()
    }
