"""Which examples make up a batch: a function of key and step, so that resuming is exact."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.errors import UserError

ORDERS = ("shuffled", "balanced")


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """How an epoch runs through the examples.

    Attributes:
      length: examples in an epoch.
      draw: PRNG key -> int32 [length], the indices of one epoch; can be traced.
    """

    length: int
    draw: Callable[[jax.Array], jax.Array]


def shuffled(num_examples: int) -> Order:
    """Every example once an epoch, in random order."""
    return Order(num_examples, lambda key: jax.random.permutation(key, num_examples))


def balanced(labels: np.ndarray) -> Order:
    """Every class equally often: rounds of one example of each class, the classes in random order.

    An epoch has as many rounds as the largest class has examples. A smaller class goes through its
    examples in random order again and again, so within a class all come equally often, up to one.

    Args:
      labels: int [N].
    """
    classes, counts = np.unique(labels, return_counts=True)
    rounds = counts.max()
    members = np.full((len(classes), rounds), -1, np.int32)  # padded with -1
    for row, label in zip(members, classes):
        found = np.flatnonzero(labels == label)
        row[: len(found)] = found

    def draw(key):
        key_members, key_classes = jax.random.split(key)
        # The padding sorts behind every member, whose bits lose the highest.
        bits = jax.random.bits(key_members, members.shape) >> 1
        bits = jnp.where(members < 0, jnp.uint32(2**32 - 1), bits)
        orders = jnp.take_along_axis(jnp.asarray(members), jnp.argsort(bits, axis=1), axis=1)
        turns = np.arange(rounds)[None] % counts[:, None]  # [classes, rounds]
        by_round = jnp.take_along_axis(orders, jnp.asarray(turns), axis=1).T  # [rounds, classes]
        shuffled_classes = jnp.argsort(jax.random.bits(key_classes, by_round.shape), axis=1)
        return jnp.take_along_axis(by_round, shuffled_classes, axis=1).reshape(-1)

    return Order(int(rounds) * len(classes), draw)


def make(name: str, num_examples: int, labels: np.ndarray | None) -> Order:
    """The order called `name`, "shuffled" or "balanced".

    Raises:
      ValueError: unknown name, or "balanced" without labels.
    """
    if name not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {name!r}")
    if name == "shuffled":
        return shuffled(num_examples)
    if labels is None:
        raise ValueError("a balanced order needs labels, and this data set has none")
    return balanced(labels)


def batch_indices(key: jax.Array, step: jax.Array, *, batch_size: int, order: Order) -> jax.Array:
    """Indices of the examples in batch `step`.

    Epoch e visits the examples in the order `order.draw(fold_in(key, e))`; batches cut the sequence
    of epochs into equal pieces, so one may hold the tail of an epoch and the head of the next, or
    several epochs. Meant for use inside a jitted step; `HostBatches` gives the same on the host.

    Args:
      key: PRNG key of the whole run.
      step: int32 [], may be traced; any step from 0 to 2^31 - 1.
      batch_size: B.
      order: an `Order` of length L.

    Returns:
      int32 [B].

    Raises:
      ValueError: unless B and L are positive and B * L < 2^31.
    """
    length = order.length
    if batch_size < 1 or length < 1 or batch_size * length >= 2**31:
        raise ValueError(
            f"batch_size={batch_size} and the {length} examples of an epoch must be positive "
            "and their product less than 2^31"
        )
    # The batch starts at step * B = epoch * L + offset; by parts, since step * B may overflow. The
    # number of an epoch may wrap around 2^32, which merely names its key.
    cycle, rest = jnp.divmod(jnp.asarray(step, jnp.int32), length)
    carry, offset = jnp.divmod(rest * batch_size, length)
    first_epoch = cycle.astype(jnp.uint32) * batch_size + carry.astype(jnp.uint32)

    largest_offset = length - math.gcd(batch_size, length)
    epochs_touched = -(-(largest_offset + batch_size) // length)
    epochs = first_epoch + jnp.arange(epochs_touched, dtype=jnp.uint32)
    # Not vmap: under it, keys other than threefry draw an epoch's order by its place in `epochs`.
    orders = jax.lax.map(lambda epoch: order.draw(jax.random.fold_in(key, epoch)), epochs)
    place = offset + jnp.arange(batch_size, dtype=jnp.int32)
    return orders[place // length, place % length].astype(jnp.int32)


class HostBatches:
    """The indices of `batch_indices` as numpy arrays, each epoch drawn only once.

    Args:
      key, batch_size, order: as of `batch_indices`.
    """

    def __init__(self, key: jax.Array, *, batch_size: int, order: Order):
        self._batch_size, self._length = batch_size, order.length
        # On the CPU, beside whatever the accelerator does; keys give the same numbers everywhere.
        try:
            self._cpu = jax.local_devices(backend="cpu")[0]
        except RuntimeError as error:
            raise UserError(
                "images that do not fit the device (config.data.device_gib) need JAX's CPU "
                f"backend too: set JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')},cpu"
            ) from error
        key_data, impl = jax.device_get(jax.random.key_data(key)), jax.random.key_impl(key)
        draw = jax.jit(
            lambda epoch: order.draw(
                jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=impl), epoch)
            )
        )
        self._epoch = functools.lru_cache(2)(lambda epoch: np.asarray(draw(np.uint32(epoch))))

    def __call__(self, step: int) -> np.ndarray:
        """int [B], the examples of batch `step`."""
        place = step * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epochs, offsets = np.divmod(place, self._length)
        with jax.default_device(self._cpu):
            parts = [
                self._epoch(int(epoch) % 2**32)[offsets[epochs == epoch]]
                for epoch in np.unique(epochs)
            ]
        return np.concatenate(parts)
