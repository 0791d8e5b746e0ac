"""How long training stands still for a checkpoint, and how long it takes until it is on disk.

    python benchmarks/checkpoint.py

Saves the state of the paper's smallest network (17M parameters, with average and optimiser) several
times and reads it back with its fingerprint checked.
"""

import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from configs import ffhq64_tada  # noqa: E402
from tada_jax.setup import build
from tada_jax.system import backend
from tada_jax.training.checkpoint import Checkpoints  # noqa: E402
from tada_jax.training.step import init_state  # noqa: E402


def main(repeats=5):
    """Prints median times."""
    parts = build.parts(ffhq64_tada.get_config("17m"), (64, 64, 3))
    mesh = backend.data_mesh(jax.device_count())
    whole = backend.replicated(mesh)
    state = jax.jit(lambda: init_state(parts, 0), out_shardings=whole)()
    jax.block_until_ready(state)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        times = {"stands still": [], "on disk after": [], "read and checked in": []}
        for step in range(repeats + 1):
            start = time.monotonic()
            checkpoints.save(step, state, {})
            times["stands still"].append(time.monotonic() - start)
            checkpoints.wait()
            times["on disk after"].append(time.monotonic() - start)
            start = time.monotonic()
            jax.block_until_ready(checkpoints.restore(step, state, whole))
            times["read and checked in"].append(time.monotonic() - start)
        checkpoints.close()
    device, gib = jax.devices()[0], backend.size_bytes(state) / backend.GIB
    print(
        f"{gib:.2f} GiB, median of {repeats} after a first one, "
        f"{jax.device_count()} x {device.device_kind}, {platform.machine()}, {os.cpu_count()} cores"
    )
    for name, seconds in times.items():
        print(f"{name:>20} {statistics.median(seconds[1:]):6.2f} s")


if __name__ == "__main__":
    main()
