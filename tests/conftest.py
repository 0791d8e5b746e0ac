"""Eight host devices and a compilation cache inside the checkout, before anything imports jax."""

import os
import pathlib

import pytest

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # The tests compile much and compute little.
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


@pytest.fixture(autouse=True)
def programs_of_changed_functions(request):
    """A test that may change functions shares no compiled program with others."""
    if "monkeypatch" not in request.fixturenames:
        yield
        return
    from tada_jax.system import memo

    memo.forget()
    yield
    memo.forget()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A whole run of six steps: (config, workdir, final state). Not to be written to."""
    from tada_jax.training import loop
    from tests import tiny

    workdir = tmp_path_factory.mktemp("run")
    config = tiny.config()
    return config, workdir, loop.train(config, workdir)
