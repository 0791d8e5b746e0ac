"""Images from a trained network: in batches, over all devices; no files."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.model import solvers
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.system.memo import Memo
from tada_jax.system.pixels import to_uint8


class NotFinite(UserError):
    """Samples with NaN or infinite pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """`sample(params, numbers, *, seed)` -> uint8 [n,H,W,C] on the host, for image numbers [n].

    Attributes:
      program: (params, numbers int32 [batch], seed) -> (images, whether each is finite), compiled.
      batch: images that it draws at once.
    """

    program: Callable[..., tuple[jax.Array, jax.Array]]
    batch: int

    def __call__(self, params, numbers, *, seed):
        """Draws images.

        Raises:
          NotFinite: rather than return black images.
        """
        numbers = np.asarray(numbers, np.int32)
        images = []
        for start in range(0, len(numbers), self.batch):
            chunk = numbers[start : start + self.batch]
            padded = np.resize(chunk, self.batch)
            drawn, finite = jax.device_get(self.program(params, padded, np.uint32(seed)))
            if not finite.all():
                raise NotFinite(
                    f"sample {padded[finite.argmin()]} is not finite: the parameters have diverged "
                    "or the sampler has; take an earlier checkpoint, another sampler, or "
                    "config.sample.clip_x0=True"
                )
            images.append(drawn[: len(chunk)])
        return np.concatenate(images)


def make_sampler(parts, mesh, *, batch_size, apply=None):
    """The `Sampler` of a network.

    Image i depends on (seed, i) only, however large the batches are; in a conditional network its
    class is number `parts.label`, or i modulo the number of classes.

    Every batch is filled up to `batch_size`, rounded up to the devices: any number of images is
    drawn by one compiled program.

    Args:
      parts: the `build.Parts`.
      mesh: over which a batch is spread.
      batch_size: images at once.
      apply: (params, z, t, labels) -> output, may stand in for the network.
    """
    batch = -(-batch_size // mesh.size) * mesh.size
    if apply is not None:
        return Sampler(_program(parts, mesh, apply), batch)
    return Sampler(_PROGRAMS.get((parts, mesh), lambda: _program(parts, mesh, parts.apply)), batch)


_PROGRAMS = Memo()


def _program(parts, mesh, apply):
    num_classes, variance = parts.network.num_classes, parts.loss_options["variance"]

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

        with backend.traced_for(mesh):
            x = parts.sample(predict, solvers.sample_keys(seed, numbers))
        return to_uint8(x), jnp.isfinite(x).all((1, 2, 3))

    return sample_batch
