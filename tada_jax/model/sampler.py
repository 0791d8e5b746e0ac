"""Images from a trained network: in batches, over all devices; no files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.model import solvers
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.system.pixels import to_uint8


class NotFinite(UserError):
    """Samples with NaN or infinite pixels."""


def make_sampler(parts, mesh, *, batch_size, apply=None):
    """`sample(params, numbers, *, seed)` -> uint8 [n,H,W,C] on the host, for image numbers [n].

    Image i depends on (seed, i) only, however large the batches are; in a conditional network its
    class is number `parts.label`, or i modulo the number of classes. It raises `NotFinite` rather
    than return black images. `apply(params, z, t, labels)` may stand in for the network.

    Every batch is filled up to `batch_size`, rounded up to the devices: any number of images is
    drawn by one compiled program.
    """
    num_classes, apply = parts.network.num_classes, apply or parts.apply
    variance = parts.loss_options["variance"]
    batch = -(-batch_size // mesh.size) * mesh.size

    @functools.partial(jax.jit, out_shardings=backend.replicated(mesh))
    def sample_batch(params, numbers, seed):
        numbers = jax.lax.with_sharding_constraint(numbers, backend.over_batch(mesh))
        labels = None
        if num_classes:
            labels = (
                numbers % num_classes
                if parts.label is None
                else jnp.full_like(numbers, parts.label)
            )
        network = solvers.guided(functools.partial(apply, params), parts.guidance, variance)

        def predict(z, t):
            return network(z, t, labels)

        x = parts.sample(predict, solvers.sample_keys(seed, numbers))
        return to_uint8(x), jnp.isfinite(x).all((1, 2, 3))

    def sample(params, numbers, *, seed):
        numbers = np.asarray(numbers, np.int32)
        images = []
        for start in range(0, len(numbers), batch):
            chunk = numbers[start : start + batch]
            padded = np.resize(chunk, batch)
            drawn, finite = jax.device_get(sample_batch(params, padded, np.uint32(seed)))
            if not finite.all():
                raise NotFinite(
                    f"sample {padded[finite.argmin()]} is not finite: the parameters have diverged "
                    "or the sampler has; take an earlier checkpoint, another sampler, or "
                    "config.sample.clip_x0=True"
                )
            images.append(drawn[: len(chunk)])
        return np.concatenate(images)

    return sample
