"""Several processes that train one network: the same result as one process."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import tada_jax
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tests import tiny

PROGRAM = """
import sys
import tada_jax
from tada_jax.system import backend
from tests import tiny

backend.join_processes()
config = tiny.config(**eval(sys.argv[2]))
tada_jax.train(config, sys.argv[1])
config.sample.count = 5
config.sample.batch_size = 8
tada_jax.sample(config, sys.argv[1])
if config.log.metrics_every:
    config.evaluate.count = 50
    tada_jax.evaluate(config, sys.argv[1])
"""


def start(workdir, fields, *, processes=2, devices=4):
    """Starts processes of 4 devices each, on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    common = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(processes),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(workdir), repr(fields)],
            cwd=tiny.ROOT,
            env=common | {"JAX_PROCESS_ID": str(i)},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def finish(running):
    """Their standard errors, once all have ended well."""
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), errors
    return errors


MEASURED = {"log__metrics_every": 6, "log__metrics_count": 8, "evaluate__fit_steps": 1}


@pytest.mark.parametrize("fields", [MEASURED, {"data__device_gib": 0.0}], ids=["measured", "fed"])
def test_two_processes_equal_one(fields, finished, tmp_path):
    _, alone, state = finished
    first, second = finish(start(tmp_path, fields))
    assert "8 x cpu" in first  # devices of both
    assert "step" not in second  # one writer
    run = tada_jax.load_run(tmp_path)
    assert run.step == 6
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(state.params)):
        np.testing.assert_allclose(a, b, atol=2e-4)
    names = [{p.name for p in folder.iterdir()} - {".lock"} for folder in (tmp_path, alone)]
    more = {"evaluation", "quality.png"} if fields is MEASURED else set()
    assert names[0] - names[1] == more and names[1] <= names[0]
    if fields is MEASURED:
        (table,) = tmp_path.glob("evaluation/*/table.txt")
        assert "Frechet distance" in table.read_text()
    (folder,) = (p for p in (tmp_path / "samples").iterdir() if p.is_dir())
    images = np.load(folder / "samples_n5.npz")["arr_0"].astype(int)
    drawn = tada_jax.load_run(alone).sample(5).astype(int)
    assert np.abs(images - drawn).max() <= 2


def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    fields = {"train__total_steps": 100_000, "log__every": 10_000}
    fields |= {f"log__{what}_every": 100_000 for what in ("eval", "sample", "checkpoint")}
    running = start(tmp_path, fields)
    while not (tmp_path / "strength.png").exists():
        time.sleep(0.2)
        assert all(process.poll() is None for process in running)
    running[1].send_signal(signal.SIGTERM)
    errors = finish(running)
    run = tada_jax.load_run(tmp_path)
    assert f"after step {run.step:,}" in errors[0]
    assert 0 < run.step < 100_000


def test_a_mistake_in_the_first_process_ends_both(tmp_path):
    (tmp_path / "run").write_text("a file")
    running = start(tmp_path / "run", {})
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert all(process.returncode for process in running)
    assert "cannot be written" in errors[0]
    assert "process 0 could not go on" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0), "need --coordinator"),
        (("host:1", None, 0), "needs --num_processes"),
        (("host:1", 2, None), "needs --process_id"),
        (("host:1", 2, 2), "number the processes from 0"),
        (("host", 2, 1), "host:port"),
    ],
)
def test_processes_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        backend.join_processes(*arguments)
