"""Which examples make up a batch: a function of key and step, so that resuming is exact.

An epoch is never drawn as a whole: where an example comes is computed for the places of a batch
alone (`permuted`), since sorting 50,000 numbers takes a CPU longer than a small training step.
"""

import dataclasses
import math
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.system.errors import UserError

ORDERS = ("shuffled", "balanced")


_ROUNDS = 8  # of `permuted`, pairs of them; with 4 a handful of places is permuted unevenly


def _mix(x):
    """Scatters uint32 evenly, one to one: all bits of the result depend on all of x (Wellons)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def permuted(seed, place, count, which=None):
    """Where each place goes under a random permutation of `count` places.

    A generalised Feistel network (Black & Rogaway 2002) permutes a rectangle that holds the places:
    by turns, rows are shifted by what a hash makes of the column, and columns by one of the row. A
    place that leaves the first `count` goes on until it is back.

    Args:
      seed: uint32 [...,2], names the permutation.
      place: int32 [...], from 0 to count - 1.
      count: int of at least 1; or int [K], of which each place has its own:
      which: int32 [...], which of the K.

    Returns:
      int32 [...].
    """
    # On the host, where roots are exact. Even, since shifts in rows and columns of odd lengths are
    # even permutations, and so would be all that comes of them.
    count = np.asarray(count, np.int64)
    height = np.ceil(np.sqrt(count)).astype(np.int64)
    height += height % 2
    sides = (count, height, -(-count // height))
    count, height, width = (jnp.asarray(a, jnp.uint32) for a in sides)
    if which is not None:
        count, height, width = count[which], height[which], width[which]

    def hashed(number, turn):
        named = number + seed[..., 0] + jnp.uint32(0x9E3779B9) * turn
        return _mix(_mix(named) ^ seed[..., 1])

    def shifted(i, cell):
        row, column = cell
        row = (row + hashed(column, jnp.uint32(2) * i) % height) % height
        return row, (column + hashed(row, jnp.uint32(2) * i + jnp.uint32(1)) % width) % width

    def once(x):
        rounds = jnp.uint32(0), jnp.uint32(_ROUNDS)
        row, column = jax.lax.fori_loop(*rounds, shifted, (x // width, x % width))
        return row * width + column

    # Loops take less time to compile, and to run, than the same unrolled. All are moved once,
    # whether inside or not.
    def unfinished(state):
        x, begun = state
        return (x >= count) | ~begun

    def on(state):
        return jnp.where(unfinished(state), once(state[0]), state[0]), jnp.bool(True)

    place = jnp.asarray(place, jnp.uint32)
    start = place + jnp.zeros_like(seed[..., 0]), jnp.bool(False)  # which may be of more
    last, _ = jax.lax.while_loop(lambda state: unfinished(state).any(), on, start)
    return last.astype(jnp.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """How an epoch runs through the examples.

    Attributes:
      length: L, examples in an epoch.
      at: (seed uint32 [B,2] of each epoch, place int32 [B] in it) -> int32 [B], indices of
        examples; can be traced.
    """

    length: int
    at: Callable[[jax.Array, jax.Array], jax.Array]


def shuffled(num_examples: int) -> Order:
    """Every example once an epoch, in random order."""
    return Order(num_examples, lambda seed, place: permuted(seed, place, num_examples))


def balanced(labels: np.ndarray) -> Order:
    """Every class equally often: rounds of one example of each class, the classes in random order.

    An epoch has as many rounds as the largest class has examples. A smaller class goes through its
    examples again and again, each time in another random order, so that within a class all come
    equally often, up to one.

    Args:
      labels: int [N].
    """
    classes, counts = np.unique(labels, return_counts=True)
    # Examples of a class lie together, from its offset on.
    by_class = np.argsort(labels, kind="stable").astype(np.int32)
    offsets = np.cumsum(counts) - counts

    def named(seed, *numbers):
        """Other seeds, by numbers [B]."""
        for number in numbers:
            seed = _mix(seed ^ _mix(number.astype(jnp.uint32) + 1)[:, None])
        return seed

    def at(seed, place):
        turn, slot = jnp.divmod(place, len(classes))
        which = permuted(named(seed, turn), slot, len(classes))
        cycle, member = jnp.divmod(turn, jnp.asarray(counts, jnp.int32)[which])
        member = permuted(named(~seed, which, cycle), member, counts, which)
        return jnp.asarray(by_class)[jnp.asarray(offsets, jnp.int32)[which] + member]

    return Order(int(counts.max()) * len(classes), at)


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

    Epoch e visits the examples in the order that `epoch_seeds` name; batches cut the sequence of
    epochs into equal pieces, so one may hold the tail of an epoch and the head of the next, or
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
    place = offset + jnp.arange(batch_size, dtype=jnp.int32)
    seeds = epoch_seeds(key, epochs)[place // length]
    return order.at(seeds, place % length).astype(jnp.int32)


def epoch_seeds(key, epochs):
    """Names of the orders of epochs: uint32 [E] -> [E,2]."""
    # Not vmap: under it, keys other than threefry draw by the place in `epochs`.
    return jax.lax.map(lambda epoch: jax.random.bits(jax.random.fold_in(key, epoch), (2,)), epochs)


class HostBatches:
    """The indices of `batch_indices` as numpy arrays.

    Args:
      key, batch_size, order: as of `batch_indices`.
    """

    def __init__(self, key: jax.Array, *, batch_size: int, order: Order):
        # On the CPU, beside whatever the accelerator does; keys give the same numbers everywhere.
        try:
            self._cpu = jax.local_devices(backend="cpu")[0]
        except RuntimeError as error:
            raise UserError(
                "images that do not fit the device (config.data.device_gib) need JAX's CPU "
                f"backend too: set JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')},cpu"
            ) from error
        key_data, impl = jax.device_get(jax.random.key_data(key)), jax.random.key_impl(key)

        def own_key():
            return jax.random.wrap_key_data(key_data, impl=impl)

        self._batch = jax.jit(
            lambda step: batch_indices(own_key(), step, batch_size=batch_size, order=order)
        )

    def __call__(self, step: int) -> np.ndarray:
        """int32 [B], the examples of batch `step`."""
        with jax.default_device(self._cpu):
            return np.asarray(self._batch(np.int32(step)))
