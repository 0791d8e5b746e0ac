"""The order of batches, on the device and on the host, and the thread that reads ahead."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tada_jax.data import Split
from tada_jax.data.base import Rows
from tada_jax.data.feed import Feed
from tada_jax.data.order import (
    HostBatches,
    balanced,
    batch_indices,
    epoch_seeds,
    make,
    permuted,
    shuffled,
)
from tada_jax.system import backend

KEY = jax.random.key(7)
SEEDS = jax.jit(epoch_seeds)
BATCH = jax.jit(batch_indices, static_argnames=("batch_size", "order"))


def epochs(key, order, first, count):
    """The examples of whole epochs, one after another."""
    numbers = ((first + np.arange(count)) % 2**32).astype(np.uint32)
    seeds = np.repeat(SEEDS(key, numbers), order.length, axis=0)
    places = np.tile(np.arange(order.length, dtype=np.int32), count)
    return np.asarray(jax.jit(order.at)(seeds, places))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 100, 1797])
def test_permutations_are_permutations(count):
    found = epochs(KEY, shuffled(count), 0, 4).reshape(4, count)
    for epoch in found:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(count))
    if count > 10:
        assert len({tuple(epoch) for epoch in found}) == 4
        assert abs(np.corrcoef(found[0], found[1])[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize("count", [3, 5, 6, 7])
def test_permutations_are_even(count):
    """All n! of them come equally often."""
    found = epochs(KEY, shuffled(count), 0, 40_000).reshape(-1, count)
    _, seen = np.unique(found, axis=0, return_counts=True)
    never = math.factorial(count) - len(seen)
    assert scipy.stats.chisquare(np.append(seen, [0] * never)).pvalue > 1e-4


@pytest.mark.parametrize("count", [10, 25, 100])
def test_every_pair_of_places_goes_everywhere(count):
    found = epochs(KEY, shuffled(count), 0, 40_000).reshape(-1, count)
    for a, b in ((0, 1), (count // 2, 3), (count - 1, count - 2)):
        pair = np.bincount(found[:, a] * count + found[:, b], minlength=count**2)
        apart = pair.reshape(count, count)[~np.eye(count, dtype=bool)]
        assert scipy.stats.chisquare(apart).pvalue > 1e-4


def test_one_place_goes_elsewhere_in_every_epoch():
    seeds = epoch_seeds(KEY, jnp.arange(9, dtype=jnp.uint32))
    found = np.asarray(permuted(seeds, jnp.int32(2), 50))
    each = [int(permuted(seed, jnp.int32(2), 50)) for seed in seeds]
    np.testing.assert_array_equal(found, each)
    assert len({*each}) > 5


def test_permutations_of_several_sizes_at_once():
    which = jnp.array([0, 0, 0, 1, 1, 1, 1, 1])
    places = jnp.array([0, 1, 2, 0, 1, 2, 3, 4])
    seeds = jnp.repeat(epoch_seeds(KEY, jnp.arange(1, dtype=jnp.uint32)), 8, axis=0)
    found = np.asarray(permuted(seeds, places, np.array([3, 5]), which))
    np.testing.assert_array_equal(found[:3], epochs(KEY, shuffled(3), 0, 1))
    np.testing.assert_array_equal(found[3:], epochs(KEY, shuffled(5), 0, 1))


@pytest.mark.parametrize(
    ("batch_size", "num_examples"), [(4, 12), (5, 12), (12, 12), (7, 3), (9, 3), (1, 5), (3, 1)]
)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_batches_cut_the_sequence_of_epochs(batch_size, num_examples, impl):
    key = jax.random.key(7, impl=impl)
    num_epochs = batch_size  # so that num_examples steps are whole epochs
    batch = jax.jit(
        lambda step: batch_indices(key, step, batch_size=batch_size, order=shuffled(num_examples))
    )
    seen = np.concatenate([batch(jnp.int32(step)) for step in range(num_examples)])
    assert seen.dtype == np.int32
    order = shuffled(num_examples)
    np.testing.assert_array_equal(seen, epochs(key, order, 0, num_epochs))
    for epoch in seen.reshape(num_epochs, num_examples):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


def test_jit_equals_eager_and_compiles_once():
    traces = []

    def batch(key, step):
        traces.append(1)
        return batch_indices(key, step, batch_size=5, order=shuffled(12))

    jitted = jax.jit(batch)
    for step in (0, 1, 2, 1000):
        expected = batch_indices(KEY, step, batch_size=5, order=shuffled(12))
        np.testing.assert_array_equal(jitted(KEY, jnp.int32(step)), expected)
    assert len(traces) == 1


@pytest.mark.parametrize(("batch_size", "num_examples"), [(128, 10), (100, 50_000), (7, 1797)])
def test_late_steps_do_not_overflow(batch_size, num_examples):
    for step in (2_000_000_000, 2**31 - 1):
        epoch, offset = divmod(step * batch_size, num_examples)
        whole = epochs(KEY, shuffled(num_examples), epoch, batch_size // num_examples + 2)
        expected = whole[offset : offset + batch_size]
        actual = BATCH(KEY, jnp.int32(step), batch_size=batch_size, order=shuffled(num_examples))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("batch_size", "num_examples"), [(0, 5), (5, 0), (2**16, 2**15)])
def test_impossible_batches(batch_size, num_examples):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} and the {num_examples}"):
        batch_indices(KEY, 0, batch_size=batch_size, order=shuffled(num_examples))


LABELS = np.array([0] * 7 + [2] * 3 + [5] * 1)


def test_a_balanced_epoch_has_every_class_equally_often_in_random_rounds():
    order = balanced(LABELS)
    assert order.length == 21
    found = epochs(KEY, order, 0, 20).reshape(20, 21)
    for epoch in found:
        rounds = LABELS[epoch].reshape(7, 3)
        np.testing.assert_array_equal(np.sort(rounds, 1), [[0, 2, 5]] * 7)
        times = np.bincount(epoch, minlength=11)
        assert (times[:7] == 1).all()  # the largest class: every member once
        assert sorted(times[7:10]) == [2, 2, 3] and times[10] == 7
    assert len({tuple(epoch) for epoch in found}) == 20
    first = LABELS[[epoch[0] for epoch in found]]
    assert set(first) == {0, 2, 5}  # no class always comes first


@pytest.mark.parametrize("order", [shuffled(11), balanced(LABELS)], ids=["shuffled", "balanced"])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_the_host_draws_the_same_batches(order, impl):
    key = jax.random.key(3, impl=impl)
    host = HostBatches(key, batch_size=16, order=order)
    device = jax.jit(lambda step: batch_indices(key, step, batch_size=16, order=order))
    for step in (0, 1, 2, 40, 7, 2**31 - 1):
        np.testing.assert_array_equal(host(step), device(jnp.int32(step)))


def test_orders_that_cannot_be():
    with pytest.raises(ValueError, match="needs labels"):
        make("balanced", 5, None)
    with pytest.raises(ValueError, match="sorted"):
        make("sorted", 5, None)


@pytest.fixture
def on_disk(tmp_path):
    """31 images of a memory-mapped file, of which every second is in the split."""
    images = np.random.default_rng(0).integers(0, 256, (31, 3, 5, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = Split(mapped, np.arange(31)).take(np.arange(0, 31, 2))
    assert isinstance(rows.images, Rows)
    return rows, images[::2]


def test_rows_of_a_file_are_like_an_array(on_disk):
    split, images = on_disk
    assert split.images.shape == images.shape and len(split.images) == 16
    np.testing.assert_array_equal(split.images[3:6], images[3:6])
    np.testing.assert_array_equal(split.images[np.array([5, 1])], images[[5, 1]])
    np.testing.assert_array_equal(np.asarray(split.images), images)
    np.testing.assert_array_equal(split.take(np.array([2, 0])).images[:], images[[2, 0]])


def test_the_feed_gives_the_batches_of_its_steps_over_all_devices(on_disk):
    split, images = on_disk
    batches = HostBatches(KEY, batch_size=8, order=shuffled(16))
    mesh = backend.data_mesh(8)
    feed = Feed(split, batches, backend.over_batch(mesh), first_step=5)
    for step in (5, 6, 7, 8, 9):
        x, y = next(feed)
        assert len(x.sharding.device_set) == 8
        np.testing.assert_array_equal(x, images[batches(step)])
        np.testing.assert_array_equal(y, np.arange(0, 31, 2)[batches(step)])
    feed.close()
    assert not feed._thread.is_alive()


def test_the_feed_hands_on_an_error_instead_of_hanging(on_disk):
    split, _ = on_disk

    def broken(step):
        raise OSError("the disk is gone")

    feed = Feed(split, broken, backend.over_batch(backend.data_mesh(8)))
    with pytest.raises(OSError, match="the disk is gone"):
        next(feed)
    feed.close()
