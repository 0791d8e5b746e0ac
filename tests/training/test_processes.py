"""Several processes that train one network: the same result as one process."""

import json
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
import json, sys, types
import tada_jax
from tada_jax.setup import build
from tada_jax.system import backend
from tests import tiny

build.unet = types.SimpleNamespace(UNet=tiny.SmallNet)  # as of the fixture `small_networks`
backend.join_processes()
for workdir, fields in json.loads(sys.argv[1]):
    config = tiny.config(**fields)
    tada_jax.train(config, workdir)
    config.sample.count = 5
    tada_jax.sample(config, workdir)
    if config.log.metrics_every:
        config.evaluate.count = 50
        tada_jax.evaluate(config, workdir)
    print("the end of a run", file=sys.stderr, flush=True)
"""


def start(runs, logs, *, devices=4):
    """Starts a process for each of `logs`, of 4 devices, on this machine.

    Args:
      runs: [(workdir, fields of the configuration)], done one after the other.
      logs: files for what the processes write.
      devices: of each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    common = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(len(logs)),
    }
    running = []
    for i, log in enumerate(logs):
        with log.open("w") as file:  # a pipe would be full before anybody reads it
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, json.dumps(runs, default=str)],
                    cwd=tiny.ROOT,
                    env=common | {"JAX_PROCESS_ID": str(i)},
                    stderr=file,
                    stdout=subprocess.DEVNULL,
                )
            )
    return running


MEASURED = {"log__metrics_every": 6, "log__metrics_count": 8, "evaluate__fit_steps": 1}
MEASURED |= {"evaluate__extractor": "pixels", "train__stop": "window"}
ENDLESS = {"train__total_steps": 100_000, "log__every": 10_000}
ENDLESS |= {f"log__{what}_every": 100_000 for what in ("eval", "sample", "checkpoint")}
RUNS = {"measured": MEASURED, "fed": {"data__device_gib": 0.0}, "endless": ENDLESS}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """{run: (workdir, [standard error of each process])}, all of the same two processes.

    The last has no end: one of the processes is sent a signal.
    """
    folder = tmp_path_factory.mktemp("together")
    logs = [folder / f"process_{i}.txt" for i in range(2)]
    running = start([(folder / name, fields) for name, fields in RUNS.items()], logs)
    try:
        while not (folder / "endless" / "strength.png").exists():
            time.sleep(0.2)
            assert all(process.poll() is None for process in running), logs[0].read_text()
        running[1].send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    errors = [log.read_text() for log in logs]
    assert codes == [0, 0], errors
    parts = [text.split("the end of a run\n") for text in errors]
    return {
        name: (folder / name, [of_process[i] for of_process in parts])
        for i, name in enumerate(RUNS)
    }


@pytest.mark.parametrize("name", ["measured", "fed"])
def test_two_processes_equal_one(name, finished, together):
    _, alone, state = finished
    workdir, (first, second) = together[name]
    assert "8 x cpu" in first  # devices of both
    assert "step" not in second  # one writer
    run = tada_jax.load_run(workdir)
    assert run.step == 6
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(state.params)):
        np.testing.assert_allclose(a, b, atol=2e-4)
    names = [{p.name for p in folder.iterdir()} - {".lock"} for folder in (workdir, alone)]
    more = {"evaluation", "quality.png"} if name == "measured" else set()
    assert names[0] - names[1] == more and names[1] <= names[0]
    if name == "measured":
        (table,) = workdir.glob("evaluation/*/table.txt")
        assert "Frechet distance" in table.read_text()
    (folder,) = (p for p in (workdir / "samples").iterdir() if p.is_dir())
    images = np.load(folder / "samples_n5.npz")["arr_0"].astype(int)
    drawn = tada_jax.load_run(alone).sample(5).astype(int)
    assert np.abs(images - drawn).max() <= 2


def test_a_signal_to_one_process_stops_both_at_the_same_step(together):
    workdir, (first, _) = together["endless"]
    run = tada_jax.load_run(workdir)
    assert f"after step {run.step:,}" in first
    assert 0 < run.step < 100_000


def test_a_mistake_in_the_first_process_ends_both(tmp_path):
    (tmp_path / "run").write_text("a file")
    logs = [tmp_path / f"process_{i}.txt" for i in range(2)]
    assert all([process.wait(timeout=120) for process in start([(tmp_path / "run", {})], logs)])
    errors = [log.read_text() for log in logs]
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
