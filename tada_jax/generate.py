"""Drawing samples from a trained network: in batches, over all devices, to files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax import backend, build, report, sampling
from tada_jax import workdir as workdirs
from tada_jax.checkpoint import Checkpoints
from tada_jax.errors import UserError


def make_sampler(parts, mesh):
    """`sample(params, options, *, count, seed=...)` -> uint8 [count,H,W,C] on the host.

    `options` is the configuration's section `sample`. Image i depends on (seed, i) only, however
    large the batches are; in a conditional network its class is i modulo the number of classes.
    """
    classes = parts.network.num_classes

    @functools.partial(jax.jit, out_shardings=backend.replicated(mesh))
    def sample_batch(params, keys, numbers):
        labels = numbers % classes if classes else None
        predict = lambda z, t: parts.network.apply(params, z, t, labels)  # noqa: E731
        return sampling.to_uint8(parts.sample(predict, keys))

    def sample(params, options, *, count, seed=None):
        seed = options.seed if seed is None else seed
        batch = -(-min(options.batch_size, count) // mesh.size) * mesh.size
        images = []
        for start in range(0, count, batch):
            keys = jax.device_put(
                sampling.sample_keys(seed, start, batch), backend.over_batch(mesh)
            )
            numbers = jax.device_put(start + jnp.arange(batch), backend.over_batch(mesh))
            images.append(jax.device_get(sample_batch(params, keys, numbers)))
        return np.concatenate(images)[:count]

    return sample


def sample(config, workdir):
    """Samples from the newest checkpoint in `workdir`: a PNG grid and an npz.

    The npz holds `arr_0`, uint8 [N,H,W,C], as other people's evaluators read it.

    Returns:
      (path of the PNG, path of the npz).

    Raises:
      UserError: if there is nothing to sample from.
    """
    from tada_jax.train import init_state  # train samples too; main never needs both ways

    build.check(config)
    workdir = workdirs.existing(config, workdir)
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.latest_step()
    if step is None:
        raise UserError(f"{workdir} holds no checkpoint yet: train first, with --mode=train")
    meta = checkpoints.meta()
    parts = build.parts(config, meta["image_shape"], meta["num_classes"])
    mesh = backend.data_mesh(jax.device_count())
    like = jax.eval_shape(lambda: init_state(parts, config.seed))
    state = checkpoints.restore(like, backend.replicated(mesh))
    checkpoints.close()

    c = config.sample
    images = make_sampler(parts, mesh)(
        state.ema_params if c.use_ema else state.params, c, count=c.count
    )
    kind = "ema" if c.use_ema else "raw"
    sampler = f"{c.sampler}{c.steps}{c.stride}" + (f"_eta{c.eta:g}" if c.sampler == "ddim" else "")
    name = f"{sampler}_{kind}_step{step:07d}_seed{c.seed}_n{c.count}"
    png, npz = (workdir / "samples" / f"{name}.{suffix}" for suffix in ("png", "npz"))
    report.save_png(png, report.grid(images[:256]))
    np.savez(npz, arr_0=images)
    return png, npz
