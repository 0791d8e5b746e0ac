"""What is asked of XLA before the first device is used."""

import importlib.util
import os

import jax
import pytest

from tada_jax.system import backend
from tada_jax.system.errors import UserError


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


@pytest.mark.parametrize(("device", "word"), [("nvidia0", "cuda"), ("accel0", "tpu")])
def test_an_accelerator_that_is_not_used_is_named(device, word, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert backend.idle_accelerator(tmp_path) == ""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / device).touch()
    assert f"DEVICE={word}" in backend.idle_accelerator(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert backend.idle_accelerator(tmp_path) == ""


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
