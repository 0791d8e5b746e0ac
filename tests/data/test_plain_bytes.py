"""MNIST's idx files, STL-10 and CIFAR-100, byte for byte by their layouts."""

import gzip
import struct

import numpy as np
import pytest

from tada_jax import data
from tada_jax.system.errors import UserError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (30, 28, 28), np.uint8), np.arange(30, dtype=np.uint8) % 10
TYPES = {"uint8": 8, "int16": 11, "float32": 13}


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, TYPES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist(folder, *, prefix="", dot="-", pack=lambda content: content, ending="", images=IMAGES):
    for part, rows in (("train", slice(20)), ("t10k", slice(20, 30))):
        for what, array in (("images", images), ("labels", LABELS)):
            name = f"{prefix}{part}-{what}{dot}idx{1 if what == 'labels' else 3}-ubyte{ending}"
            (folder / name).write_bytes(pack(idx(array[rows])))
    return folder


def load(path, **options):
    return data.load("images", path=str(path), **options)


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize(("pack", "ending"), [(lambda c: c, ""), (gzip.compress, ".gz")])
def test_mnist(folder, dot, pack, ending):
    found = load(mnist(folder, dot=dot, pack=pack, ending=ending))
    np.testing.assert_array_equal(found.train.images[:][..., 0], IMAGES[:20])
    np.testing.assert_array_equal(found.test.images[:][..., 0], IMAGES[20:])
    np.testing.assert_array_equal(found.train.labels, LABELS[:20])
    np.testing.assert_array_equal(found.test.labels, LABELS[20:])
    assert found.num_classes == 10 and "20 training + 10 held-out" in found.source
    assert not load(folder, labels="none").num_classes


def test_several_sets_in_a_folder_are_told_apart_by_the_file(folder):
    mnist(folder, prefix="emnist-letters-")
    mnist(folder, prefix="emnist-digits-", images=255 - IMAGES)
    with pytest.raises(
        UserError, match="holds 2 data sets .emnist-digits-, emnist-letters-.: name"
    ):
        load(folder)
    found = load(folder / "emnist-digits-train-images-idx3-ubyte")
    # EMNIST is published with rows and columns exchanged.
    np.testing.assert_array_equal(
        found.train.images[:][..., 0], 255 - IMAGES[:20].transpose(0, 2, 1)
    )


def test_other_types_of_values(folder):
    found = load(mnist(folder, images=(IMAGES / 255).astype(np.float32)))
    np.testing.assert_array_equal(found.train.images[:][..., 0], IMAGES[:20])
    found = load(mnist(folder, images=IMAGES.astype(np.int16) * 16))
    np.testing.assert_allclose(found.train.images[:][..., 0], IMAGES[:20], atol=1)


def test_images_alone_are_unlabelled_and_held_out(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    found = load(folder)
    assert len(found.train.images) == 27 and not found.num_classes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-5], "train-images-idx3-ubyte is no whole idx file"),
        (lambda content: content + b"\0", "is no whole idx file"),
        (lambda content: b"\1" + content[1:], "is no whole idx file"),
        (lambda content: content[:2], "is no whole idx file"),
        (lambda content: b"", "is no whole idx file"),
        (lambda content: content[:2] + b"\7" + content[3:], "is no whole idx file"),
    ],
)
def test_damaged_idx_files_are_named(folder, damage, message):
    file = mnist(folder) / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_damaged_gzip_is_named(folder):
    mnist(folder, pack=lambda content: gzip.compress(content)[:-9], ending=".gz")
    with pytest.raises(UserError, match="is no whole idx file"):
        load(folder)


def test_a_test_split_alone_is_no_data_set(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES))
    with pytest.raises(UserError, match="has no training images"):
        load(folder)


def test_stl_10(folder):
    images = RNG.integers(0, 256, (6, 96, 96, 3), np.uint8)
    for part, rows in (("train", slice(4)), ("test", slice(4, 6))):
        # Channel after channel, each column after column.
        (folder / f"{part}_X.bin").write_bytes(images[rows].transpose(0, 3, 2, 1).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([1, 10, 3, 3][: len(images[rows])]))
    (folder / "unlabeled_X.bin").write_bytes(images[:3].tobytes())
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    found = load(folder)
    np.testing.assert_array_equal(found.train.images[:], images[:4])
    np.testing.assert_array_equal(found.test.images[:], images[4:])
    assert found.class_names == ("airplane", "car", "truck")
    np.testing.assert_array_equal(found.train.labels, [0, 2, 1, 1])
    assert "left out: the 3 images of unlabeled_X.bin" in found.source


def test_cifar_100(folder):
    images, fine = RNG.integers(0, 256, (8, 32, 32, 3), np.uint8), [99, 0, 50, 0, 99, 50, 0, 99]
    rows = [
        bytes([3, label]) + image.transpose(2, 0, 1).tobytes() for label, image in zip(fine, images)
    ]
    (folder / "train.bin").write_bytes(b"".join(rows[:5]))
    (folder / "test.bin").write_bytes(b"".join(rows[5:]))
    (folder / "fine_label_names.txt").write_text("".join(f"thing {i}\n" for i in range(100)))
    found = load(folder)
    np.testing.assert_array_equal(found.train.images[:], images[:5])
    np.testing.assert_array_equal(found.test.images[:], images[5:])
    assert found.class_names == ("thing 0", "thing 50", "thing 99")
    np.testing.assert_array_equal(found.train.labels, [2, 0, 1, 0, 2])
    assert "20 coarse ones are left out" in found.source
    (folder / "train.bin").write_bytes(b"".join(rows[:5])[:-1])
    with pytest.raises(UserError, match="train.bin: has 15,369 bytes, which are no multiple"):
        load(folder)
