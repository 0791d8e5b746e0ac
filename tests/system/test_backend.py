"""What is asked of XLA before the first device is used."""

import ctypes
import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tests import tiny


@pytest.mark.parametrize(
    ("installed", "before", "after"),
    [
        (True, "", "--xla_gpu_deterministic_ops=true"),
        (True, "--xla_a=1", "--xla_a=1 --xla_gpu_deterministic_ops=true"),
        (True, "--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
        (False, "--xla_a=1", "--xla_a=1"),  # a CPU knows no such flag
    ],
)
def test_deterministic_kernels_are_asked_for_where_there_are_others(
    installed, before, after, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: (object() if installed else None) if name == "jax_plugins" else find(name),
    )
    monkeypatch.setenv("XLA_FLAGS", before)
    for _ in range(2):  # twice is once
        backend.be_deterministic()
        assert os.environ["XLA_FLAGS"] == after


def test_flags_in_a_file_are_read(tmp_path, monkeypatch):
    (tmp_path / "flags").write_text("--xla_a=1\n--xla_b=2\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert backend.xla_flags() == "--xla_a=1 --xla_b=2"
    monkeypatch.setenv("XLA_FLAGS", "/nowhere")
    with pytest.raises(UserError, match="XLA_FLAGS=/nowhere: no such file"):
        backend.xla_flags()


@pytest.mark.parametrize(("device", "word"), [("nvidia0", "cuda"), ("accel0", "tpu")])
def test_an_accelerator_that_is_not_used_is_named(device, word, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert backend.idle_accelerator(tmp_path) == ""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / device).touch()
    assert f"DEVICE={word}" in backend.idle_accelerator(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert backend.idle_accelerator(tmp_path) == ""


_FREED = """
import pathlib
import numpy as np
from tada_jax.system import backend

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

backend.keep_freed_memory(pools=True)
before = resident()
arrays = [np.ones(2**15) for _ in range(1000)]  # 250 MiB
del arrays
kept = resident()
backend.give_back_memory()
print(kept - before, resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of the GNU C library")
def test_memory_that_is_kept_can_be_given_back():
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", _FREED]
    done = subprocess.run(command, env=env, cwd=tiny.ROOT, capture_output=True, text=True)
    kept, left = map(float, done.stdout.split())
    assert kept > 200 and left < 50, done.stderr


def test_a_process_that_does_not_answer_is_one_line(monkeypatch):
    def fails(value):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo context initialization failed: timed out")

    monkeypatch.setattr(backend.multihost_utils, "process_allgather", fails)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for call in (lambda: backend.in_turn(lambda: 1), lambda: backend.any_process(False)):
        with pytest.raises(UserError, match="another of the 2 processes.*Gloo.*start all") as e:
            call()
        assert "\n" not in str(e.value)
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert backend.of_another_process(jax.errors.JaxRuntimeError("Gloo")) is None
