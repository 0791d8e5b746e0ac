"""Digits, held-out images, subsets, and what a data set may be asked for."""

import re
import subprocess
import sys

import numpy as np
import pytest

from tada_jax import data
from tada_jax.data.base import hold_out
from tests import tiny
from tests.data.cifar10_copies import one_line_error

# Digits, subsets and arguments


def test_digits():
    dataset = data.load("digits")
    images = np.concatenate([dataset.train.images, dataset.test.images])
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    assert set(np.unique(images)) <= {round(v * 255 / 16) for v in range(17)}
    assert dataset.train.labels.dtype == np.int32
    assert dataset.num_classes == 10


def test_digits_come_from_the_cache_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    first = data.load("digits").train.images
    (kept,) = (tmp_path / "cache").rglob("digits*.npz")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sklearn.datasets", None)
        np.testing.assert_array_equal(data.load("digits").train.images, first)
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(data.load("digits").train.images, first)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "file"))  # no place for a cache
    np.testing.assert_array_equal(data.load("digits").train.images, first)


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5])
def test_held_out_digits_are_stratified(fraction):
    dataset = data.load("digits", test_fraction=fraction)
    everything = np.bincount(np.concatenate([dataset.train.labels, dataset.test.labels]))
    held_out = np.bincount(dataset.test.labels, minlength=10)
    np.testing.assert_array_less(np.abs(held_out - fraction * everything), 1)
    assert len(dataset.test.images) == round(fraction * 1797)


def test_seed_determines_the_split_and_the_subset():
    first, again, other = (data.load("digits", train_size=50, seed=s) for s in (3, 3, 4))
    for split in ("train", "test"):
        images = [getattr(d, split).images for d in (first, again, other)]
        np.testing.assert_array_equal(images[0], images[1])
        assert images[0].shape != images[2].shape or (images[0] != images[2]).any()


def test_subsets_are_nested_and_leave_the_held_out_split_alone():
    small, large, full = (data.load("digits", train_size=n) for n in (200, 1000, None))
    np.testing.assert_array_equal(small.train.images, large.train.images[:200])
    np.testing.assert_array_equal(small.train.labels, large.train.labels[:200])
    for dataset in (small, large):
        np.testing.assert_array_equal(dataset.test.images, full.test.images)
    assert "training on 200" in small.source

    every = data.load("digits", train_size=len(full.train.images))
    np.testing.assert_array_equal(np.sort(every.train.labels), np.sort(full.train.labels))
    assert len(np.unique(every.train.images, axis=0)) == len(np.unique(full.train.images, axis=0))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "cifar"}, "choose one of: cifar10, digits"),
        ({"name": "digits", "path": "somewhere"}, "leave it out"),
        ({"name": "digits", "train_size": 1700}, "has 1617 training images"),
        ({"name": "digits", "train_size": 0}, "choose 1 to 1617"),
        ({"name": "digits", "test_fraction": 1}, "test_fraction=1"),
        ({"name": "digits", "seed": -1}, "seed=-1"),
    ],
)
def test_mistakes_in_arguments(arguments, expected):
    assert expected in one_line_error(**arguments)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("data", ("flax", "sklearn", "tensorflow", "tensorflow_datasets", "PIL")),
        ("training.loop", ("scipy", "sklearn", "tensorflow", "matplotlib", "orbax")),
    ],
)
def test_imports_are_lean(module, heavy):
    program = (
        f"import sys, tada_jax.{module}; heavy = {set(heavy)} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tiny.ROOT)


def test_a_stated_size_and_colour_hold_for_every_source():
    dataset = data.load("digits", resolution=16, channels=3, train_size=20)
    assert dataset.train.images.shape == (20, 16, 16, 3)
    assert dataset.test.images.shape[1:] == (16, 16, 3)
    plain = data.load("digits", train_size=20)
    halves = dataset.train.images.reshape(20, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.abs(halves[..., :1] - plain.train.images).mean() < 20  # the same digits
    assert (halves[..., 0] == halves[..., 2]).all()
    nothing = data.load("digits", resolution=16, test_fraction=0.0)
    assert nothing.test.images.shape == (0, 16, 16, 1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"channels": 2}, "data.channels=2"),
        ({"resolution": 0}, "data.resolution=0"),
        ({"fit": "stretch"}, "data.fit='stretch'.*crop"),
        ({"unreadable": "hide"}, "data.unreadable='hide'"),
        ({"background": (1, 2)}, "data.background"),
        ({"background": (1, 2, 256)}, "data.background"),
    ],
)
def test_options_that_cannot_be(option, message):
    assert re.search(message, one_line_error(name="digits", **option))


# The held-out split


def held_out_of_each(sizes, fraction, seed=0):
    """How many images of each class are held out, int [K]."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    examples = data.Split(np.arange(len(labels), dtype=np.int32)[:, None], labels)
    train, test = hold_out(examples, fraction, seed)
    together = np.concatenate([train.images, test.images])[:, 0]
    assert sorted(together) == list(range(len(labels)))
    for split in (train, test):
        assert (np.diff(split.images[:, 0]) > 0).all()  # the examples' order
        np.testing.assert_array_equal(split.labels, labels[split.images[:, 0]])
    return np.bincount(test.labels, minlength=len(sizes))


@pytest.mark.parametrize(
    ("sizes", "fraction", "total"),
    [
        ([5] * 20, 0.1, 10),  # of .5 each
        ([5] * 20, 0.2, 20),
        ([30] * 7, 0.1, 21),  # .1 x 30 in floating point is more than 3
        ([100, 3, 3, 3, 3, 3], 0.1, 12),  # 11.5, to even
        ([1] * 9 + [2], 0.5, 1),  # the last image of a class stays
        ([1] * 5, 0.9, 0),
        ([2, 2], 0.9, 2),
        ([3, 40, 500], 0.0, 0),
    ],
)
def test_small_classes_share_what_is_held_out(sizes, fraction, total):
    sizes = np.array(sizes)
    taken = held_out_of_each(sizes, fraction)
    assert taken.sum() == total
    assert (taken < sizes).all()
    assert (np.abs(taken - fraction * sizes) <= 1).all()


def test_any_sizes_give_the_share_of_the_whole():
    rng = np.random.default_rng(0)
    for seed in range(50):
        sizes, fraction = rng.integers(2, 40, 12), rng.uniform(0, 0.5)
        taken = held_out_of_each(sizes, fraction, seed)
        assert taken.sum() == round(fraction * sizes.sum())
        assert (np.floor(fraction * sizes) <= taken).all()
        assert (taken <= np.minimum(np.ceil(fraction * sizes), sizes - 1)).all()


def test_which_classes_hold_out_one_more_is_drawn_by_the_seed():
    draws = [held_out_of_each([5] * 20, 0.1, seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    over_seeds = np.mean([held_out_of_each([5] * 20, 0.1, seed) for seed in range(200)], axis=0)
    assert np.abs(over_seeds - 0.5).max() < 0.15  # 4.2 standard errors of .035


def test_without_labels_all_images_are_one_class():
    examples = data.Split(np.arange(10)[:, None], None)
    train, test = hold_out(examples, 0.1, 0)
    assert len(train.images) == 9 and len(test.images) == 1 and test.labels is None


def test_digits_hold_out_the_stated_share():
    dataset = data.load("digits", test_fraction=0.4)
    assert len(dataset.test.images) == 719  # 718.8
    share = np.bincount(dataset.test.labels) / np.bincount(
        np.concatenate([dataset.train.labels, dataset.test.labels])
    )
    assert np.abs(share - 0.4).max() < 1 / 174  # the smallest class has 174 images
