"""How much memory training will take on one device, from shapes alone: nothing is compiled."""

import dataclasses

import jax
import jax.numpy as jnp

from tada_jax.system.backend import GIB, size_bytes
from tada_jax.training.step import loss_fn, state_shapes


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes on one device.

    Attributes:
      state: parameters, their average, and what the optimiser keeps.
      gradients: and the update that is made of them.
      activations: what the forward pass keeps for the backward pass; compilers fuse and
        rematerialise some of it, so that this is rather too much.
      images: the training set, if it lies on the device.
    """

    state: int
    gradients: int
    activations: int
    images: int

    @property
    def total(self):
        """All of it."""
        return sum(dataclasses.astuple(self))

    def __str__(self):
        parts = ", ".join(
            f"{name} {bytes_ / GIB:.2f}" for name, bytes_ in dataclasses.asdict(self).items()
        )
        return f"about {self.total / GIB:.2f} GiB a device: {parts}"


def estimate(parts, config, devices, image_bytes):
    """The `Estimate` of a run.

    Args:
      parts: the `build.Parts`.
      config: the run's, for its batch size.
      devices: over which a batch is spread, and perhaps the state (all but its smallest arrays).
      image_bytes: of the training set on each device; 0 if it stays on disk.
    """
    state = state_shapes(parts, config)
    batch = (max(1, (config.train.microbatch or config.train.batch_size) // devices),)
    labels = jax.ShapeDtypeStruct(batch, jnp.int32) if parts.network.num_classes else None

    def backward(params, rng, x0, labels):
        def loss(p):
            numbers = jnp.zeros(batch, jnp.int32)
            return loss_fn(p, rng, x0, labels, parts, numbers)["loss"].mean()

        return jax.vjp(loss, params)[1]  # a pytree: its leaves are what is kept

    rng = jax.eval_shape(lambda: jax.random.key(0))
    x0 = jax.ShapeDtypeStruct((*batch, *parts.image_shape), jnp.float32)
    kept = size_bytes(jax.eval_shape(backward, state.params, rng, x0, labels))
    params = size_bytes(state.params)
    held = size_bytes(state) // (devices if config.train.sharding == "fsdp" else 1)
    return Estimate(
        state=held,
        gradients=2 * params,
        activations=max(0, kept - params),  # the parameters are kept for the backward pass too
        images=image_bytes,
    )
