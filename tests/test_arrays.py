"""Images that are arrays already: .npy, .npz, and what tensorflow-datasets has prepared."""

import pathlib

import numpy as np
import pytest

from tada_jax import data
from tada_jax.data.base import Rows
from tada_jax.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 8, 6, 3), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def together(dataset):
    """All images in the order of the file."""
    images = np.concatenate([dataset.train.images[:], dataset.test.images[:]])
    return images[np.lexsort(images.reshape(len(images), -1).T)]


def in_order(images):
    return images[np.lexsort(images.reshape(len(images), -1).T)]


def test_a_npy_stays_on_disk(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES)
    dataset = data.load("images", path=str(tmp_path / "set.npy"), test_fraction=0.2)
    assert isinstance(dataset.train.images, Rows)
    assert dataset.train.images.shape == (16, 8, 6, 3) and len(dataset.test.images) == 4
    np.testing.assert_array_equal(together(dataset), in_order(IMAGES))
    assert "set.npy: 16 training + 4 held-out images, 8x6x3" in dataset.source


def test_grey_images_without_a_channel_axis(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES[..., 0])
    assert data.load("images", path=str(tmp_path / "set.npy")).train.images.shape[1:] == (8, 6, 1)


@pytest.mark.parametrize(
    ("names", "images"),
    [(("images", "labels"), 0), (("x", "y"), 0), (("arr_0", "arr_1"), 0), (("mine", "labels"), 0)],
)
def test_a_npz_by_its_usual_names(names, images, tmp_path):
    labels = np.array([7, 40] * 10)
    np.savez(tmp_path / "set.npz", **dict(zip(names, (IMAGES, labels))))
    dataset = data.load("images", path=str(tmp_path / "set.npz"), test_fraction=0.0)
    np.testing.assert_array_equal(dataset.train.images, IMAGES)
    np.testing.assert_array_equal(dataset.train.labels, [0, 1] * 10)
    assert dataset.class_names == ("7", "40") and dataset.num_classes == 2


def test_a_npz_with_a_test_split(tmp_path):
    np.savez(
        tmp_path / "set.npz",
        x_train=IMAGES[:15],
        y_train=np.arange(15) % 3,
        x_test=IMAGES[15:],
        y_test=np.array([2, 2, 0, 0, 2]),
    )
    dataset = data.load("images", path=str(tmp_path / "set.npz"))
    np.testing.assert_array_equal(dataset.test.images, IMAGES[15:])
    np.testing.assert_array_equal(dataset.test.labels, [2, 2, 0, 0, 2])


def test_transparent_pixels_show_the_background(tmp_path):
    images = np.zeros((4, 8, 8, 4), np.uint8)
    images[:, :4] = (10, 20, 30, 255)
    np.savez(tmp_path / "set.npz", images=images)
    dataset = data.load(
        "images", path=str(tmp_path / "set.npz"), background=(1, 2, 3), test_fraction=0.0
    )
    assert dataset.train.images[0, 0, 0].tolist() == [10, 20, 30]
    assert dataset.train.images[0, 7, 0].tolist() == [1, 2, 3]


def test_stated_sizes(tmp_path):
    np.save(tmp_path / "set.npy", IMAGES)
    path = str(tmp_path / "set.npy")
    shape = lambda **options: data.load("images", path=path, **options).train.images.shape[1:]  # noqa: E731
    assert shape() == (8, 6, 3)
    assert shape(channels=1) == (8, 6, 1)
    assert shape(resolution=6) == (6, 6, 3)
    assert shape(resolution=8, fit="pad") == (8, 8, 3)
    assert shape(resolution=12, fit="keep") == (16, 12, 3)
    cropped = data.load("images", path=path, resolution=6)
    np.testing.assert_array_equal(together(cropped), in_order(IMAGES[:, 1:7]))
    again = data.load("images", path=path, resolution=6)
    np.testing.assert_array_equal(together(cropped), together(again))


# tensorflow-datasets


@pytest.fixture
def prepare(tmp_path):
    """prepare(examples by split, **features) writes a prepared data set "flowers" 1.0.0."""
    import tensorflow_datasets as tfds

    def prepare(splits, labelled=True, file_format="array_record"):
        features = {"picture": tfds.features.Image()}
        if labelled:
            features["species"] = tfds.features.ClassLabel(names=["rose", "tulip"])

        with tfds.core.registered.skip_registration():  # every test has its own flowers

            class Flowers(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("1.0.0")
                pkg_dir_path = pathlib.Path(tmp_path)

                def _info(self):
                    return tfds.core.DatasetInfo(
                        builder=self, features=tfds.features.FeaturesDict(features)
                    )

                def _split_generators(self, dl_manager):
                    return {name: self._generate_examples(n) for name, n in splits.items()}

                def _generate_examples(self, examples):
                    for i, image in enumerate(examples):
                        yield i, {"picture": png(image)} | ({"species": i % 2} if labelled else {})

        builder = Flowers(data_dir=str(tmp_path / "tfds"), file_format=file_format)
        builder.download_and_prepare()
        return pathlib.Path(builder.data_dir)

    return prepare


def png(image):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def test_a_prepared_set_with_images_of_several_sizes(prepare):
    sizes = [(40, 50), (33, 70), (90, 45), (64, 64)] * 3
    examples = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    folder = prepare({"train": examples, "validation": examples[:4]})
    dataset = data.load("tfds:flowers")
    assert dataset.train.images.shape == (12, 32, 32, 3)  # median shorter side 42.5
    assert dataset.test.images.shape == (4, 32, 32, 3)
    assert dataset.class_names == ("rose", "tulip")
    assert sorted(dataset.train.labels) == [0] * 6 + [1] * 6
    same = data.load("tfds:flowers", path=str(folder), resolution=16)
    assert same.train.images.shape == (12, 16, 16, 3)


def test_a_prepared_set_without_labels_or_test_split(prepare):
    examples = [RNG.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(10)]
    prepare({"everything": examples}, labelled=False)
    dataset = data.load("tfds:flowers", test_fraction=0.2)
    assert dataset.num_classes == 0 and dataset.train.labels is None
    np.testing.assert_array_equal(together(dataset), in_order(np.stack(examples)))


def test_a_set_that_nobody_has_prepared():
    with pytest.raises(UserError, match="no prepared copy.*file_format='array_record'") as e:
        data.load("tfds:flowers")
    assert "\n" not in str(e.value)


def test_a_prepared_set_in_the_format_of_tensorflow(prepare, tmp_path):
    examples = [RNG.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(3)]
    folder = prepare({"train": examples})
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="without TensorFlow.*prepare it again"):
        data.load("tfds:flowers")
