"""Our own side of the benchmarks of speed: the training step that a run has."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tada_jax.data import order
from tada_jax.setup import build
from tada_jax.system import backend
from tada_jax.training.step import empty_tally, init_state, make_steps, resident_batches


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """Training steps of a configuration on random images.

    Attributes:
      call: does `steps` steps and returns when they are done.
      steps: in one call, as in a run on this machine.
      compiled: the program.
      parts, params: `build.Parts` and the first parameters, on the host.
    """

    call: Callable[[], None]
    steps: int
    compiled: Any
    parts: Any
    params: Any


def train_step(config, shape, *, images=1024):
    """The `TrainStep` of a configuration and images [H,W,C]; `images` are in the set."""
    mesh = backend.data_mesh(config.train.batch_size)
    everywhere, over_batch = backend.replicated(mesh), backend.over_batch(mesh)
    parts = build.parts(config, shape)
    drawn = np.random.default_rng(0).integers(0, 256, (images, *shape), np.uint8)
    data = backend.put_whole(drawn, mesh)
    fetch = resident_batches(config, order.shuffled(images), over_batch)
    seed = np.uint32(config.seed)
    count = config.train.steps_per_call or (1 if jax.default_backend() == "cpu" else 10)

    def init(s):
        return init_state(parts, s, widths=config.ema.widths)

    state = jax.jit(init, out_shardings=everywhere)(seed)
    tally = jax.jit(lambda: empty_tally(parts), out_shardings=everywhere)()
    params = jax.device_get(state.params)
    steps = make_steps(parts, config, mesh, fetch)
    compiled = steps.lower(state, tally, seed, data, None, count).compile()
    carry = [state, tally]

    def call():
        carry[:] = compiled(*carry, seed, data, None)
        jax.block_until_ready(carry)

    return TrainStep(call, count, compiled, parts, params)
