"""Which examples make up a batch: a function of key and step, so that resuming is exact."""

import math

import jax
import jax.numpy as jnp


def batch_indices(
    key: jax.Array, step: jax.Array, *, batch_size: int, num_examples: int
) -> jax.Array:
    """Indices of the examples in batch `step`, without replacement within each epoch.

    Epoch e visits all examples in the order `permutation(fold_in(key, e), num_examples)`; batches
    cut the sequence of epochs into equal pieces, so one may hold the tail of an epoch and the head
    of the next, or several epochs. Meant for use inside a jitted step.

    Args:
      key: PRNG key of the whole run.
      step: int32 [], may be traced; any step from 0 to 2^31 - 1.
      batch_size: B.
      num_examples: N.

    Returns:
      int32 [B], each in [0, N).

    Raises:
      ValueError: unless B and N are positive and B * N < 2^31.
    """
    if batch_size < 1 or num_examples < 1 or batch_size * num_examples >= 2**31:
        raise ValueError(
            f"batch_size={batch_size} and num_examples={num_examples} must be positive "
            "and their product less than 2^31"
        )
    # The batch starts at step * B = epoch * N + offset; by parts, since step * B may overflow. The
    # number of an epoch may wrap around 2^32, which merely names its key.
    cycle, rest = jnp.divmod(jnp.asarray(step, jnp.int32), num_examples)
    carry, offset = jnp.divmod(rest * batch_size, num_examples)
    first_epoch = cycle.astype(jnp.uint32) * batch_size + carry.astype(jnp.uint32)

    largest_offset = num_examples - math.gcd(batch_size, num_examples)
    epochs_touched = -(-(largest_offset + batch_size) // num_examples)
    epochs = first_epoch + jnp.arange(epochs_touched, dtype=jnp.uint32)
    # Not vmap: under it, keys other than threefry draw an epoch's order by its place in `epochs`.
    orders = jax.lax.map(
        lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), num_examples), epochs
    )
    place = offset + jnp.arange(batch_size, dtype=jnp.int32)
    return orders[place // num_examples, place % num_examples].astype(jnp.int32)
