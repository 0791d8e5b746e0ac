"""Calls of the compiled step."""

import contextlib
import threading

import jax
import pytest

from tada_jax.training import loop
from tests import tiny


@contextlib.contextmanager
def compiled_by():
    """The threads that compile steps meanwhile, a list."""
    threads = []

    def listen(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration") and fun_name == "jit(steps)":
            threads.append(threading.current_thread())

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield threads
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data__device_gib": 0.0, "model__class_conditional": True},
        {"train__steps_per_call": 2, "train__sharding": "fsdp", "ema__widths": (0.1,)},
    ],
)
def test_the_first_call_finds_what_was_compiled_while_the_state_was_made(fields, tmp_path):
    own = {"optimizer__b1": 0.87, "train__total_steps": 2}  # no other test's program
    with compiled_by() as threads:
        loop.train(tiny.config(**own, **fields), tmp_path)
    assert len(threads) == 1 and threads[0] is not threading.main_thread()
