"""Names of classes: addressed, refused, kept with a run."""

import jax
import numpy as np
import pytest

from tada_jax import data
from tada_jax.data import classes, order
from tada_jax.system.errors import UserError
from tests.data.cifar10_copies import binary, write_folder

# Classes


def test_cifar10_has_the_names_of_its_classes_in_the_digest_of_before(tmp_path, batches):
    dataset = data.load("cifar10", path=str(write_folder(tmp_path, batches, binary)))
    assert dataset.class_names[3] == "cat" and dataset.class_names[9] == "truck"
    nameless = data.Dataset("cifar10", dataset.train, dataset.test, 10, "")
    assert dataset.digest == nameless.digest
    # Names that a copy brings along belong to it.
    named = data.Dataset("x", dataset.train, dataset.test, 10, "", dataset.class_names)
    assert named.digest != nameless.digest


@pytest.mark.parametrize(
    ("names", "label", "number"),
    [
        (("0", "1", "2", "10"), "10", 3),
        (("0", "1", "2", "10"), 10, 3),
        (("1", "2", "3"), 2, 1),
        (("0", "2", "7"), "7", 2),
        (("001", "002", "010"), 2, 1),
        (("1", "01"), "01", 1),
        (("cat", "dog"), "dog", 1),
        (("cat", "dog"), 1, 1),
        (("cat", "dog"), "01", 1),
        (classes.names(10), 3, 3),
    ],
)
def test_a_class_is_addressed_by_its_name_or_else_its_number(names, label, number):
    assert classes.number_of(label, names) == number


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (("0", "2", "7"), 1, r"label='1' is none of the 3 classes: choose one of '0', '2', '7'$"),
        (("1", "2", "3"), 0, r"label='0'.*'1', '2', '3'$"),
        (("cat", "dog"), 2, r"label='2'.*'cat', 'dog', or its number, 0 to 1$"),
        (("cat", "dog"), -1, "label='-1'"),
        (("cat", "dog"), "Cat", "label='Cat'"),
        (("cat", "1"), "0", "'cat', '1'$"),  # which number would be meant is not clear
        (("01", "001"), "1", "'01', '001'$"),
        (("cat", "dog"), "9" * 5000, "none of the 2"),
        (tuple(f"c{i}" for i in range(99)), "x", r"'c0'.*'c5', \.\.\., 'c98', or"),
    ],
)
def test_an_unknown_class_is_refused_naming_those_there_are(names, label, message):
    with pytest.raises(UserError, match=message) as caught:
        classes.number_of(label, names)
    assert "\n" not in str(caught.value)


def test_balanced_order_passes_over_classes_without_training_images():
    labels = np.array([0] * 6 + [2] * 3 + [5])
    made = order.make("balanced", len(labels), labels)
    assert made.length == 6 * 3
    key = jax.random.key(0)
    two_epochs = jax.jit(lambda: order.batch_indices(key, 0, batch_size=36, order=made))()
    seen = labels[np.asarray(two_epochs)]
    assert np.bincount(seen).tolist() == [12, 0, 12, 0, 0, 12]
    assert (np.sort(seen.reshape(12, 3)) == [0, 2, 5]).all()  # each round has each class once


def test_the_classes_of_a_run_are_kept_and_read_again(tmp_path):
    labels = np.array([0, 0, 2, 2, 2])
    pixels = np.zeros((5, 8, 8, 1), np.uint8)
    train, test = data.Split(pixels[:3], labels[:3]), data.Split(pixels[3:], labels[3:])
    names = ("a", "\udcffb", "10")  # a file system may have such names
    dataset = data.Dataset("set", train, test, 3, "made up", names)
    assert [(one.train, one.held_out) for one in classes.of(dataset)] == [(2, 0), (0, 0), (1, 2)]
    classes.keep(dataset, tmp_path)
    assert classes.kept(tmp_path, names) == classes.of(dataset)
    bare = data.Dataset("set", data.Split(pixels, None), data.Split(pixels[:0], None), 0, "")
    classes.keep(bare, tmp_path)
    assert not list(tmp_path.iterdir())
    assert classes.kept(tmp_path, names)[2] == classes.Class(2, "10")


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "{}",
        "[1]",
        "[null]",
        '[{"number": 0, "name": "cat", "train": 1, "held_out": 0, "more": 1}]',
        '[{"number": 0, "name": "cat"}]',
        '[{"number": 0, "name": "dog", "train": 1, "held_out": 0}]',
    ],
)
def test_damaged_classes_are_refused(content, tmp_path):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UserError, match="classes.json is damaged"):
        classes.kept(tmp_path, ("cat",))
